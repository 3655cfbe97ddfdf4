"""The gradient of each example alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

RANDOM = np.random.default_rng(0)
X, LABELS = jnp.asarray(RANDOM.normal(size=(7, 5)), jnp.float32), jnp.asarray(RANDOM.integers(0, 3, 7))


def test_they_are_those_of_batches_of_one_and_their_mean_is_the_batchs():
    net = fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))

    def loss(params, x, labels):
        return fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)

    losses, gradients = fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, X, LABELS)
    of_batch = jax.jit(jax.value_and_grad(loss))
    for n in range(7):
        value, gradient = of_batch(params, X[n : n + 1], LABELS[n : n + 1])
        np.testing.assert_allclose(losses[n], value, rtol=1e-5)
        jax.tree.map(lambda a, b, n=n: np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-6), gradients, gradient)
    _, whole = of_batch(params, X, LABELS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.mean(0), b, rtol=1e-4, atol=1e-6), gradients, whole)


def test_a_loss_may_report_more_and_labels_may_be_a_dict():
    net = fnn.dense(3)
    params, state = net.init(jax.random.key(0), (5,))

    def loss(y, labels):
        value = fnn.cross_entropy(y, labels["class"])
        return value, {"classes": value}

    found = fnn.training.per_example_gradients(net, loss, params, state, X, {"class": LABELS})
    expected = fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, X, LABELS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_layers_that_couple_the_batch_are_refused_by_name():
    net = fnn.chain(fnn.dense(4), fnn.chain(fnn.batch_norm(), fnn.relu), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))
    for x, n in ((X, net), (jnp.ones((7, 2, 3, 5)), fnn.chain(fnn.batch_norm()))):
        p, s = (params, state) if n is net else n.init(jax.random.key(0), (2, 3, 5))
        labels = LABELS if n is net else jnp.zeros(x.shape)
        loss = fnn.cross_entropy if n is net else fnn.mean_squared_error
        with pytest.raises(fnn.InputError, match="batch_norm_0: x: expected a whole batch"):
            jax.jit(lambda p, n=n, s=s, x=x, y=labels, f=loss: fnn.training.per_example_gradients(n, f, p, s, x, y))(p)
    _, gradients = fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, X, LABELS, train=False)
    assert gradients["dense_0"]["weight"].shape == (7, 5, 4)


def test_every_example_draws_its_own_noise():
    net = fnn.chain(fnn.dropout(0.5), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))
    same = jnp.ones((7, 5)), jnp.zeros(7, jnp.int32)
    _, gradients = fnn.training.per_example_gradients(
        net, fnn.cross_entropy, params, state, *same, key=jax.random.key(1)
    )
    assert len({g.tobytes() for g in np.asarray(gradients["dense_0"]["weight"])}) > 1
    with pytest.raises(fnn.InputError, match="dropout_0: key: expected a key"):
        fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, *same)
