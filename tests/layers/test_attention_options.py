"""Biases, masks, grouped heads, windows, caps and longer memories of attention, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)
BATCH, TIME, KEYS = 2, 3, 5


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), float)


def run(layer, params, x):
    return jax.jit(lambda params, x: layer.apply(params, {}, x, train=True)[0])(params, x)


def looped(q, k, v, *, bias=None, mask=None, causal=False, window=None, scale=None, score_cap=None):
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


@pytest.mark.parametrize(
    ("heads", "options", "pairs"),
    [
        ((4, 2), {}, ()),
        ((4, 1), {"causal": True}, ()),
        ((2, 2), {"causal": True, "window": 2}, ()),
        ((2, 2), {"scale": -0.4}, ()),
        ((2, 2), {"score_cap": 0.5}, ()),
        ((2, 2), {}, ("bias of all heads",)),
        ((2, 2), {"score_cap": 1.0}, ("mask", "bias")),
        ((6, 3), {"causal": True, "window": 3, "scale": 0.8, "score_cap": 2.0}, ("bias", "mask of all heads")),
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


def test_grouped_heads_are_repeated_heads():
    layer = fnn.attention(4, key_value_heads=2, head_size=3, causal=True, rotary=False)
    params, _ = layer.init(KEY, (TIME, 5))
    assert params["key"]["weight"].shape == (5, 2, 3)
    assert params["value"]["bias"].shape == (2, 3)
    x = draw(BATCH, TIME, 5)
    repeated = {**params, "key": {"weight": jnp.repeat(params["key"]["weight"], 2, axis=1)}}
    repeated["value"] = {
        "weight": jnp.repeat(params["value"]["weight"], 2, axis=1),
        "bias": jnp.repeat(params["value"]["bias"], 2, axis=0),
    }
    expected = run(fnn.attention(4, head_size=3, causal=True), repeated, x)
    np.testing.assert_allclose(run(layer, params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"rotary": True}, {"rotary": True, "window": 2}], ids=str)
def test_the_last_queries_of_a_causal_sequence_alone(options):
    """Fewer queries than keys are the last steps of the sequence, also for rotary positions."""
    layer, (q, k, v) = fnn.dot_product_attention(causal=True, **options), (draw(BATCH, KEYS, 2, 4) for _ in range(3))
    whole = run(layer, {}, (q, k, v))
    np.testing.assert_allclose(run(layer, {}, (q[:, -2:], k, v)), whole[:, -2:], rtol=1e-4, atol=1e-5)


def test_a_large_window_and_a_large_cap_change_nothing():
    q, k, v = (draw(BATCH, TIME, 2, 4) for _ in range(3))
    expected = run(fnn.dot_product_attention(causal=True), {}, (q, k, v))
    for options in ({"window": TIME}, {"window": 100}, {"score_cap": 1e4}, {"scale": 0.5}):
        c = run(fnn.dot_product_attention(causal=True, **options), {}, (q, k, v))
        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5)


def test_a_window_of_one_step_gives_its_own_value():
    q, k, v = (draw(BATCH, TIME, 2, 4) for _ in range(3))
    np.testing.assert_allclose(run(fnn.dot_product_attention(causal=True, window=1), {}, (q, k, v)), v, rtol=1e-6)


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


def test_a_step_that_a_mask_hides_everything_from_has_no_output():
    layer, x = fnn.attention(2), draw(BATCH, TIME, 4)
    params, _ = layer.init(KEY, (TIME, 4))
    params["output"]["bias"] += 1
    mask = jnp.ones((BATCH, 2, TIME, TIME), bool).at[0, :, 1].set(False)
    y = run(layer, params, (x, mask))
    assert (y[0, 1] == 0).all()
    np.testing.assert_allclose(y[1], run(layer, params, x)[1], rtol=1e-5)


def test_a_bias_keeps_its_type():
    q, k, v = (draw(BATCH, TIME, 2, 4).astype(jnp.bfloat16) for _ in range(3))
    bias = draw(BATCH, 1, TIME, TIME)
    c, _, pullback = fnn.dot_product_attention().vjp({}, {}, (q, k, v, bias), train=True)
    assert c.dtype == jnp.bfloat16
    bias_bar = pullback(c)[1][3]
    assert (bias_bar.dtype, bias_bar.shape) == (jnp.float32, bias.shape)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 2}, "window: expected causal=True with it, got 2"),
        ({"window": 0, "causal": True}, "window: expected a positive integer"),
        ({"score_cap": 0.0}, "score_cap: expected a positive number"),
        ({"score_cap": -1}, "score_cap: expected a positive number"),
        ({"scale": float("nan")}, "scale: expected a finite number"),
    ],
)
def test_options_that_mean_nothing(options, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.dot_product_attention(**options)


def test_numbers_that_are_traced():
    with pytest.raises(fnn.InputError, match="scale: expected a finite number, got a traced number"):
        jax.eval_shape(lambda scale: fnn.dot_product_attention(scale=scale) and scale, 1.0)


def test_key_value_heads_divide_the_heads():
    with pytest.raises(fnn.InputError, match="key_value_heads: expected a divisor of the 4 heads, got 3"):
        fnn.attention(4, key_value_heads=3)


Q, K = (2, 3, 4, 2), (2, 5, 2, 2)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([Q, (2, 5, 3, 2), (2, 5, 3, 2)], "expected keys and values whose heads divide the 4 heads of the queries"),
        ([Q, K, K, (2, 4, 3, 4)], r"expected a bias or a mask of shape \(2, 4, 3, 5\), or with 1 in place of 4 heads"),
        ([Q, K, K, (1, 4, 3, 5)], "expected a bias or a mask of shape"),
        ([Q, K, K, (3, 5)], "expected a bias or a mask of shape"),
        ([Q, K, K, (2, 1, 3, 5), (2, 4, 3, 5)], "expected at most one bias of floating-point numbers and one mask"),
    ],
)
def test_fault_02_parts_that_do_not_fit(shapes, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.dot_product_attention().apply({}, {}, tuple(jnp.ones(shape) for shape in shapes), train=False)


def test_fault_02_a_mask_of_integers():
    x = (jnp.ones(Q), jnp.ones(K), jnp.ones(K), jnp.ones((2, 1, 3, 5), int))
    with pytest.raises(fnn.InputError, match="expected at most one bias of floating-point numbers and one mask of bo"):
        fnn.dot_product_attention().apply({}, {}, x, train=False)


def test_fault_02_more_queries_than_keys():
    x = tuple(jnp.ones((2, time, 1, 2)) for time in (3, 2, 2))
    with pytest.raises(fnn.InputError, match="expected at least as many keys as queries, since causal=True"):
        fnn.dot_product_attention(causal=True).apply({}, {}, x, train=False)
