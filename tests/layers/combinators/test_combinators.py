"""Parallel, residual, reversed, repeated: what they compute, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tests.layers.jitted import drawn, jitted, normal

import functional_nn as fnn
from functional_nn.core import trees
from functional_nn.core.layer import stateless

KEY = jax.random.key(0)


def test_parallel_combines_its_members_outputs():
    x = np.asarray(normal(7, 5))
    combiners = {"sum": np.add, "product": np.multiply, "concatenate": lambda a, b: np.concatenate([a, b], -1)}
    for combine, expected in combiners.items():
        net = jitted(fnn.parallel(fnn.dense(3), fnn.chain(fnn.dense(3), fnn.tanh), combine=combine))
        params, state = jax.tree.map(np.asarray, drawn(net, (5,)))
        a, b = (x @ dense["weight"] + dense["bias"] for dense in (params["dense_0"], params["chain_0"]["dense_0"]))
        y, _ = net.apply(params, state, x, train=False)
        np.testing.assert_allclose(y, expected(a, np.tanh(b)), rtol=1e-5, atol=1e-6)


def test_residual_of_several_layers_has_no_level_in_between():
    net = jitted(fnn.residual(fnn.dense(5), fnn.tanh, last=fnn.dense(3), shortcut=fnn.dense(3, bias=False)))
    params, state = net.init(KEY, (5,))
    names = ["dense_0/bias", "dense_0/weight", "last/bias", "last/weight", "shortcut/weight"]
    assert sorted(fnn.trees.flatten(params)) == names
    assert repr(net) == "residual(dense_0, tanh_0, last, shortcut)"
    x = normal(7, 5)
    inner = np.tanh(x @ params["dense_0"]["weight"]) @ params["last"]["weight"]
    expected = inner + x @ params["shortcut"]["weight"]
    np.testing.assert_allclose(net.apply(params, state, x, train=False)[0], expected, rtol=1e-4, atol=1e-5)
    assert [row.layer for row in fnn.summary(net, (5,)).rows] == ["dense_0", "tanh_0", "last", "shortcut"]


def test_reverse_time_reads_from_the_end_and_turns_a_sequence_back():
    running = stateless("sum", lambda x: (jnp.cumsum(x, axis=1), ()), None)
    last = stateless("last", lambda x: (x[:, -1], ()), None)
    x = normal(2, 5, 3)
    np.testing.assert_allclose(
        fnn.reverse_time(running).apply({}, {}, x, train=False)[0],
        np.cumsum(np.asarray(x)[:, ::-1], axis=1)[:, ::-1],
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(fnn.reverse_time(last).apply({}, {}, x, train=False)[0], x[:, 0])


def test_reverse_time_refuses_an_output_that_may_be_a_sequence():
    flat, images = fnn.flatten(keep=1), normal(2, 3, 2, 1)
    with pytest.raises(fnn.InputError, match=r"layer: expected an output of 4 axes .*, got shapes \(2, 3, 2, 1\) of x"):
        fnn.reverse_time(flat).apply({}, {}, images, train=False)
    # A mask says what a sequence is.
    masked = fnn.Masked(images, jnp.ones((2, 3), bool))
    y, _ = fnn.reverse_time(flat).apply({}, {}, masked, train=False)
    np.testing.assert_array_equal(y.values, images[..., 0])
    # With fewer steps than x, the output is no sequence.
    last = stateless("last", lambda x: (x[:, -1], ()), None)
    np.testing.assert_array_equal(fnn.reverse_time(last).apply({}, {}, images, train=False)[0], images[:, 0])


def test_repeat_is_a_chain_of_its_slices():
    block = fnn.chain(fnn.dense(5), fnn.tanh)
    net = jitted(fnn.repeat(block, 3))
    params, state = net.init(KEY, (5,))
    x = normal(7, 5)
    expected = x
    for i in range(3):
        expected, _ = block.apply(jax.tree.map(lambda leaf, i=i: leaf[i], params["chain_0"]), {}, expected, train=False)
    weight = params["chain_0"]["dense_0"]["weight"]
    np.testing.assert_allclose(net.apply(params, state, x, train=False)[0], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(weight[0], weight[1])


def test_repeat_needs_an_input_of_the_type_of_its_output():
    net = fnn.chain(fnn.repeat(fnn.residual(fnn.dense(5)), 2))
    params, _ = net.init(KEY, (5,))
    words = (
        r"repeat_0: x: expected an input like the output, .*float32 of shape \(7, 5\), got .*bfloat16 of shape \(7, 5\)"
    )
    with pytest.raises(fnn.InputError, match=words), jax.numpy_dtype_promotion("standard"):
        net.apply(params, {}, jnp.ones((7, 5), jnp.bfloat16), train=False)


def test_repeat_traces_its_layer_once_however_deep():
    traces = []

    def counted(x):
        traces.append(x)
        return x

    for count in (2, 24):
        net = fnn.repeat(fnn.chain(counted, fnn.dense(5)), count)
        params, state = drawn(net, (5,))
        traces.clear()
        jax.jit(lambda p, s, x, net=net: net.apply(p, s, x, train=True)[0]).lower(params, state, normal(7, 5))
        assert len(traces) == 1


def test_residuals_of_repeat_cost_nothing_when_unused():
    """The compiled ``apply`` of many repetitions needs no more scratch memory than that of a few."""

    def scratch(count):
        net = fnn.repeat(fnn.chain(fnn.dense(64), fnn.tanh), count)
        params, state = drawn(net, (64,))
        compiled = jax.jit(lambda p, x: net.apply(p, state, x, train=True)[0]).lower(params, normal(128, 64)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert scratch(9) <= scratch(2) + 4096


def test_remat_keeps_less_and_computes_the_same():
    block = fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(5), fnn.tanh)
    plain, frugal = fnn.chain(block, block), fnn.chain(fnn.remat(block), fnn.remat(block))
    params, state = drawn(plain, (5,))
    assert jax.tree.structure(drawn(frugal, (5,))) == jax.tree.structure((params, state))
    x = normal(7, 5)

    def loss(net):
        return lambda p, x: jnp.sum(net.apply(p, state, x, train=True)[0])

    gradients = [jax.jit(jax.grad(loss(net)))(params, x) for net in (plain, frugal)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss(frugal)))(params, x))
    pullbacks = [jax.eval_shape(lambda net=net: net.vjp(params, state, x, train=True)[2]) for net in (plain, frugal)]
    kept, kept_by_remat = (sum(leaf.size for leaf in jax.tree.leaves(pullback)) for pullback in pullbacks)
    assert kept_by_remat < kept


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"dense_1": "dense_2"}, r"got dense_1 \(bias \(5,\), weight \(5, 5\)\) and dense_2 \(bias \(3,\), weight"),
        ({"dense_9": "dense_0"}, r"got dense_9 \(nothing\) and dense_0"),
        ({"dense_1": "dense_0", "dense_2": "dense_1"}, "expected a source for dense_2 that is not itself a use"),
    ],
)
def test_places_that_cannot_be_shared(places, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.shared(fnn.chain(fnn.dense(5), fnn.dense(5), fnn.dense(3)), places).init(KEY, (5,))


def without_gradient_of_a():
    """x a + b, with None as the cotangent of a."""

    def init(key, in_shape):
        return {"a": jnp.ones(3), "b": jnp.ones(3)}, {}

    def forward(params, state, x, *, train, key=None):
        return x * params["a"][None] + params["b"][None], state, ()

    return fnn.Layer("partial", init, forward, lambda nothing, y_bar: ({"a": None, "b": y_bar.sum(0)}, y_bar))


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (fnn.shared(without_gradient_of_a(), {"a": "b"}), {"b": 2}),
        (
            fnn.shared(fnn.chain(without_gradient_of_a(), without_gradient_of_a()), {"partial_1": "partial_0"}),
            {"partial_0": {"a": 0, "b": 4}},
        ),
        (fnn.frozen(without_gradient_of_a(), "b"), {"a": 0}),
    ],
    ids=["none at the use", "none at both", "none trained"],
)
def test_no_gradient_is_none_where_parameters_are_shared_or_frozen(net, expected):
    params, state = net.init(KEY, (3,))
    bars = jax.grad(lambda p: fnn.with_hand_vjp(net).apply(p, state, jnp.ones((2, 3)), train=True)[0].sum())(params)
    jax.tree.map(lambda bar, number: np.testing.assert_array_equal(bar, np.full(3, number, np.float32)), bars, expected)


def test_frozen_parameters_neither_move_nor_decay_nor_take_memory():
    import optax

    net = fnn.frozen(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)), "dense_0/*")
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    start = fnn.training.create_train_state(net, optimizer, KEY, (4,))
    step = fnn.training.make_train_step(net, fnn.cross_entropy, optimizer)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        after, _ = jax.jit(step)(start, normal(7, 4), jnp.zeros(7, jnp.int32))
    for path, leaf in trees.flatten(start.state["frozen"]).items():
        np.testing.assert_array_equal(leaf, trees.flatten(after.state["frozen"])[path])
    assert not np.allclose(start.params["dense_1"]["weight"], after.params["dense_1"]["weight"])
    assert sorted(after.params) == ["dense_1"]
    moments = [leaf.shape for leaf in jax.tree.leaves(after.optimizer_state) if leaf.ndim]
    assert (4, 3) not in moments


def test_frozen_parameters_start_with_trained_values():
    """The head has other classes and starts anew. What is frozen must be among the trained ones, in its shape."""
    trained, _ = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)).init(KEY, (4,))
    net = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(5))
    params, state = fnn.frozen(net, "dense_0/weight", start=trained).init(jax.random.key(9), (4,))
    np.testing.assert_array_equal(state["frozen"]["dense_0"]["weight"], trained["dense_0"]["weight"])
    np.testing.assert_array_equal(params["dense_0"]["bias"], trained["dense_0"]["bias"])
    assert params["dense_1"]["weight"].shape == (3, 5)
    with pytest.raises(fnn.InputError, match=r"start: expected trained values of all frozen .*none for dense_1/bias"):
        fnn.frozen(net, "dense_1/bias", start=trained).init(KEY, (4,))


def test_a_layer_that_drops_the_time_axis_takes_no_mask():
    net = fnn.chain(fnn.flatten())
    with pytest.raises(fnn.InputError, match=r"output: expected one array that keeps the axes \(batch, time\)"):
        net.apply({}, {}, fnn.Masked(normal(2, 3, 5), jnp.ones((2, 3), bool)), train=False)


@pytest.mark.parametrize(
    ("net", "in_shape"),
    [
        (fnn.chain(fnn.lstm(2), fnn.dense(2), fnn.batch_norm()), (5, 3)),
        (fnn.chain(fnn.conv(2, 3), fnn.max_pool(2), fnn.flatten(), fnn.dense(3)), (4, 4, 1)),
    ],
    ids=["lstm", "cnn"],
)
def test_gradients_are_exported_for_every_batch_size(net, in_shape):
    params, state = drawn(net, in_shape)
    layer = fnn.with_hand_vjp(net)

    @jax.jit
    def gradients(params, x):
        return jax.grad(lambda params: jnp.sum(layer.apply(params, state, x, train=True)[0] ** 3))(params)

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(gradients)(params, jax.ShapeDtypeStruct((batch, *in_shape), jnp.float32))
    x = normal(5, *in_shape)
    ours, theirs = exported.call(params, x), gradients(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
