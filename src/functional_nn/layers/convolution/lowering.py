"""The three linear maps of a convolution, each as matrix products and as the platform's own convolution.

With x (batch, *in_sizes, in_size), weight W (*window, in_size // groups, out_size), y (batch, *out_sizes, out_size) and
xₖ = Sₖ x what place k of the window sees (``windows.seen``), all three come from one trilinear form, Σₖ ⟨xₖ Wₖ, y⟩:

    convolve   y = Σₖ xₖ Wₖ            the convolution of machine learning (nothing is turned around)
    input_gradient      x = Σₖ Sₖᵀ (y Wₖᵀ)      its transpose for x
    weight_gradient       Wₖ = xₖᵀ y              its transpose for W, summed over batch and out_sizes

Each is the derivative of the others. With groups, in_size and out_size fall into as many equal parts, and part g of y
comes from part g of x alone.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.layers.convolution.sliding_windows import Windows, added, put_back, seen

LOWERINGS = ("auto", "native", "product")

FEW_CHANNELS = 8
"""From so many on XLA's convolution was measured to be quicker in a forward pass."""

MOST_SHARES, LEAST_EXAMPLES, WORTH_SHARES = 4, 16, 150_000_000
"""Into how many a batch is cut for the gradient of a weight, of how many examples each is at least, and from how many
multiply-adds on."""


def forward_is_native(lowering: str, x: jax.Array, windows: Windows, groups: int, differentiated: bool) -> bool:
    """Whether a forward pass uses XLA's convolution and not matrix products.

    On a CPU, inside a loop, XLA is fast only for a convolution whose axes are in the usual order. Those that JAX
    derives from a convolution are not. So ``"auto"`` takes matrix products on a CPU where JAX differentiates the
    forward pass. Where it does not, ``"auto"`` decides as in ``backward_is_native``, but takes matrix products for an
    input of few channels too.
    """
    if lowering == "auto" and jax.default_backend() == "cpu":
        if differentiated or x.shape[-1] < FEW_CHANNELS:
            return False
        return backward_is_native(lowering, windows, groups)
    return lowering != "product"


def backward_is_native(lowering: str, windows: Windows, groups: int) -> bool:
    """Whether the maps of a hand-derived backward pass are XLA's convolution; their axes are in the usual order.

    On CPU ``"auto"`` takes it where it was measured to be quicker: over one or two axes, without groups, and for
    windows of more than one place.
    """
    if lowering == "auto" and jax.default_backend() == "cpu":
        return groups == 1 and windows.places > 1 and len(windows.window) < 3
    return lowering != "product"


