"""Training on the formula: second derivatives, and programs for every batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tests.contracts.composed import others_are_slow

import functional_nn as fnn

KEY = jax.random.key(0)
SMOOTH = {
    "dense": (fnn.chain(fnn.dense(4), fnn.tanh, fnn.dense(2)), (3,)),
    "lstm": (fnn.chain(fnn.lstm(2), fnn.dense(2)), (3, 2)),
    "conv": (fnn.chain(fnn.conv(2, 3), fnn.silu, fnn.flatten(), fnn.dense(2)), (4, 4, 1)),
    "batch_norm": (fnn.chain(fnn.dense(3), fnn.batch_norm(), fnn.softplus), (3,)),
}


def loss_of(layer, state, x):
    return lambda params: jnp.sum(layer.apply(params, state, x, train=True)[0] ** 3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", **others_are_slow(SMOOTH, SMOOTH.keys() - {"lstm"}))
def test_second_derivatives_are_those_of_automatic_differentiation(name):
    """Grad of grad, and a Hessian-vector product, with two copies of one network: by formula and by ``jax.grad``."""
    plain, in_shape = SMOOTH[name]
    params, state = jax.tree.map(lambda leaf: leaf.astype(float), plain.init(KEY, in_shape))
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(3, *in_shape)))
    vector = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)

    def products(layer):
        loss = loss_of(layer, state, x)

        def along(params):
            terms = jax.tree.map(lambda a, b: jnp.sum(a * b), jax.grad(loss)(params), vector)
            return sum(jax.tree.leaves(terms))

        def squared(params):
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(params)))

        return jax.jit(lambda params: (jax.grad(along)(params), jax.grad(squared)(params)))(params)

    ours, theirs = products(fnn.with_hand_vjp(plain)), products(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), ours, theirs)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(ours))


def test_forward_mode_is_jax_s_error():
    layer = fnn.with_hand_vjp(fnn.dense(2))
    params, state = layer.init(KEY, (3,))
    with pytest.raises(TypeError, match="forward-mode autodiff"):
        jax.jvp(loss_of(layer, state, jnp.ones((1, 3))), (params,), (params,))


@pytest.mark.parametrize(
    ("net", "in_shape"),
    [
        (fnn.model("lstm", 3, hidden=(4,)), (5, 3)),
        pytest.param(fnn.chain(fnn.gru(3, returns="sequence"), fnn.rnn(2)), (5, 3), marks=pytest.mark.slow),
        (fnn.model("cnn", 3, hidden=(2, 4)), (8, 8, 1)),
        (fnn.chain(fnn.dense(3), fnn.batch_norm(), fnn.relu), (4,)),
    ],
    ids=["lstm", "gru_rnn", "cnn", "batch_norm"],
)
def test_gradients_are_exported_for_every_batch_size(net, in_shape):
    params, state = net.init(KEY, in_shape)
    layer = fnn.with_hand_vjp(net)

    @jax.jit
    def gradients(params, x):
        return jax.grad(loss_of(layer, state, x))(params)

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(gradients)(params, jax.ShapeDtypeStruct((batch, *in_shape), jnp.float32))
    for size in (2, 5):
        x = jnp.asarray(np.random.default_rng(size).normal(size=(size, *in_shape)), jnp.float32)
        ours, theirs = exported.call(params, x), gradients(params, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
