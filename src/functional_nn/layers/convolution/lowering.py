"""The three linear maps of a convolution, each as matrix products and as XLA's own convolution.

Let x be (batch, *in_sizes, in_size), the weight W (*window, in_size // groups, out_size) and y (batch, *out_sizes,
out_size). xₖ = Sₖ x holds the elements of x at place k of every window (``window_places``). The three maps come from
one trilinear form, Σₖ ⟨xₖ Wₖ, y⟩:

    convolve          y = Σₖ xₖ Wₖ            the convolution of machine learning (the window is not flipped)
    input_gradient    x = Σₖ Sₖᵀ (y Wₖᵀ)      its transpose for x
    weight_gradient   Wₖ = xₖᵀ y              its transpose for W, summed over batch and out_sizes

Each is the derivative of the others. With groups, in_size and out_size are divided into equal parts, and part g of y
depends on part g of x only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.platform_programs import PlatformPrograms, bilinear
from functional_nn.core.summed_product import summed_product
from functional_nn.layers.convolution.sliding_windows import (
    Windows,
    stacked_places,
    sum_arrays,
    sum_stacked_places,
    sum_window_places,
    window_places,
)

LOWERINGS = ("auto", "native", "product")

FEW_CHANNELS = 8
"""The number of input channels from which XLA's convolution was measured to be faster in a forward pass."""

MOST_PLACES = 128
"""With more places in a window, matrix products have operations for its sizes along each axis, not for each place.

A program with an operation for each of 256 places compiled for 15 seconds, and with 9,801 it did not within a minute.
"""


class Native(NamedTuple):
    """Where a map is XLA's convolution, and not matrix products: on CPUs, and on other platforms."""

    on_cpu: bool
    elsewhere: bool


def forward_is_native(lowering: str, x: jax.Array, windows: Windows, groups: int, differentiated: bool) -> Native:
    """Where a forward pass uses XLA's convolution.

    On a CPU, inside a loop, XLA is fast only for a convolution whose axes are in the usual order. Those that JAX
    derives from a convolution are not. So ``"auto"`` takes matrix products on a CPU where JAX differentiates the
    forward pass. Where it does not, ``"auto"`` decides as in ``backward_is_native``, but takes matrix products for an
    input of few channels too.
    """
    if lowering == "auto" and (differentiated or x.shape[-1] < FEW_CHANNELS):
        return Native(on_cpu=False, elsewhere=True)
    return backward_is_native(lowering, windows, groups)


def backward_is_native(lowering: str, windows: Windows, groups: int) -> Native:
    """Where a hand-derived backward pass uses XLA's convolutions, whose axes here are in the usual order.

    On a CPU ``"auto"`` uses them where they were measured to be faster: over one or two axes, without groups, and for
    windows of more than one place.
    """
    if lowering == "auto":
        return Native(on_cpu=groups == 1 and windows.places > 1 and len(windows.window) < 3, elsewhere=True)
    return Native(on_cpu=lowering == "native", elsewhere=lowering == "native")


def convolve(x: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: Native) -> jax.Array:
    """y = Σₖ xₖ Wₖ."""
    return _by_platform(_native_convolve, _product_convolve, native, x, weight, windows, groups)


def input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: Native) -> jax.Array:
    """x = Σₖ Sₖᵀ (y Wₖᵀ): every element of y is spread over its window."""
    return _by_platform(_native_input_gradient, _product_input_gradient, native, y, weight, windows, groups)


def weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, native: Native) -> jax.Array:
    """Wₖ = xₖᵀ y, in the shape of the weight."""
    return _by_platform(_native_weight_gradient, _product_weight_gradient, native, x, y, windows, groups)


Map: TypeAlias = Callable[[jax.Array, jax.Array, Windows, int], jax.Array]
"""``map(first, second, windows, groups)`` is linear in each of the two arrays."""


@dataclass(frozen=True)
class _MapOfWindows:
    """A map with its settings, so that it is a function of two arrays."""

    map: Map
    windows: Windows
    groups: int

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        return self.map(first, second, self.windows, self.groups)


def _by_platform(
    native_map: Map,
    product_map: Map,
    native: Native,
    first: jax.Array,
    second: jax.Array,
    windows: Windows,
    groups: int,
) -> jax.Array:
    """Computes a map by the program for the platform that is compiled for."""
    on_cpu = native_map if native.on_cpu else product_map
    elsewhere = native_map if native.elsewhere else product_map
    # The operations of every program count as those of XLA's convolution, whatever computes them.
    formula, cpu, others = (_MapOfWindows(one, windows, groups) for one in (native_map, on_cpu, elsewhere))
    return bilinear(first, second, PlatformPrograms(formula, cpu, others))


