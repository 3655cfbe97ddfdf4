"""The gradient of each example alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

RANDOM = np.random.default_rng(0)
X, LABELS = jnp.asarray(RANDOM.normal(size=(7, 5)), jnp.float32), jnp.asarray(RANDOM.integers(0, 3, 7))


@partial(jax.jit, static_argnums=0, static_argnames="train")
def per_example(net, params, state, x, **options):
    return fnn.training.per_example_gradients(net, fnn.cross_entropy, params, state, x, LABELS, **options)


def test_they_are_those_of_batches_of_one_and_their_mean_is_the_batchs():
    net = fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))

    def loss(params, x, labels):
        return fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)

    losses, gradients = per_example(net, params, state, X)
    of_batch = jax.jit(jax.value_and_grad(loss))
    for n in (0, 6):
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

    labels = {"class": LABELS}
    found = jax.jit(lambda params: fnn.training.per_example_gradients(net, loss, params, state, X, labels))(params)
    jax.tree.map(np.testing.assert_allclose, found, per_example(net, params, state, X))


def test_layers_that_couple_the_batch_are_refused_by_name():
    net = fnn.chain(fnn.dense(4), fnn.chain(fnn.batch_norm(), fnn.relu), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))
    with pytest.raises(fnn.InputError, match="batch_norm_0: x: expected a whole batch"):
        per_example(net, params, state, X)
    evaluated = partial(per_example, net, train=False)
    assert jax.eval_shape(evaluated, params, state, X)[1]["dense_0"]["weight"].shape == (7, 5, 4)


def test_every_example_draws_its_own_noise():
    net = fnn.chain(fnn.dropout(0.5), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (5,))
    same = jnp.ones((7, 5))
    _, gradients = per_example(net, params, state, same, key=jax.random.key(1))
    assert len({(g == 0).tobytes() for g in np.asarray(gradients["dense_0"]["weight"])}) > 1
    with pytest.raises(fnn.InputError, match="dropout_0: key: expected a key"):
        per_example(net, params, state, same)
