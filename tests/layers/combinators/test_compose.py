"""Composed networks: keys, state, masks and gradients of children that a plain function calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted, normal

import functional_nn as fnn

KEY = jax.random.key(0)


def vae_by_hand():
    """A variational autoencoder as a layer written by hand around two others, which calls them by its own names."""
    encoder, decoder = (fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(size)) for size in (4, 3))

    def init(key, in_shape):
        key_encoder, key_decoder = jax.random.split(key)
        params = {"encoder": encoder.init(key_encoder, (3,))[0], "decoder": decoder.init(key_decoder, (2,))[0]}
        return params, {}

    def forward(params, state, x, *, train, key=None):
        encoded, _ = encoder.apply(params["encoder"], {}, x, train=train)
        mean, log_variance = jnp.split(encoded, 2, axis=-1)
        y, _ = decoder.apply(params["decoder"], {}, mean, train=train)
        return (y, mean, log_variance), state, ()

    return fnn.Layer("vae", init, forward)


def test_summary_leaves_out_operations_that_nothing_uses():
    def forward(net, x):
        jnp.sin(x @ x.T)
        net.unused(x)
        return net.used(x)

    summary = fnn.summary(fnn.compose({"used": fnn.dense(2), "unused": fnn.dense(2)}, forward), (3,))
    assert [(row.layer, row.flops) for row in summary.rows] == [("unused", 0), ("used", 2 * 3 * 2 + 2)]
    assert summary.total.flops == 2 * 3 * 2 + 2
    assert summary.total.parameters == 2 * (3 * 2 + 2)


def test_summary_of_a_layer_written_by_hand_around_others():
    """The parameters of each row are those that its operations read, and equal names are not added up."""
    rows = fnn.summary(vae_by_hand(), (3,)).rows
    assert [tuple(row) for row in rows] == [
        ("encoder/dense_0", (5,), 20, 80, 35),
        ("tanh_0", (5,), 0, 0, 5),
        ("encoder/dense_1", (4,), 24, 96, 44),
        ("decoder/dense_0", (5,), 15, 60, 25),
        ("tanh_0", (5,), 0, 0, 5),
        ("decoder/dense_1", (3,), 18, 72, 33),
    ]
    assert fnn.summary(vae_by_hand(), (3,)).total[2:] == (77, 308, 147)
    in_chain = fnn.summary(fnn.chain(vae_by_hand(), lambda y: y[0], fnn.dense(2)), (3,))
    assert [row.layer for row in in_chain.rows][:2] == ["vae_0/encoder/dense_0", "vae_0/tanh_0"]
    assert in_chain.rows[-1][2] == 8


def test_every_call_of_a_child_draws_other_numbers_and_passes_its_state_on():
    def function(net, x):
        return net.drop(net.norm(x)), net.drop(net.norm(2 * x))

    net = jitted(fnn.compose({"norm": fnn.batch_norm(momentum=0.5), "drop": fnn.dropout(0.5)}, function))
    params, state = net.init(KEY, (3,))
    x = normal(50, 3)
    (first, second), new = net.apply(params, state, x, train=True, key=KEY)
    assert not np.array_equal(first == 0, second == 0)
    norm = jitted(fnn.batch_norm(momentum=0.5))
    _, once = norm.apply(params["norm"], state["norm"], x, train=True)
    _, twice = norm.apply(params["norm"], once, 2 * x, train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new["norm"], twice)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    # The first call has the key that a chain would give to a child of this name.
    alone, _ = fnn.chain(drop=fnn.dropout(0.5)).apply({}, {}, jnp.ones((50, 3)), train=True, key=KEY)
    np.testing.assert_array_equal(alone == 0, first == 0)


def test_masks_pass_through_children_and_function():
    def function(net, x):
        y = net.rnn(net.embed(x))
        return fnn.Masked(y.values * 2, y.mask), net.pool(y)

    children = {"embed": fnn.dense(4), "rnn": fnn.rnn(3, returns="sequence"), "pool": fnn.global_average_pool()}
    net = jitted(fnn.compose(children, function))
    params, state = net.init(KEY, fnn.Masked((5, 2), (5,)))
    mask = jnp.arange(5)[None] < jnp.array([[5], [2]])

    def outputs(padding):
        x = fnn.Masked(jnp.where(mask[:, :, None], normal(2, 5, 2), padding), mask)
        y, _, pullback = net.vjp(params, state, x, train=True)
        y_bar = fnn.Masked(jnp.ones_like(y[0].values), None), jnp.ones_like(y[1])
        params_bar, x_bar = pullback(y_bar)
        assert x_bar.mask is None
        return y[1], params_bar, x_bar.values

    expected, found = outputs(0.0), outputs(np.nan)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert not np.any(np.where(mask[:, :, None], 0, found[2]))


@pytest.mark.parametrize("operation", [lambda x: x + x, lambda x: 2 * x])
def test_a_masked_sequence_is_no_number(operation):
    """A named tuple would otherwise be joined with another one."""
    with pytest.raises(TypeError, match=r"Compute with its values, and put the mask back|unsupported operand"):
        operation(fnn.Masked(jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool)))


def test_a_composed_network_is_a_layer_like_any_other():
    """In a chain, repeated, with its formula as the derivative, under ``jit``, ``vmap`` and ``jax.checkpoint``."""
    gated = fnn.compose({"gate": fnn.dense(3), "value": fnn.dense(3)}, lambda net, x: x + net.value(x) * net.gate(x))
    net = fnn.chain(fnn.repeat(gated, 2), fnn.remat(gated), fnn.dense(1))
    params, state = jitted(net).init(KEY, (3,))
    x = normal(4, 3)

    def loss(layer):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(layer.apply(p, state, x, train=True)[0] ** 2)))

    expected = loss(net)(params, x)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    several = jax.vmap(loss(fnn.with_hand_vjp(net)), in_axes=(0, None))(members, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4), several, expected)


def test_unused_children_and_inputs_get_zeros_and_tokens_nothing():
    def function(net, x, *, train):
        y = net.used(x["a"]) + net.embedded(x["tokens"])
        net.ignored(x["b"])
        return y + net.in_training(x["a"]) if train else y

    children = {name: fnn.dense(2) for name in ("used", "ignored", "in_training")}
    net = fnn.compose(children | {"embedded": fnn.embedding(5, 2)}, function)
    params, state = net.init(KEY, {"a": (3,), "b": (3,), "tokens": ()})
    net = jitted(net)
    x = {"a": normal(2, 3), "b": normal(2, 3, seed=1), "tokens": jnp.array([4, 0])}
    for train in (True, False):
        y, _, pullback = net.vjp(params, state, x, train=train)
        params_bar, x_bar = pullback(jnp.ones_like(y))
        zero = {"ignored"} if train else {"ignored", "in_training"}
        assert {name for name, bar in params_bar.items() if not np.any(bar["weight"])} == zero
        assert jax.tree.structure(params_bar) == jax.tree.structure(params)
        assert np.any(x_bar["a"])
        assert not np.any(x_bar["b"])
        assert x_bar["tokens"] is None


def test_children_have_their_formulas_and_jax_differentiates_their_code():
    """A wrong formula is in the pullback, and not in ``jax.grad`` of ``apply``. A child without one is named."""
    dense = fnn.dense(3)

    def wrong(residuals, y_bar):
        return jax.tree.map(lambda bar: 7 * bar, dense.backward(residuals, y_bar))

    net = fnn.compose({"wrong": dense._replace(backward=wrong)}, lambda net, x: jnp.sin(net.wrong(x)))
    params, state = net.init(KEY, (2,))
    x = normal(5, 2)
    found = jax.jit(lambda p, x: net.vjp(p, state, x, train=True)[2](jnp.ones((5, 3))))(params, x)
    of_code = jax.jit(jax.grad(lambda p, x: net.apply(p, state, x, train=True)[0].sum(), (0, 1)))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 7 * b, rtol=1e-5), found, of_code)
    without = fnn.compose(
        {"first": dense, "last": dense._replace(backward=None)}, lambda net, x: net.last(net.first(x))
    )
    params, state = without.init(KEY, (2,))
    with pytest.raises(fnn.FormulaMissing, match=r"^last: this layer has no hand-derived backward pass"):
        without.vjp(params, state, x, train=True)[2](jnp.ones((5, 3)))


INSIDE = "outside of loops, branches, jit, vmap and derivatives, got a call of child inside one of them"

REFUSED = [
    (lambda net, x: x, "function: expected a call of every child: child, got none of child"),
    (lambda net, x: net.chidl(x), "expected a child's name, got 'chidl'. Did you mean child?"),
    (lambda net, x: jax.lax.cond(x.sum() > 0, net.child, lambda x: x, x), INSIDE),
]


@pytest.mark.parametrize(("function", "words"), REFUSED)
def test_functions_that_cannot_be_composed(function, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.compose({"child": fnn.dense(3)}, function).init(KEY, (3,))


def test_a_function_that_draws_numbers_needs_a_key():
    net = fnn.compose({}, lambda net, x, *, key: x + jax.random.normal(key, x.shape))
    assert fnn.summary(net, (3,)).total.output_shape == (3,)
    with pytest.raises(fnn.InputError, match="key: expected a key, since the function draws random numbers"):
        net.apply({}, {}, jnp.ones((2, 3)), train=False)
    assert net.apply({}, {}, jnp.ones((2, 3)), train=False, key=KEY)[0].shape == (2, 3)