def _product_convolve(x: jax.Array, weight: jax.Array, windows: Windows, groups: int) -> jax.Array:
    if groups == 1 and _come_in_pairs(weight, windows):
        return _product_of_pairs(x, weight, windows)
    if groups == 1:
        return _product(x, weight, windows)
    place_weights = _place_weights(weight, groups)
    if windows.places > MOST_PLACES:
        y = jnp.einsum("...kgc,kcgo->...go", _grouped(stacked_places(x, windows), groups), place_weights)
        return y.reshape(*y.shape[:-2], weight.shape[-1])
    parts = window_places(x, windows)
    if weight.shape[-2] == 1:
        # One input channel in each group (a depthwise convolution): elementwise products instead of matrix products.
        # Channel g of the input has the outputs g · times to (g + 1) · times - 1.
        times = weight.shape[-1] // groups
        rows = [jnp.expand_dims(of_place.reshape(-1), range(x.ndim - 1)) for of_place in place_weights]
        return sum_arrays([jnp.repeat(part, times, axis=-1) * row for part, row in zip(parts, rows, strict=True)])
    # patches has the shape (batch, *out_sizes, groups, places, in_size // groups).
    patches = jnp.stack([_grouped(part, groups) for part in parts], axis=-2)
    y = jnp.einsum("...gkc,kcgo->...go", patches, place_weights)
    return y.reshape(*y.shape[:-2], weight.shape[-1])


def _product_input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int) -> jax.Array:
    place_weights = _place_weights(weight, groups)
    if groups == 1:
        # One product gives the parts y Wₖᵀ of all places, side by side on the last axis.
        columns = y @ place_weights.reshape(-1, weight.shape[-1]).T
        if windows.places > MOST_PLACES:
            return sum_stacked_places(columns.reshape(*y.shape[:-1], windows.places, -1), windows)
        return sum_window_places(jnp.split(columns, windows.places, axis=-1), windows)
    if windows.places > MOST_PLACES:
        stacked = jnp.einsum("...go,kcgo->...kgc", _grouped(y, groups), place_weights)
        return sum_stacked_places(stacked.reshape(*stacked.shape[:-2], -1), windows)
    # parts has the shape (places, batch, *out_sizes, groups, in_size // groups).
    parts = jnp.einsum("...go,kcgo->k...gc", _grouped(y, groups), place_weights)
    return sum_window_places(list(parts.reshape(*parts.shape[:-2], groups * weight.shape[-2])), windows)


