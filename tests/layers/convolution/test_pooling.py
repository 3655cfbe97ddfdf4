"""Pooling: values against loops, ties, masks, padding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted

import functional_nn as fnn


def by_loops(x, out_sizes, window, stride, before, reduce):
    y = np.zeros((x.shape[0], *out_sizes, x.shape[-1]))
    for o in np.ndindex(*out_sizes):
        starts = [i * s - p for i, s, p in zip(o, stride, before, strict=True)]
        inside = [
            slice(max(start, 0), min(start + size, n))
            for start, size, n in zip(starts, window, x.shape[1:-1], strict=True)
        ]
        y[:, *o] = reduce(x[:, *inside].reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    return y


@pytest.mark.parametrize("make", [fnn.max_pool, fnn.average_pool])
@pytest.mark.parametrize(
    ("in_sizes", "window", "stride", "padding", "before", "out_sizes"),
    [
        ((5, 7), (3, 2), (2, 1), "same", (1, 0), (3, 7)),
        ((7,), (3,), None, ((2, 1),), (2,), (3,)),
        ((3, 4, 5), (2, 2, 3), (1, 2, 2), "valid", (0, 0, 0), (2, 2, 2)),
    ],
)
def test_values_are_those_of_loops(make, in_sizes, window, stride, padding, before, out_sizes):
    """Padding is neither the largest nor counted."""
    x = np.random.default_rng(0).normal(size=(2, *in_sizes, 3)).astype(np.float32) - 5
    y, _ = jax.jit(lambda x: make(window, stride=stride, padding=padding).apply({}, {}, x, train=False))(x)
    expected = by_loops(x, out_sizes, window, stride or window, before, np.max if make is fnn.max_pool else np.mean)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_padding_may_count_in_the_mean():
    x = jnp.full((1, 3, 1), 6.0)
    layer = jitted(fnn.average_pool(3, stride=1, padding="same", count_padding=True))
    np.testing.assert_allclose(layer.apply({}, {}, x, train=False)[0].ravel(), [4, 6, 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "x", "y_bar", "expected"),
    [
        (fnn.max_pool(3, stride=2), [1, 2, 2, 2, 0], [4, 6], [0, 2, 2 + 3, 3, 0]),
        (fnn.max_pool(2, padding="same"), [-1, -1, -1], [4, 6], [2, 2, 6]),
        (fnn.global_max_pool(), [3, 1, 3, 3], [6], [2, 0, 2, 2]),
    ],
)
def test_ties_share_equally(layer, x, y_bar, expected):
    """As the docstring declares, by the formula and by ``jax.grad``."""
    layer, x = jitted(layer), jnp.asarray(x, float)[None, :, None]
    y, _, pullback = layer.vjp({}, {}, x, train=True)
    y_bar = jnp.asarray(y_bar, float).reshape(y.shape)
    automatic = jax.grad(lambda x: jnp.sum(layer.apply({}, {}, x, train=True)[0] * y_bar))(x)
    for x_bar in (pullback(y_bar)[1], automatic):
        np.testing.assert_allclose(x_bar.ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("layer", [fnn.global_average_pool(), fnn.global_max_pool()], ids=["mean", "max"])
def test_padding_is_not_seen_and_what_is_all_masked_gives_zero(layer):
    """Whatever stands in the padding, NaN even; a row without a real step gives 0 and gets no gradient."""
    layer, mask = jitted(layer), jnp.array([[True, True, False], [False, False, False]])
    values = jnp.array([[[-3.0], [-1.0], [jnp.nan]], [[jnp.inf], [jnp.nan], [5.0]]])
    y, _, pullback = layer.vjp({}, {}, fnn.Masked(values, mask), train=True)
    expected, shares = {
        "global_average_pool": ([-2, 0], [[0.5, 0.5, 0], [0, 0, 0]]),
        "global_max_pool": ([-1, 0], [[0, 1, 0], [0, 0, 0]]),
    }[layer.name]
    np.testing.assert_allclose(y.ravel(), expected)
    _, x_bar = pullback(jnp.ones((2, 1)))
    assert x_bar.mask is None
    automatic = jax.grad(lambda v: layer.apply({}, {}, fnn.Masked(v, mask), train=True)[0].sum())(values)
    for values_bar in (x_bar.values, automatic):
        np.testing.assert_allclose(values_bar[..., 0], shares)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_more_places_than_float16_counts(masked):
    """70000 is infinity in float16."""
    layer = jitted(fnn.global_average_pool())
    x = jnp.ones((1, 70000, 1), jnp.float16)
    mask = jnp.ones((1, 70000), bool) if masked else None
    y, _, pullback = layer.vjp({}, {}, x if mask is None else fnn.Masked(x, mask), train=True)
    assert y == 1
    assert y.dtype == x.dtype
    y_bar = jnp.full_like(y, 1000)
    x_bar = pullback(y_bar)[1]
    automatic = jax.grad(
        lambda x: jnp.sum(y_bar * layer.apply({}, {}, x if mask is None else fnn.Masked(x, mask), train=True)[0])
    )(x)
    for bar in (x_bar if mask is None else x_bar.values, automatic):
        assert bar.dtype == x.dtype
        np.testing.assert_allclose(bar.astype(jnp.float32), 1000 / 70000, rtol=1e-3)


@pytest.mark.parametrize("make", [fnn.average_pool, fnn.max_pool])
def test_sums_over_overlapping_windows_in_bfloat16(make):
    """In bfloat16 256 + 1 is 256: a sum of 256 and fifteen ones would be wrong by 6%."""
    layer = make(16, stride=1)
    x = jnp.ones((1, 31, 1)).at[0, 15].set(2).at[0, 0].set(256)
    y_bar = jnp.ones((1, 16, 1)).at[0, 15].set(256)

    @jax.jit
    def computed(x, y_bar):
        y, _, pullback = layer.vjp({}, {}, x, train=True)
        automatic = jax.vjp(lambda x: layer.apply({}, {}, x, train=True)[0], x)[1]
        return y, pullback(y_bar)[1], automatic(y_bar)[0]

    halves = computed(x.astype(jnp.bfloat16), y_bar.astype(jnp.bfloat16))
    for half, single in zip(halves, computed(x, y_bar), strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), single, rtol=1e-2)
