"""Attention against loops in NumPy, and what masks, causality, rotary positions and a second sequence mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import drawn, jitted

import functional_nn as fnn

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)
BATCH, TIME, KEYS = 2, 3, 5
REAL = np.array([[True, False, True], [False, False, False]])
"""The real steps of a memory. Steps of the second example see nothing."""


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape).astype(jnp.result_type(float)))


def run(layer, params, x):
    return jitted(layer).apply(params, {}, x, train=True)[0]


def turned(vector, position):
    """Each pair of features as a complex number, turned by its angle."""
    half = len(vector) // 2
    numbers = vector[:half] + 1j * vector[half:]
    numbers = numbers * np.exp([1j * position * 10_000 ** (-n / half) for n in range(half)])
    return np.concatenate([numbers.real, numbers.imag])


def looped(q, k, v, *, bias=None, mask=None, causal=False, window=None, scale=None, score_cap=None, **_):
    """The formula for one query of one head at a time."""
    q, k, v = (np.asarray(part) for part in (q, k, v))
    (batch, time, heads, size), (keys_time, groups) = q.shape, k.shape[1:3]
    c = np.zeros((batch, time, heads, v.shape[3]))
    for b, i, a in np.ndindex(batch, time, heads):
        group, place = a * groups // heads, i + keys_time - time
        weights, values = [], []
        for j in range(keys_time):
            hidden = causal and (j > place or (window is not None and j <= place - window))
            if hidden or (mask is not None and not mask[b, min(a, mask.shape[1] - 1), i, j]):
                continue
            score = q[b, i, a] @ k[b, j, group] * (size**-0.5 if scale is None else scale)
            if score_cap is not None:
                score = score_cap * np.tanh(score / score_cap)
            if bias is not None:
                score += bias[b, min(a, bias.shape[1] - 1), i, j]
            weights.append(np.exp(score))
            values.append(v[b, j, group])
        if weights:
            c[b, i, a] = np.average(values, axis=0, weights=weights)
    return c


def attended(params, x, memory, real, *, causal=False, rotary=False):
    """The formula of multi-head attention, with ``looped`` between the projections."""
    params = jax.tree.map(np.asarray, params)

    def projected(name, x):
        return np.einsum("btf,fhd->bthd", x, params[name]["weight"]) + params[name].get("bias", 0)

    q, k, v = projected("query", x), projected("key", memory), projected("value", memory)
    if rotary:
        q, k = (
            np.array([[[turned(head, i) for head in step] for i, step in enumerate(one)] for one in y]) for y in (q, k)
        )
    mask = np.broadcast_to(real[:, None, None], (len(x), 1, x.shape[1], memory.shape[1]))
    c = looped(q, k, v, mask=mask, causal=causal)
    y = np.einsum("bthd,hdo->bto", c, params["output"]["weight"]) + params["output"]["bias"]
    return np.where(real.any(axis=1)[:, None, None], y, 0)  # a step that sees nothing has no bias either


def test_a_sequence_to_itself():
    """Two heads of queries for each head of keys and values."""
    options = {"causal": True, "rotary": True}
    layer, x = fnn.attention(4, key_value_heads=2, head_size=4, **options), draw(2, 5, 6)
    params, _ = drawn(layer, (5, 6))
    assert params["key"]["weight"].shape == (6, 2, 4)
    assert params["value"]["bias"].shape == (2, 4)
    expected = attended(params, np.asarray(x), np.asarray(x), np.ones((2, 5), bool), **options)
    np.testing.assert_allclose(run(layer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_a_sequence_to_a_masked_one_of_another_length_and_size():
    layer, x, memory = fnn.attention(2, out_size=7), draw(2, 5, 4), draw(2, 3, 6)
    params, _ = drawn(layer, ((5, 4), (3, 6)))
    expected = attended(params, np.asarray(x), np.asarray(memory), REAL)
    y = run(layer, params, (x, fnn.Masked(memory, jnp.asarray(REAL))))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow():
    """exp(1e6) is no number; the largest key takes all."""
    q = jnp.full((1, 1, 1, 1), 1e3)
    k, v = (jnp.array(numbers).reshape(1, 3, 1, 1) for numbers in ([-1e3, 1e3, 0.0], [1.0, 2.0, 3.0]))
    layer = jitted(fnn.dot_product_attention())
    y, _, pullback = layer.vjp({}, {}, (q, k, v), train=True)
    assert y.item() == 2
    _, (q_bar, _, v_bar) = pullback(y)
    assert q_bar.item() == 0
    np.testing.assert_array_equal(v_bar.ravel(), [0, 2, 0])


def test_scores_in_bfloat16_keep_float32_digits():
    """100 and 100.25 are one number in bfloat16; their scores differ."""
    q = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    k = jnp.array([[100.0, 0.25], [100.0, 0.0]], jnp.bfloat16).reshape(1, 2, 1, 2)
    v = jnp.array([1.0, 0.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    y = run(fnn.dot_product_attention(), {}, (q, k, v))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.item(), 1 / (1 + np.exp(-0.25 / np.sqrt(2))), rtol=2**-8)


def test_weights_start_as_matrices_do():
    params, _ = jitted(fnn.attention(10, head_size=30, out_size=100)).init(KEY, (5, 200))
    for part, sizes in {"query": (200, 300), "key": (200, 300), "value": (200, 300), "output": (300, 100)}.items():
        np.testing.assert_allclose(params[part]["weight"].std(), np.sqrt(2 / sum(sizes)), rtol=0.02)
    assert params["query"]["weight"].shape == (200, 10, 30)
    assert params["output"]["weight"].shape == (10, 30, 100)
    assert "bias" not in params["key"]
    assert (params["value"]["bias"] == 0).all()


@pytest.mark.parametrize(
    ("heads", "options", "pairs"),
    [
        ((4, 1), {"causal": True, "window": 2}, ("bias of all heads",)),
        (
            (6, 3),
            {"causal": True, "window": 3, "scale": 0.8, "score_cap": 2.0, "queries_at_once": 2},
            ("bias", "mask of all heads"),
        ),
    ],
    ids=str,
)
def test_the_formula(heads, options, pairs):
    heads, groups = heads
    q, k, v = draw(BATCH, TIME, heads, 4), draw(BATCH, KEYS, groups, 4), draw(BATCH, KEYS, groups, 3)
    given, named = [], {}
    for pair in pairs:
        shape = (BATCH, 1 if "all" in pair else heads, TIME, KEYS)
        array = draw(*shape) if "bias" in pair else jnp.asarray(RANDOM.uniform(size=shape) < 0.6)
        given.append(array)
        named[pair.split()[0]] = np.asarray(array)
    c = run(fnn.dot_product_attention(**options), {}, (q, k, v, *given))
    np.testing.assert_allclose(c, looped(q, k, v, **options, **named), rtol=1e-4, atol=1e-5)


def test_many_queries_are_computed_in_blocks():
    """No array of either pass has a number for each pair of a query and a key."""
    x = jnp.zeros((1, 300, 2, 4))

    def program(**options):
        layer = fnn.dot_product_attention(causal=True, **options)

        def both_passes(*x):
            y, _, pullback = layer.vjp({}, {}, x, train=True)
            return pullback(y)

        return str(jax.make_jaxpr(both_passes)(x, x, x))

    assert "300,300]" in program(queries_at_once=300)
    assert "300,300]" not in program()


def test_the_last_queries_of_a_causal_sequence_alone():
    """Fewer queries than keys are the last steps of the sequence, also for rotary positions."""
    layer = fnn.dot_product_attention(causal=True, rotary=True, window=2)
    q, k, v = (draw(BATCH, KEYS, 2, 4) for _ in range(3))
    whole = run(layer, {}, (q, k, v))
    np.testing.assert_allclose(run(layer, {}, (q[:, -2:], k, v)), whole[:, -2:], rtol=1e-4, atol=1e-5)


def test_a_bias_of_minus_infinity_is_a_mask():
    """Also where it hides all keys: the output and all gradients are 0, not NaN."""
    q, k, v = draw(1, TIME, 2, 4), draw(1, KEYS, 2, 4), draw(1, KEYS, 2, 4)
    mask = jnp.asarray(RANDOM.uniform(size=(1, 2, TIME, KEYS)) < 0.5).at[0, :, 1].set(False)
    bias = jnp.where(mask, 0, -jnp.inf)
    layer = fnn.dot_product_attention()

    @jax.jit
    def gradients(q, k, v, *pairs):
        c, _, pullback = layer.vjp({}, {}, (q, k, v, *pairs), train=True)
        _, bars = pullback(jnp.cos(c))
        return c, bars[:3]

    by_mask, by_bias = gradients(q, k, v, mask), gradients(q, k, v, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), by_mask, by_bias)
    assert (by_bias[0][:, 1] == 0).all()
    assert (by_bias[1][0][:, 1] == 0).all()


Q, K = (2, 3, 4, 2), (2, 5, 2, 2)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 3, 1, 4), (2, 3, 1, 5), (2, 3, 1, 5)], "queries and keys"),
        ([(2, 3, 1, 4), (2, 3, 1, 4), (2, 2, 1, 4)], "a value for every key"),
        ([Q, (2, 5, 3, 2), (2, 5, 3, 2)], "expected keys and values whose heads divide the 4 heads of the queries"),
        ([Q, K, K, (2, 4, 3, 4)], r"expected a bias or a mask of shape \(2, 4, 3, 5\), or with 1 in place of 4 heads"),
        ([Q, K, K, (2, 1, 3, 5), (2, 4, 3, 5)], "expected at most one bias of floating-point numbers and one mask"),
    ],
)
def test_parts_that_do_not_fit(shapes, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.dot_product_attention().apply({}, {}, tuple(jnp.ones(shape) for shape in shapes), train=False)
