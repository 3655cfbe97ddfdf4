"""Recurrent layers against plain NumPy loops; masks, states, stacks, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import drawn, jitted

import functional_nn as fnn

BATCH, TIME, IN, HIDDEN = 5, 7, 3, 2
LENGTHS = np.array([7, 1, 4, 0, 6])
KINDS = {
    "rnn": (fnn.rnn, fnn.rnn_cell),
    "lstm": (fnn.lstm, fnn.lstm_cell),
    "gru": (fnn.gru, fnn.gru_cell),
    "gru_reset_before": tuple(functools.partial(make, reset_after=False) for make in (fnn.gru, fnn.gru_cell)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn_step(params, x, h, c):
    return np.tanh(x @ params["input_weight"] + h @ params["hidden_weight"] + params["bias"]), c


def lstm_step(params, x, h, c):
    a = x @ params["input_weight"] + h @ params["hidden_weight"] + params["bias"]
    i, f, g, o = (a[k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(params, x, h, c, reset_after=True):
    W, U, b = (np.split(params[name], 3, axis=-1) for name in ("input_weight", "hidden_weight", "bias"))
    r = sigmoid(x @ W[0] + b[0] + h @ U[0])
    z = sigmoid(x @ W[1] + b[1] + h @ U[1])
    recurrent = r * (h @ U[2] + params["hidden_bias"]) if reset_after else (r * h) @ U[2]
    return (1 - z) * np.tanh(x @ W[2] + b[2] + recurrent) + z * h, c


def gru_reset_before_step(params, x, h, c):
    return gru_step(params, x, h, c, reset_after=False)


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step, "gru_reset_before": gru_reset_before_step}


def by_hand(kind, params, x, h=None, c=None):
    """All h of one example, in NumPy, one step after the other."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    h, c = (np.zeros(HIDDEN) if part is None else np.asarray(part, np.float64) for part in (h, c))
    outputs = []
    for x_t in np.asarray(x, np.float64):
        h, c = STEPS[kind](params, x_t, h, c)
        outputs.append(h)
    return np.array(outputs).reshape(-1, HIDDEN)


@functools.cache
def made(kind, **options):
    return jitted(KINDS[kind][0](HIDDEN, **options))


SEQUENCES = np.random.default_rng(1).normal(size=(BATCH, TIME, IN)).astype(np.float32)


def padded(fill=np.nan):
    """Sequences of different lengths, one of them empty, whose padding must not matter."""
    mask = np.arange(TIME) < LENGTHS[:, None]
    return fnn.Masked(np.where(mask[..., None], SEQUENCES, np.float32(fill)), mask)


@every_kind
def test_values_are_those_of_a_plain_loop(kind):
    layer = made(kind, returns="sequence")
    params, state = drawn(layer, (TIME, IN))
    y, _ = layer.apply(params, state, SEQUENCES, train=False)
    np.testing.assert_allclose(y, [by_hand(kind, params, example) for example in SEQUENCES], rtol=1e-4, atol=1e-5)


@every_kind
def test_masked_sequences_are_as_each_alone_at_its_own_length(kind):
    layer = made(kind, returns="sequence", initial_state="learned")
    params, _ = drawn(layer, (TIME, IN))
    start = [params[name] for name in ("initial_hidden", "initial_cell") if name in params]
    y, _ = layer.apply(params, {}, padded(), train=False)
    last, _ = made(kind, initial_state="learned").apply(params, {}, padded(), train=False)
    for example, length in enumerate(LENGTHS):
        alone = by_hand(kind, params, SEQUENCES[example, :length], *start)
        np.testing.assert_allclose(y.values[example, :length], alone, rtol=1e-4, atol=1e-5)
        assert not np.any(y.values[example, length:])
        final = alone[-1] if length else start[0]
        np.testing.assert_allclose(last[example], final, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y.mask, padded().mask)


def test_padding_may_be_anywhere():
    """Steps that are left out in the middle are as if they were not there."""
    layer = made("lstm")
    params, _ = drawn(layer, (TIME, IN))
    kept = [0, 2, 3, 6]
    mask = jnp.asarray(np.isin(np.arange(TIME), kept)[None].repeat(BATCH, 0))
    holes, _ = layer.apply(params, {}, fnn.Masked(SEQUENCES, mask), train=False)
    without, _ = layer.apply(params, {}, SEQUENCES[:, kept], train=False)
    np.testing.assert_allclose(holes, without, rtol=1e-5, atol=1e-6)