def _product_weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int) -> jax.Array:
    if groups == 1:
        # The product sums over batch and out_sizes. Its rows are all places and input channels.
        weight_bar = summed_product(_patches(x, windows), y)
    elif windows.places > MOST_PLACES:
        grouped_x = _grouped(stacked_places(x, windows), groups)
        weight_bar = jnp.einsum("...kgc,...go->kcgo", grouped_x, _grouped(y, groups))
    else:
        parts, grouped_y = window_places(x, windows), _grouped(y, groups)
        weight_bar = jnp.stack([jnp.einsum("...gc,...go->cgo", _grouped(part, groups), grouped_y) for part in parts])
    return weight_bar.reshape(*windows.window, x.shape[-1] // groups, y.shape[-1])


def _native_convolve(x: jax.Array, weight: jax.Array, windows: Windows, groups: int) -> jax.Array:
    return _convolution(x, weight, windows.stride, windows.pads, windows.dilation, groups)


def _patches(x: jax.Array, windows: Windows) -> jax.Array:
    """All elements of each window on the last axis: (batch, *out_sizes, places · in_size)."""
    if windows.places > MOST_PLACES:
        stacked = stacked_places(x, windows)
        return stacked.reshape(*stacked.shape[:-2], -1)
    return jnp.concatenate(window_places(x, windows), axis=-1)


def _product(x: jax.Array, weight: jax.Array, windows: Windows) -> jax.Array:
    return _patches(x, windows) @ weight.reshape(-1, weight.shape[-1])


def _come_in_pairs(weight: jax.Array, windows: Windows) -> bool:
    """Whether it is faster to compute neighboring outputs together: their windows overlap, and channels are few."""
    size, stride, dilation = windows.window[-1], windows.stride[-1], windows.dilation[-1]
    return size > 1 and stride == dilation == 1 and max(weight.shape[-2:]) <= 32


def _product_of_pairs(x: jax.Array, weight: jax.Array, windows: Windows) -> jax.Array:
    """The same as ``_product``, with two neighbors on the last spatial axis as one element of twice the channels.

    The patches then have fewer and longer pieces, and the product has more columns. In return some weights are zero:
    neighbor a of the input, J pairs further on, has the weight W[2 J + a - b] for neighbor b of the output.
    """
    size, out, n = windows.window[-1], windows.out_sizes[-1], windows.in_sizes[-1]
    before, _ = windows.pads[-1]
    # A pair of outputs sees its own pair of inputs and ``further`` more pairs; an odd output is filled up to a pair.
    further, pairs = size // 2, -(-out // 2)
    long = 2 * (further + 1)
    # Pad the last spatial axis to whole pairs, and move each pair's neighbors to the channels.
    leading = ((0, 0, 0),) * (x.ndim - 2)
    zero = jnp.zeros((), x.dtype)
    paired_x = lax.pad(x, zero, (*leading, (before, 2 * (pairs + further) - n - before, 0), (0, 0, 0)))
    paired_x = paired_x.reshape(*x.shape[:-2], pairs + further, 2 * x.shape[-1])
    # The weight for each neighbor b of an output: the window, b places further on, with zeros around it.
    leading = ((0, 0, 0),) * (weight.ndim - 3)
    neighbors = [lax.pad(weight, zero, (*leading, (b, long - size - b, 0), (0, 0, 0), (0, 0, 0))) for b in (0, 1)]
    shape = (*weight.shape[:-3], further + 1, 2 * weight.shape[-2])
    paired_weight = jnp.concatenate([part.reshape(*shape, -1) for part in neighbors], axis=-1)
    # Pairs of outputs are next to each other, so the convolution over pairs has stride 1 and no padding.
    paired = Windows(
        (*windows.window[:-1], further + 1),
        windows.stride,
        windows.dilation,
        (*windows.pads[:-1], (0, 0)),
        (*windows.in_sizes[:-1], pairs + further),
        (*windows.out_sizes[:-1], pairs),
    )
    # Separate the neighbors again, and drop the output that filled the last pair.
    y = _product(paired_x, paired_weight, paired)
    return y.reshape(*y.shape[:-2], 2 * pairs, weight.shape[-1])[..., :out, :]


def _native_input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """A convolution of y, its elements ``stride`` apart, with the flipped window.

    Element o of y contributes to element o · stride + k · dilation - before of x. So element i of x is a sum over the
    elements (window - 1 - k) · dilation after i - (reach - before), with reach = (window - 1) · dilation. Hence the
    padding before is reach - before, and the padding after is what gives the size of x.
    """
    pads = tuple(
        (d * (size - 1) - before, n + before - ((out - 1) * s + 1))
        for size, s, d, (before, _), n, out in zip(*windows, strict=True)
    )
    space = len(windows.window)
    flipped = jnp.flip(weight, axis=tuple(range(space)))
    *window, in_part, out_size = weight.shape
    # Input and output channels change sides within each group: (*window, out_size // groups, groups, in_part).
    swapped = jnp.swapaxes(flipped.reshape(*window, in_part, groups, out_size // groups), -1, -3)
    kernel = swapped.reshape(*window, out_size // groups, groups * in_part)
    return _convolution(y, kernel, (1,) * space, pads, windows.dilation, groups, input_dilation=windows.stride)


def _native_weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """A convolution of x with y as its window. Channels take the place of the batch, and the batch that of channels.

    Wₖ is the sum of x[o · stride + k · dilation - before] y[o] over o. That is output k of a convolution with a window
    of the size of y, whose elements are ``stride`` apart, and with outputs ``dilation`` apart.
    """
    pads = tuple(
        (before, d * (size - 1) + (out - 1) * s + 1 - n - before)
        for size, s, d, (before, _), n, out in zip(*windows, strict=True)
    )
    space = range(1, y.ndim - 1)
    # by_channel has the shape (in_size // groups, *in_sizes, groups, batch): its examples are the channels of a group,
    # and its channels are the examples of every group.
    by_channel = jnp.transpose(_grouped(x, groups), (y.ndim, *space, y.ndim - 1, 0))
    examples = by_channel.reshape(*by_channel.shape[:-2], -1)
    kernel = jnp.transpose(y, (*space, 0, y.ndim - 1))
    # The result (in_size // groups, *window, out_size) has the input channels first. In a weight they are next to last.
    return jnp.moveaxis(_convolution(examples, kernel, windows.dilation, pads, windows.stride, groups), 0, -2)


def _convolution(
    x: jax.Array,
    weight: jax.Array,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    input_dilation: Sequence[int] | None = None,
) -> jax.Array:
    spatial = "DHW"[-len(stride) :]
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        pads,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
    )


def _place_weights(weight: jax.Array, groups: int) -> jax.Array:
    """The weights of every place in the window, (places, in_size // groups, groups, out_size // groups)."""
    *window, in_part, out_size = weight.shape
    return weight.reshape(math.prod(window), in_part, groups, out_size // groups)


def _grouped(channels: jax.Array, groups: int) -> jax.Array:
    return channels.reshape(*channels.shape[:-1], groups, channels.shape[-1] // groups)