def convolve(x: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """y = Σₖ xₖ Wₖ."""
    if native:
        return _convolution(x, weight, windows.stride, windows.pads, windows.dilation, groups)
    if groups == 1:
        return (
            _product_of_pairs(x, weight, windows) if _come_in_pairs(weight, windows) else _product(x, weight, windows)
        )
    parts, taps = seen(x, windows), _taps(weight, groups)
    if weight.shape[-2] == 1:
        times = weight.shape[-1] // groups
        rows = [jnp.expand_dims(tap.reshape(-1), range(x.ndim - 1)) for tap in taps]
        return added([jnp.repeat(part, times, axis=-1) * row for part, row in zip(parts, rows, strict=True)])
    patches = jnp.stack([_grouped(part, groups) for part in parts], axis=-2)
    y = jnp.einsum("...gkc,kcgo->...go", patches, taps)
    return y.reshape(*y.shape[:-2], -1)


def input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """x = Σₖ Sₖᵀ (y Wₖᵀ): every element of y is spread over the window that it came from."""
    if native:
        return _native_input_gradient(y, weight, windows, groups)
    taps = _taps(weight, groups)
    if groups == 1:
        columns = y @ taps.reshape(-1, weight.shape[-1]).T
        return put_back(jnp.split(columns, windows.places, axis=-1), windows)
    parts = jnp.einsum("...go,kcgo->k...gc", _grouped(y, groups), taps)
    return put_back(list(parts.reshape(*parts.shape[:-2], -1)), windows)


def weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """Wₖ = xₖᵀ y, in the shape of the weight."""
    if native:
        work = y.size * windows.places * (x.shape[-1] // groups)
        return added([_native_weight_gradient(*share, windows, groups) for share in _shares(x, y, work)])
    if groups == 1:
        rows = tuple(range(y.ndim - 1))
        taps = jnp.tensordot(_patches(x, windows), y, axes=(rows, rows))
    else:
        parts, grouped_y = seen(x, windows), _grouped(y, groups)
        taps = jnp.stack([jnp.einsum("...gc,...go->cgo", _grouped(part, groups), grouped_y) for part in parts])
    return taps.reshape(*windows.window, x.shape[-1] // groups, y.shape[-1])


def _shares(x: jax.Array, y: jax.Array, work: int) -> list[tuple[jax.Array, jax.Array]]:
    """A batch on CPU, cut into a few shares whose convolutions for the weight go on side by side.

    One of them alone keeps two cores busy only in part. Where the batch is divided among devices each has one core's
    work, and to cut it would bring examples from one to another.
    """
    count = min(MOST_SHARES, x.shape[0] // LEAST_EXAMPLES)
    is_divided = not all(jax.typeof(array).sharding.mesh.empty for array in (x, y))
    if jax.default_backend() != "cpu" or is_divided or count < 2 or work < WORTH_SHARES:
        return [(x, y)]
    return list(zip(jnp.array_split(x, count), jnp.array_split(y, count), strict=True))


def _patches(x: jax.Array, windows: Windows) -> jax.Array:
    """All that a window sees, side by side: (batch, *out_sizes, places · in_size)."""
    return jnp.concatenate(seen(x, windows), axis=-1)


def _product(x: jax.Array, weight: jax.Array, windows: Windows) -> jax.Array:
    return _patches(x, windows) @ weight.reshape(-1, weight.shape[-1])


def _come_in_pairs(weight: jax.Array, windows: Windows) -> bool:
    """Whether neighboring outputs are better computed together: their windows overlap, and channels are few."""
    size, stride, dilation = windows.window[-1], windows.stride[-1], windows.dilation[-1]
    return size > 1 and stride == dilation == 1 and max(weight.shape[-2:]) <= 32


def _product_of_pairs(x: jax.Array, weight: jax.Array, windows: Windows) -> jax.Array:
    """The same, with two neighbors on the last spatial axis taken for one element of twice the channels.

    The patches have fewer and longer pieces and the product more columns, for zeros in the weight: neighbor b of an
    output sees neighbor a of the input, J pairs further, by W[2 J + a - b].
    """
    (size, out, n), (before, _) = (windows.window[-1], windows.out_sizes[-1], windows.in_sizes[-1]), windows.pads[-1]
    further, pairs = size // 2, -(-out // 2)
    long = 2 * (further + 1)
    flat = ((0, 0, 0),) * (x.ndim - 2)
    zero = jnp.zeros((), x.dtype)
    paired_x = lax.pad(x, zero, (*flat, (before, 2 * (pairs + further) - n - before, 0), (0, 0, 0)))
    paired_x = paired_x.reshape(*x.shape[:-2], pairs + further, -1)
    above = ((0, 0, 0),) * (weight.ndim - 3)
    neighbors = [lax.pad(weight, zero, (*above, (b, long - size - b, 0), (0, 0, 0), (0, 0, 0))) for b in (0, 1)]
    shape = (*weight.shape[:-3], further + 1, 2 * weight.shape[-2])
    paired_weight = jnp.concatenate([part.reshape(*shape, -1) for part in neighbors], axis=-1)
    paired = Windows(
        (*windows.window[:-1], further + 1),
        windows.stride,
        windows.dilation,
        (*windows.pads[:-1], (0, 0)),
        (*windows.in_sizes[:-1], pairs + further),
        (*windows.out_sizes[:-1], pairs),
    )
    y = _product(paired_x, paired_weight, paired)
    return y.reshape(*y.shape[:-2], 2 * pairs, -1)[..., :out, :]


def _native_input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """A convolution of y, its elements ``stride`` apart, with the window turned around.

    Element o of y reaches element o · stride + k · dilation - before of x. So element i of x gathers what lies
    (window - 1 - k) · dilation after i - (reach - before), with reach = (window - 1) · dilation: that is the padding
    before, and the padding after makes up the size of x.
    """
    pads = tuple(
        (d * (size - 1) - before, n + before - ((out - 1) * s + 1))
        for size, s, d, (before, _), n, out in zip(*windows, strict=True)
    )
    space = len(windows.window)
    turned = jnp.flip(weight, axis=tuple(range(space)))
    *window, in_part, out_size = weight.shape
    swapped = jnp.swapaxes(turned.reshape(*window, in_part, groups, out_size // groups), -1, -3)
    kernel = swapped.reshape(*window, out_size // groups, groups * in_part)
    return _convolution(y, kernel, (1,) * space, pads, windows.dilation, groups, holes=windows.stride)


def _native_weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """A convolution of x with y for its window: channels stand for the batch, and the batch for channels.

    Wₖ sums x[o · stride + k · dilation - before] y[o] over o: what a window of y's size, its elements ``stride`` apart,
    sees at place k of an output, ``dilation`` apart.
    """
    pads = tuple(
        (before, d * (size - 1) + (out - 1) * s + 1 - n - before)
        for size, s, d, (before, _), n, out in zip(*windows, strict=True)
    )
    space = range(1, y.ndim - 1)
    by_channel = jnp.transpose(_grouped(x, groups), (y.ndim, *space, y.ndim - 1, 0))
    examples = by_channel.reshape(*by_channel.shape[:-2], -1)
    kernel = jnp.transpose(y, (*space, 0, y.ndim - 1))
    return jnp.moveaxis(_convolution(examples, kernel, windows.dilation, pads, windows.stride, groups), 0, -2)


def _convolution(x, weight, stride, pads, dilation, groups, holes=None) -> jax.Array:
    spatial = "DHW"[-len(stride) :]
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        pads,
        lhs_dilation=holes,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
    )


def _taps(weight: jax.Array, groups: int) -> jax.Array:
    """The weights of every place in the window, (places, in_size // groups, groups, out_size // groups)."""
    *window, in_part, out_size = weight.shape
    return weight.reshape(math.prod(window), in_part, groups, out_size // groups)


def _grouped(channels: jax.Array, groups: int) -> jax.Array:
    return channels.reshape(*channels.shape[:-1], groups, -1)
