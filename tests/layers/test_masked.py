"""What stands on padding never matters: neither to outputs nor to gradients, whatever layers a sequence passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

KEY = jax.random.key(0)
MASK = jnp.array([[True, True, True, False], [True, False, False, False]])
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)

NETWORKS = {
    "dense_lstm": fnn.chain(fnn.dense(4), fnn.lstm(3)),
    "conv_pool": fnn.chain(fnn.conv(4, 3), fnn.relu, fnn.conv(2, 3), fnn.global_average_pool()),
    "norm_attention": fnn.chain(fnn.layer_norm(), fnn.batch_norm(), fnn.attention(1), fnn.global_max_pool()),
    "repeat_residual": fnn.chain(fnn.repeat(fnn.residual(fnn.conv(3, 3)), 2), fnn.gru(2)),
    "bidirectional": fnn.chain(fnn.bidirectional(fnn.rnn(2, returns="sequence")), fnn.dense(3), fnn.rnn(2)),
}


def padded_with(value):
    return fnn.Masked(jnp.where(MASK[:, :, None], VALUES, value), MASK)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_nothing(name):
    net = NETWORKS[name]
    params, state = net.init(KEY, (4, 3))

    @jax.jit
    def results(x):
        y, _, pullback = net.vjp(params, state, x, train=True)

        def loss(params, values):
            return jnp.sum(net.apply(params, state, x._replace(values=values), train=True)[0])

        return y, pullback(jnp.ones_like(y)), jax.grad(loss, argnums=(0, 1))(params, x.values)

    expected = results(padded_with(0.0))
    for padding in (100.0, np.nan):
        found = results(padded_with(padding))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
        _, (_, x_bar), (_, values_bar) = found
        for bar in (x_bar.values, values_bar):
            assert not np.any(np.where(MASK[:, :, None], 0, bar))


@pytest.mark.parametrize("pool", [fnn.max_pool(3, stride=1, padding="same"), fnn.average_pool(2)])
def test_windows_do_not_pool_over_padding(pool):
    with pytest.raises(fnn.InputError, match="pool_0: x: expected images or sequences without a mask"):
        fnn.chain(pool).apply({}, {}, padded_with(0.0), train=False)


@pytest.mark.parametrize("mask", [MASK.astype(float), MASK[..., None], MASK[:, :1]], ids=["float", "3 axes", "short"])
def test_a_layer_without_masks_checks_the_mask_too(mask):
    with pytest.raises(fnn.InputError, match=r"relu_0: mask: expected booleans of shape \(2, 4\)"):
        fnn.chain(fnn.relu).apply({}, {}, fnn.Masked(VALUES, mask), train=False)


def test_a_layer_with_two_outputs_takes_no_mask():
    with pytest.raises(fnn.InputError, match="output: expected one array that keeps the axes"):
        fnn.chain(lambda x: (x, x)).apply({}, {}, padded_with(0.0), train=False)


def test_padding_tokens_need_not_be_tokens():
    net = fnn.chain(fnn.embedding(5, 3), fnn.global_average_pool(), fnn.dense(2))
    params, state = net.init(KEY, (4,))
    tokens = jnp.where(MASK, 2, -1)
    y, _ = net.apply(params, state, fnn.Masked(tokens, MASK), train=False)
    expected, _ = net.apply(params, state, fnn.Masked(jnp.full_like(tokens, 2), MASK), train=False)
    np.testing.assert_array_equal(y, expected)
    given = fnn.training.predict_probabilities(
        net, params, state, fnn.Masked(np.asarray(tokens), np.asarray(MASK)), batch_size=1
    )
    np.testing.assert_allclose(given, jax.nn.softmax(expected), rtol=1e-6)


@pytest.mark.slow
def test_sums_of_sixteen_bit_numbers():
    """Means that fit a type whose sums do not."""
    x = jnp.full((1, 64, 64, 1), 30.0, jnp.float16)
    for pool in (fnn.global_average_pool(), fnn.average_pool(64)):
        np.testing.assert_allclose(pool.apply({}, {}, x, train=False)[0].ravel(), 30.0, rtol=0.02)
    long = fnn.Masked(jnp.ones((1, 4096, 1), jnp.bfloat16), jnp.ones((1, 4096), bool))
    assert fnn.global_average_pool().apply({}, {}, long, train=False)[0].item() == 1
    y = jnp.full((70_000, 1), 0.1, jnp.float16)
    assert np.isclose(fnn.mean_squared_error(y, jnp.zeros_like(y)), 0.01, rtol=1e-2)
    assert fnn.mean_squared_error.gradient(y, jnp.zeros_like(y)).dtype == jnp.float16
    tokens, bar = jnp.zeros((1, 4096), jnp.int32), jnp.ones((1, 4096, 1), jnp.bfloat16)
    assert fnn.embedding(1, 1).backward(tokens, bar)[0]["weight"].item() == 4096


def test_a_frozen_embedding_computes_in_the_type_of_the_others():
    net = fnn.frozen(fnn.chain(fnn.embedding(5, 4), fnn.lstm(3), fnn.dense(2)), "embedding_0/*")
    params, state = net.init(KEY, (4,))
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert net.apply(low, state, jnp.zeros((2, 4), jnp.int32), train=False)[0].dtype == jnp.bfloat16


def test_repeat_outside_jit_compiles_once():
    net = fnn.repeat(fnn.residual(fnn.dense(3)), 2)
    params, state = net.init(KEY, (3,))
    traces = []
    counted = fnn.repeat(fnn.residual(fnn.chain(lambda x: traces.append(x) or x, fnn.dense(3))), 2)
    wrapped = {"residual_0": {"chain_0": params["residual_0"]}}
    for _ in range(3):
        counted.apply(wrapped, state, jnp.ones((2, 3)), train=True)
    assert len(traces) == 1


def test_networks_that_begin_with_a_function_of_tokens():
    table = jnp.ones((5, 2))
    params, _ = fnn.chain(lambda x: table[x], fnn.dense(3)).init(KEY, (4,))
    assert params["dense_0"]["weight"].shape == (2, 3)


def test_several_inputs_where_one_is_expected():
    pair = jnp.ones((2, 4, 3)), jnp.ones((2, 5, 3))
    net = fnn.chain(fnn.residual(fnn.attention(1)))
    params, state = fnn.residual(fnn.attention(1)).init(KEY, (4, 3))
    with pytest.raises(fnn.InputError, match="residual_0: layers: expected layers with one output each"):
        net.apply({"residual_0": params}, state, pair, train=False)
    with pytest.raises(fnn.InputError, match="x: expected one sequence"):
        fnn.bidirectional(fnn.gru(3, initial_state="given")).init(KEY, ((4, 3), (3,)))


def test_summary_of_reversed_layers_has_their_parameters():
    rows = fnn.summary(fnn.chain(fnn.bidirectional(fnn.lstm(3)), fnn.dense(2)), (7, 4)).rows
    assert [(row.layer, row.parameters) for row in rows if "reversed" in row.layer] == [
        ("bidirectional_0/reversed_0", 96)
    ]