def test_bidirectional_masked_and_stacked_is_each_sequence_alone():
    both = fnn.bidirectional(fnn.gru(HIDDEN, returns="sequence"), fnn.lstm(HIDDEN, returns="sequence"))
    net = jitted(fnn.chain(both, fnn.dense(IN), fnn.bidirectional(fnn.lstm(HIDDEN))))
    params, state = drawn(net, (TIME, IN))
    together, _ = net.apply(params, state, padded(fill=9.0), train=False)
    assert together.shape == (BATCH, 2 * HIDDEN)
    alone, _ = net.apply(params, state, SEQUENCES[2:3, : LENGTHS[2]], train=False)
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-4, atol=1e-5)


def test_a_learned_initial_state_in_bfloat16_with_x_in_float32():
    """The state has the type of the wider one, as every other product."""
    layer = made("lstm", initial_state="learned")
    params, _ = drawn(layer, (TIME, IN))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with jax.numpy_dtype_promotion("standard"):
        y, _ = jax.eval_shape(lambda: layer.apply(params, {}, SEQUENCES, train=False))
    assert y.dtype == jnp.float32


@every_kind
def test_a_given_state_continues_where_another_run_stopped(kind):
    """The first steps' state, made by the cell, given to the layer for the others."""
    layer, cell = made(kind, initial_state="given"), jitted(KINDS[kind][1](HIDDEN))
    params, _ = drawn(made(kind), (TIME, IN))
    x = SEQUENCES
    zero = jnp.zeros((BATCH, HIDDEN))
    state = (zero, zero) if kind == "lstm" else zero
    for t in range(3):
        state, _ = cell.apply(params, {}, (x[:, t], state), train=False)
    continued, _ = layer.apply(params, {}, (x[:, 3:], state), train=False)
    np.testing.assert_allclose(continued, made(kind).apply(params, {}, x, train=False)[0], rtol=1e-5, atol=1e-6)


def test_hidden_weights_start_orthogonal_gate_by_gate_and_the_forget_gate_open():
    params, _ = jitted(fnn.lstm(11)).init(jax.random.key(0), (TIME, IN))
    for gate in jnp.split(params["hidden_weight"], 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(11), atol=1e-5)
    np.testing.assert_array_equal(params["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], 11))
    assert np.max(np.abs(params["input_weight"])) <= np.sqrt(6 / (IN + 11))
    assert params["input_weight"].std() == pytest.approx(np.sqrt(2 / (IN + 11)), rel=0.2)
    bias = jax.jit(lambda key: fnn.lstm(11, forget_bias=3.0).init(key, (TIME, IN))[0]["bias"])(jax.random.key(0))
    np.testing.assert_array_equal(bias[11:22], 3.0)


def test_pytorchs_start_is_uniform_in_everything():
    params, _ = jitted(fnn.gru(101, initializer="pytorch")).init(jax.random.key(0), (TIME, IN))
    assert set(params) >= {"input_weight", "hidden_weight", "bias"}
    for path, leaf in params.items():
        assert 0.9 * 101**-0.5 < np.max(np.abs(leaf)) <= 101**-0.5, path
        assert abs(leaf.mean()) < 0.25 * 101**-0.5, path


def test_an_activation_without_a_formula_trains_and_says_what_is_missing():
    layer = fnn.rnn(HIDDEN, activation=jnp.sin)
    params, _ = drawn(layer, (TIME, IN))
    gradient = jax.jit(jax.grad(lambda p: layer.apply(p, {}, SEQUENCES, train=True)[0].sum()))(params)
    assert np.any(gradient["bias"])
    y, _, pullback = jax.jit(lambda p: layer.vjp(p, {}, SEQUENCES, train=True))(params)
    with pytest.raises(fnn.FormulaMissing, match="sin is a plain function"):
        pullback(y)


SEQUENCE = jnp.ones((5, 7, 3))
GIVEN, GIVEN_PAIR = ((7, 3), (2,)), ((7, 3), ((2,), (2,)))
continuing_lstm, continuing_gru = (layer(2, initial_state="given") for layer in (fnn.lstm, fnn.gru))


@pytest.mark.parametrize(
    ("layer", "in_shape", "x", "words"),
    [
        (continuing_lstm, GIVEN_PAIR, SEQUENCE, r"a pair, \(sequence, initial state\)"),
        (continuing_gru, GIVEN, (SEQUENCE, jnp.ones((5, 3))), r"float32\[5, 2\], got .*\(5, 3\)"),
    ],
)
def test_input_that_does_not_fit(layer, in_shape, x, words):
    with pytest.raises(fnn.InputError, match=words):
        jax.eval_shape(lambda x: layer.apply(*layer.init(jax.random.key(0), in_shape), x, train=True), x)
