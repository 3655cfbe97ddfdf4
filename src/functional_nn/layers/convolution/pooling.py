"""Pooling: the largest or the mean value of each channel over windows, or over all spatial axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import check, explaining_channels_first
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.masked import Masked, check_mask, mask_of, values_of
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import check_flag, check_floating
from functional_nn.layers.convolution.sliding_windows import (
    Padding,
    Sizes,
    Windows,
    check_images,
    check_padding,
    check_sizes,
    largest,
    place_windows,
    spread_over_tiles,
    sum_arrays,
    sum_window_places,
    tiles,
    untiled,
    window_axes,
    window_places,
    windows_are_disjoint,
)


def max_pool(
    window: Sizes, *, stride: Sizes | None = None, padding: Padding = "valid", name: str = "max_pool"
) -> Layer:
    """The largest value of each channel in every window.

    Math:
        yₙₒ = maxₖ xₙ[o s + k - p], with o a place of the output, k one of the window, s the stride, p the padding
        before; padding is never the largest

    Shapes:
        x (batch, *in_sizes, channels), y (batch, *out_sizes, channels), out_sizes = (in_sizes + padding - window) //
        s + 1; elements that no window covers are left out

    Gradient:
        The maximum follows its largest argument. Let xₖ = Sₖ x be the elements at place k of all windows (see
        ``conv``), mₖ = 1 where xₖ = y and 0 elsewhere, and c = Σₖ mₖ. Then xₖ_bar = mₖ y_bar / c. Each xₖ_bar is added
        back to the elements that xₖ was read from:

        x_bar = Σₖ Sₖᵀ (mₖ y_bar / c)

    At ties:
        c values that are equally large get y_bar / c each: the mean of the one-sided choices, symmetric, and what
        ``jnp.max`` does too. (PyTorch gives all of it to the first.)

    Args:
        window: the window's size; one number for every spatial axis, or a tuple.
        stride: the distance between windows; by default the window's size, so that they tile the input.
        padding: ``"valid"`` (none), ``"same"`` (out_sizes = in_sizes / stride, rounded up), or one pair (before,
            after) for each spatial axis, smaller than the window.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.max_pool(2).apply({}, {}, jnp.array([[[1.0], [3.0], [2.0], [0.0]]]), train=False)[0].ravel())
    [3. 2.]

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 9.3.
    """
    place = _placing(window, stride, padding)

    def forward(x):
        _check_unmasked(x)
        y = largest(x, place(x))
        return y, (x, y)

    def backward(residuals, y_bar):
        x, y = residuals
        windows = place(x)
        share = y_bar * _share(x, y, windows)
        # If windows overlap, an element may be the largest of several, and its shares are added. If they do not, each
        # element gets at most one share, so nothing is added.
        if not windows_are_disjoint(windows):
            return sum_window_places(
                [jnp.where(part == y, share, 0) for part in window_places(x, windows, -jnp.inf)], windows
            )
        m = tiles(x, windows, -jnp.inf) == spread_over_tiles(y, windows)
        # ONNX Runtime computes a product in a fifth of the time of jnp.where.
        return untiled(m.astype(share.dtype) * spread_over_tiles(share, windows), windows)

    return stateless(name, forward, backward)._replace(takes_mask=True)


def average_pool(
    window: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = "valid",
    count_padding: bool = False,
    name: str = "average_pool",
) -> Layer:
    """The mean value of each channel in every window.

    Math:
        yₙₒ = (Σₖ xₙ[o s + k - p]) / cₒ, where padding is 0 and cₒ is the number of elements that are not padding, or of
        all elements with ``count_padding``

    Shapes:
        as ``max_pool``

    Gradient:
        y is linear in x, and every xₖ = Sₖ x has the factor 1 / c:

        x_bar = Σₖ Sₖᵀ (y_bar / c)

    Args:
        window: the window's size; one number for every spatial axis, or a tuple.
        stride: the distance between windows; by default the window's size.
        padding: as for ``max_pool``.
        count_padding: whether padding counts as zeros that are averaged (PyTorch's default) or not (Keras's, ONNX's).
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.average_pool(2).apply({}, {}, jnp.array([[[1.0], [3.0], [2.0], [0.0]]]), train=False)[0].ravel())
    [2. 1.]

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition" (subsampling).
    """
    place = _placing(window, stride, padding)
    count_padding = check_flag("count_padding", count_padding)

    def forward(x):
        _check_unmasked(x)
        windows = place(x)
        wide = _widened(x)
        shares = _shares(windows, wide)
        # Divide before summing, since the sum could overflow.
        if windows_are_disjoint(windows):
            y = jnp.sum(tiles(wide, windows, 0.0) * spread_over_tiles(shares, windows), window_axes(windows))
        else:
            y = sum_arrays([part * shares for part in window_places(wide, windows)])
        # The residual is an empty array: the backward pass needs only the sizes of x.
        return y.astype(x.dtype), x[:0]

    def backward(no_examples, y_bar):
        windows = place(no_examples)
        wide = _widened(y_bar)
        x_bar = sum_window_places([wide * _shares(windows, wide)] * windows.places, windows)
        return x_bar.astype(y_bar.dtype)

    def _shares(windows: Windows, y: jax.Array) -> jax.Array:
        """1 / c for every place of the output, in the rank of y."""
        # A window is a box: its number of real elements is the product of the numbers along each axis.
        counts = np.ones(())
        for axis, size in enumerate(windows.window):
            starts = np.arange(windows.out_sizes[axis]) * windows.stride[axis] - windows.pads[axis][0]
            real = np.minimum(starts + size, windows.in_sizes[axis]) - np.maximum(starts, 0)
            counts = np.multiply.outer(counts, np.full_like(real, size) if count_padding else real)
        return jnp.asarray(1 / counts[None, ..., None], y.dtype)

    return stateless(name, forward, backward)._replace(takes_mask=True)


def global_average_pool(*, name: str = "global_average_pool") -> Layer:
    """The mean of each channel over all spatial axes, or over the real steps of a masked sequence.

    Math:
        yₙ = Σₒ mₙₒ xₙₒ / cₙ with cₙ = Σₒ mₙₒ. m is 1 for real steps and 0 for padding; without a mask it is 1.
        If no step is real, y = 0.

    Shapes:
        x (batch, *in_sizes, channels), y (batch, channels)

    Gradient:
        y is linear in x: x_barₙₒ = mₙₒ y_barₙ / cₙ, and 0 if no step is real.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> x = fnn.Masked(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]]))
    >>> print(fnn.global_average_pool().apply({}, {}, x, train=False)[0])
    [[2.]]

    References:
        Lin, Chen, Yan 2014, "Network in network", section 3.2.
    """

    def pool(x, mask):
        count = _real(x, mask)
        # Divide before summing, since the sum could overflow.
        shares = _widened(x) / (_over_space(count, x.ndim) if isinstance(count, jax.Array) else count)
        y = jnp.sum(shares if mask is None else jnp.where(mask, shares, 0), axis=_spatial(x))
        return y.astype(x.dtype), (x[:0], mask)

    def pool_back(residuals, y_bar):
        no_examples, mask = residuals
        shape = (y_bar.shape[0], *no_examples.shape[1:])
        share = (_widened(y_bar) / _real(no_examples, mask)).astype(y_bar.dtype)
        x_bar = jnp.broadcast_to(_over_space(share, len(shape)), shape)
        return x_bar if mask is None else jnp.where(mask, x_bar, 0)

    return _global(name, pool, pool_back)


def global_max_pool(*, name: str = "global_max_pool") -> Layer:
    """The largest value of each channel over all spatial axes, or over the real steps of a masked sequence.

    Math:
        yₙ = maxₒ xₙₒ over the real o; without a mask, over all o. If no step is real, y = 0.

    Shapes:
        x (batch, *in_sizes, channels), y (batch, channels)

    Gradient:
        With mₙₒ = 1 where xₙₒ is real and equals yₙ, x_barₙₒ = mₙₒ y_barₙ / Σₒ mₙₒ, and 0 if no step is real.

    At ties:
        equal shares, as in ``max_pool``.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> x = fnn.Masked(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]]))
    >>> print(fnn.global_max_pool().apply({}, {}, x, train=False)[0])
    [[3.]]

    References:
        Oquab et al. 2015, "Is object localization for free?", section 3.
    """

    def pool(x, mask):
        if mask is None:
            # Widened for jax.grad, which counts ties in the type of the maximum.
            y = jnp.max(_widened(x), axis=_spatial(x))
        else:
            y = jnp.max(jnp.where(mask, _widened(x), -jnp.inf), axis=_spatial(x))
            y = jnp.where(jnp.any(mask, axis=_spatial(x)), y, 0)
        y = y.astype(x.dtype)
        return y, (x, y, mask)

    def pool_back(residuals, y_bar):
        x, y, mask = residuals
        is_largest = x == _over_space(y, x.ndim)
        if mask is not None:
            is_largest = is_largest & mask
        m = is_largest.astype(x.dtype)
        count = jnp.maximum(jnp.sum(_widened(m), axis=_spatial(x)), 1)
        share = (_widened(y_bar) / count).astype(y_bar.dtype)
        return m * _over_space(share, x.ndim)

    return _global(name, pool, pool_back)


def _share(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """1 / c, where c is how often the largest element occurs in a window.

    For small windows it is looked up: XLA fuses ``where`` with the operations that follow, but not a division.
    """
    count = functools.reduce(jnp.add, [(part == y).astype(jnp.int32) for part in window_places(x, windows, -jnp.inf)])
    if windows.places > 4:
        return 1 / count.astype(y.dtype)
    shares = jnp.ones_like(y)
    for c in range(2, windows.places + 1):
        shares = jnp.where(count == c, 1 / c, shares)
    return shares


def _check_unmasked(x: jax.Array | Masked) -> None:
    remedy = "Pool over all real steps by global_max_pool or global_average_pool, or over x.values."
    expected = "images or sequences without a mask, since windows hold padding"
    check("x", x, expected, not isinstance(x, Masked), remedy)


def _placing(window: Sizes, stride: Sizes | None, padding: Padding) -> Callable[[jax.Array], Windows]:
    """Checks the settings of pooling, and returns the function that places its windows over an input."""
    stride = window if stride is None else stride
    check_sizes(window=window, stride=stride)
    check_padding(padding, ("valid", "same"))

    def place(x: jax.Array) -> Windows:
        check_floating(x)
        with explaining_channels_first(x.shape):
            check_images(x.shape, window)
            windows = place_windows(x.shape[1:-1], window, stride=stride, padding=padding)
        fits = all(max(pair) < size for pair, size in zip(windows.pads, windows.window, strict=True))
        check("padding", windows.pads, f"less than the window, {windows.window}", fits, "A window must see x.")
        return windows

    return place


def _global(name, pool, pool_back) -> Layer:
    """``pool(x, mask) -> (y, (…, mask))``, its mask (batch, time, 1) or None, and ``pool_back(residuals, y_bar)``."""

    def forward(params, state, x, *, train, key=None):
        check_mask(x)
        values, mask = values_of(x), mask_of(x)
        check_floating(values)
        check_images(values.shape)
        check("x", values, "at least one place to pool over", math.prod(values.shape[1:-1]))
        if mask is not None:
            check("x", x, "a masked sequence of vectors, (batch, time, channels)", values.ndim == 3)
            mask = jnp.expand_dims(mask, -1)
        y, residuals = pool(values, mask)
        return y, state, residuals

    def backward(residuals, y_bar):
        x_bar = pool_back(residuals, y_bar)
        return {}, x_bar if residuals[-1] is None else Masked(x_bar, None)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward, takes_mask=True)


def _spatial(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _widened(x: jax.Array) -> jax.Array:
    """16-bit numbers in float32: their sum may overflow or stop growing, and their count may be infinite in float16."""
    return x.astype(wide_type(x.dtype))


def _over_space(y: jax.Array, ndim: int) -> jax.Array:
    """One value for each channel, with axes of size 1 so that it broadcasts against x."""
    return jnp.expand_dims(y, range(1, ndim - 1))


def _real(x: jax.Array, mask: jax.Array | None) -> float | jax.Array:
    """The number of places that are real, and 1 where there is none."""
    if mask is None:
        return float(math.prod(x.shape[1:-1]))
    return jnp.maximum(jnp.sum(mask.astype(jnp.int32), axis=1), 1).astype(wide_type(x.dtype))
