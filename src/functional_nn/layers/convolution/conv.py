"""Convolution over one, two or three spatial axes, and its transpose; channels are the last axis.

The three linear maps of a convolution are written as matrix products and as XLA's own convolution.

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
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import check, explaining_channels_first
from functional_nn.core.layer import Layer, TwoForwardPasses
from functional_nn.core.products import ONNX, platform, summed_product
from functional_nn.core.shapes import Shape
from functional_nn.core.texts import counted
from functional_nn.core.validation import (
    check_choice,
    check_count,
    check_entries,
    check_entry_shapes,
    check_flag,
    check_floating,
    check_input,
    check_shape,
    without_input_size,
)
from functional_nn.layers.convolution.sliding_windows import (
    Padding,
    Sizes,
    Windows,
    check_images,
    check_padding,
    check_sizes,
    explicit_pads,
    per_axis,
    place_windows,
    stacked_places,
    sum_arrays,
    sum_stacked_places,
    sum_window_places,
    window_places,
)
from functional_nn.layers.initializers import Initializer, weight_and_bias


@without_input_size("out_size", "window")
def conv(
    out_size: int,
    window: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    initializer: Initializer = "he",
    lowering: str = "auto",
    name: str = "conv",
) -> Layer:
    """A convolution: the same weighted sum over the window at every place (the window is not flipped).

    Math:
        yₙₒⱼ = Σₖ Σᵢ xₙᵢ[o s + k d - p] Wₖᵢⱼ + bⱼ, with o a place of the output and k one of the window (one number
        for each spatial axis), s the stride, d the dilation, p the padding before, and x = 0 where it is padding.

        Let xₖ[o] = x[o s + k d - p] be the elements at place k of all windows. Then y is a sum of matrix products,
        y = Σₖ xₖ Wₖ + b.

    Shapes:
        x (batch, *in_sizes, in_size), weight (*window, in_size // groups, out_size), bias (out_size,),
        y (batch, *out_sizes, out_size) with out_sizes = (in_sizes + padding - (window - 1) d - 1) // s + 1,
        which is in_sizes / s, rounded up, for ``"same"``

    Gradient:
        1. Wₖᵢⱼ is the factor of xₙᵢ[o s + k d - p] in every yₙₒⱼ, so weight_barₖ = xₖᵀ y_bar, summed over n and o, and
           bias_bar = Σₙₒ y_barₙₒ.
        2. xₖ is used in the product with Wₖ only, so its cotangent is xₖ_bar = y_bar Wₖᵀ.
        3. xₖ = Sₖ x picks elements of x. The transpose of picking is adding back: x_bar = Σₖ Sₖᵀ xₖ_bar. Sₖᵀ puts
           element o at place o s + k d - p, with s - 1 zeros between elements, and drops the padding. So x_bar is a
           convolution of y_bar, its elements s apart, with the flipped window.
        4. With groups, 1 to 3 hold for the channels of each group.

    Args:
        out_size: the number of output channels.
        window: the window's size; one number for every spatial axis, or a tuple.
        stride: the distance between windows.
        padding: ``"same"`` (out_sizes = in_sizes / stride, rounded up; the odd element of padding comes after),
            ``"valid"`` (none), ``"causal"`` (one spatial axis; all before, so that no output sees a later input), or
            one pair (before, after) for each spatial axis.
        dilation: the distance between the elements that a window sees.
        groups: how many separate convolutions the channels are divided into; in_size for a depthwise one.
        bias: whether b is added.
        initializer: see ``dense``; fan-in and fan-out are window · channels of one group. He's by default, since most
            convolutions stand before a ReLU.
        lowering: ``"native"`` (XLA's convolution), ``"product"`` (patches and one matrix product), or ``"auto"``, the
            one that was measured to be faster on the platform that is compiled for: to differentiate, or inside
            ``with_hand_vjp`` to compute. They differ in speed and rounding only.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for a window larger than the padded input, or a number of channels that is not a multiple of groups.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.conv(1, 2, padding="valid")
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]]]), "bias": jnp.zeros(1)}
    >>> print(layer.apply(params, {}, jnp.array([[[1.0], [2.0], [3.0]]]), train=False)[0].ravel())
    [21. 32.]

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition"; Goodfellow, Bengio, Courville,
        "Deep Learning", section 9.5 and equations 9.11 to 9.13; Chellapilla, Puri, Simard 2006 (the matrix product).
    """
    check_sizes(window=window, stride=stride, dilation=dilation)
    check_padding(padding, ("same", "valid", "causal"))

    def place(in_sizes: Sequence[int]) -> Windows:
        return place_windows(in_sizes, window, stride=stride, dilation=dilation, padding=padding)

    return _convolution_layer(name, place, out_size, window, groups, bias, initializer, lowering)


@without_input_size("out_size", "window")
def conv_transpose(
    out_size: int,
    window: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    initializer: Initializer = "he",
    lowering: str = "auto",
    name: str = "conv_transpose",
) -> Layer:
    """The transpose of a convolution: every input is spread over a window, ``stride`` apart; it enlarges images.

    Math:
        yₙⱼ[a] = Σ Σᵢ xₙₒᵢ Wₖⱼᵢ + bⱼ, summed over all o and k with o s + k d - p = a. With Sₖ as in ``conv``,
        y = Σₖ Sₖᵀ (x Wₖᵀ) + b. Without b, ⟨y, v⟩ = ⟨x, u⟩ where u is the convolution of v with the same weight,
        stride, padding and dilation.

    Shapes:
        x (batch, *in_sizes, in_size), weight (*window, out_size // groups, in_size): that of the convolution from
        out_size to in_size channels whose transpose this is; bias (out_size,), y (batch, *out_sizes, out_size) with
        out_sizes = (in_sizes - 1) s + (window - 1) d + 1 - padding, which is in_sizes · s for ``"same"``

    Gradient:
        y is linear in x and in W, and the transpose of the transpose is the convolution itself:
        x_bar = Σₖ (Sₖ y_bar) Wₖ. In the cotangent of W, x and y have changed sides: weight_barₖ = (Sₖ y_bar)ᵀ x. b is
        added everywhere: bias_bar = Σ y_bar.

    Args:
        out_size: the number of output channels.
        window: the window's size; one number for every spatial axis, or a tuple.
        stride: the distance between the windows in the output.
        padding: what is cut off the output: nothing for ``"valid"``, as much as gives out_sizes = in_sizes · stride for
            ``"same"`` (an odd element after; if the window is smaller than the stride, zeros are added after), or one
            pair (before, after) for each spatial axis, negative where zeros are added. PyTorch's ``padding=p,
            output_padding=q`` is (p, p - q), and its weight is this one with the axes (in, out, *window).
        dilation: the distance between the elements of a window.
        groups: how many separate ones the channels are divided into.
        bias: whether b is added.
        initializer: see ``dense``; the fan-in is window · in_size // groups, the fan-out window · out_size // groups.
        lowering: see ``conv``.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for an empty output, or a number of channels that is not a multiple of groups.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.conv_transpose(1, 2, stride=2)
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]]]), "bias": jnp.zeros(1)}
    >>> print(layer.apply(params, {}, jnp.array([[[1.0], [2.0]]]), train=False)[0].ravel())
    [ 1. 10.  2. 20.]

    References:
        Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin and Visin 2016, "A guide to convolution arithmetic".
    """
    check_sizes(window=window, stride=stride, dilation=dilation)
    check_padding(padding, ("same", "valid"), least=None)

    def place(sizes: Sequence[int]) -> Windows:
        """The windows of the convolution whose transpose this is: its output has the sizes of x."""
        axes = len(sizes)
        each, strides, dilations, spans = per_axis(axes, window, stride, dilation)
        match padding:
            case "valid":
                pads = ((0, 0),) * axes
            case "same":
                # A pair adds up to span - s, so that the output has n s elements. Where that is negative, the pad after
                # is negative too: zeros are added to the output.
                before = [max(span - s, 0) // 2 for span, s in zip(spans, strides, strict=True)]
                pads = tuple((b, span - s - b) for b, span, s in zip(before, spans, strides, strict=True))
            case _:
                pads = explicit_pads(padding, axes)
        enlarged = tuple(
            (n - 1) * s + span - sum(pair) for n, s, span, pair in zip(sizes, strides, spans, pads, strict=True)
        )
        check("padding", pads, "less than the output that it is cut from", min(enlarged) >= 1)
        return Windows(each, strides, dilations, pads, enlarged, tuple(sizes))

    return _convolution_layer(name, place, out_size, window, groups, bias, initializer, lowering, is_transposed=True)


def _convolution_layer(
    name: str,
    place: Callable[[Sequence[int]], Windows],
    out_size: int,
    window: Sizes,
    groups: int,
    bias: bool,
    initializer: Initializer,
    lowering: str,
    *,
    is_transposed: bool = False,
) -> Layer:
    """The layer of a convolution or of its transpose, with a forward pass for each way of differentiation.

    The forward pass of a transpose is the convolution's map for x_bar, and the other way round. Its weight is that of
    the convolution from its outputs to its inputs.
    """
    out_size, groups, bias = check_count("out_size", out_size), check_count("groups", groups), check_flag("bias", bias)
    check("groups", groups, f"a divisor of out_size, {out_size}", out_size % groups == 0)
    check_choice("lowering", lowering, LOWERINGS)
    output, transpose = (input_gradient, convolve) if is_transposed else (convolve, input_gradient)
    names: tuple[str, ...] = ("weight", "bias") if bias else ("weight",)

    def init(key, in_shape):
        *in_sizes, in_size = check_shape(in_shape, "(position, …, in_size)")
        with explaining_channels_first((1, *in_sizes, in_size)):
            check_images((1, *in_sizes, in_size), window)
            check("groups", groups, f"a divisor of the {counted(in_size, 'input channel')}", in_size % groups == 0)
            windows = place(in_sizes)
        weight, bias_value = _grouped_start(initializer, key, (*windows.window, in_size, out_size), groups)
        if is_transposed:
            # Within each group, input and output channels change sides: (*window, out_size // groups, groups, in_part).
            parts = jnp.swapaxes(weight.reshape(*weight.shape[:-1], groups, -1), -1, -3)
            weight = parts.reshape(*windows.window, out_size // groups, in_size)
        params: dict[str, jax.Array] = dict(zip(names, (weight, bias_value), strict=False))
        return params, {}

    def shapes(window: Shape) -> dict[str, tuple[int | str, ...]]:
        channels = (out_size // groups, "in_size") if is_transposed else ("in_size // groups", out_size)
        return dict(zip(names, ((*window, *channels), (out_size,)), strict=False))

    def forward_in_version(params, state, x, *, train, key=None, differentiated):
        check_entries("params", params, names)
        weight = params["weight"]
        check_floating(x)
        with explaining_channels_first(x.shape):
            check_images(x.shape, window if isinstance(window, Sequence) else weight.shape[:-2])
            in_size = weight.shape[-1] if is_transposed else weight.shape[-2] * groups
            check_input(x, "(batch, position, …, channels)", in_size)
            windows = place(x.shape[1:-1])
        check_entry_shapes("params", params, shapes(windows.window))
        native = forward_is_native(lowering, x, windows, groups, differentiated)
        y = output(x, weight, windows, groups, native)
        if bias:
            y = y + jnp.expand_dims(params["bias"], range(y.ndim - 1))
        return y, state, (x, weight)

    def backward(residuals, y_bar):
        x, weight = residuals
        windows = place(x.shape[1:-1])
        native = backward_is_native(lowering, windows, groups)
        seen, made = (y_bar, x) if is_transposed else (x, y_bar)
        # Its window would be as large as the image, and ONNX Runtime is slow with such a convolution.
        weight_is_native = native and platform() != ONNX
        params_bar = {"weight": weight_gradient(seen, made, windows, groups, weight_is_native)}
        if bias:
            params_bar["bias"] = jnp.sum(y_bar, axis=tuple(range(y_bar.ndim - 1)))
        return params_bar, transpose(y_bar, weight, windows, groups, native)

    forward = TwoForwardPasses(
        differentiable=partial(forward_in_version, differentiated=True),
        by_hand=partial(forward_in_version, differentiated=False),
    )
    return Layer(name, init, forward, backward, faster_by_formula=True)


def _grouped_start(initializer: Initializer, key: jax.Array, shape: Shape, groups: int) -> tuple[jax.Array, jax.Array]:
    """Weight (*window, in_size // groups, out_size) and bias: every group starts as a convolution of its own."""
    *window, in_size, out_size = shape
    own = (*window, in_size // groups, out_size // groups)
    if groups == 1:
        return weight_and_bias(initializer, key, own)
    # weights has the shape (groups, *window, in_size // groups, out_size // groups).
    weights, biases = jax.vmap(lambda key: weight_and_bias(initializer, key, own))(jax.random.split(key, groups))
    return jnp.moveaxis(weights, 0, -2).reshape(*own[:-1], out_size), biases.reshape(out_size)


LOWERINGS = ("auto", "native", "product")

FEW_CHANNELS = 8
"""The number of input channels from which XLA's convolution was measured to be faster in a forward pass."""

MOST_PLACES = 128
"""With more places in a window, matrix products have operations for its sizes along each axis, not for each place.

A program with an operation for each of 256 places compiled for 15 seconds, and with 9,801 it did not within a minute.
"""


def forward_is_native(lowering: str, x: jax.Array, windows: Windows, groups: int, differentiated: bool) -> bool:
    """Whether a forward pass uses XLA's convolution, and not matrix products.

    On a CPU, inside a loop, XLA is fast only for a convolution whose axes are in the usual order. Those that JAX
    derives from a convolution are not. So ``"auto"`` takes matrix products on a CPU where JAX differentiates the
    forward pass. Where it does not, ``"auto"`` decides as in ``backward_is_native``, but takes matrix products for an
    input of few channels too.
    """
    if lowering == "auto" and platform() == "cpu" and (differentiated or x.shape[-1] < FEW_CHANNELS):
        return False
    return backward_is_native(lowering, windows, groups)


def backward_is_native(lowering: str, windows: Windows, groups: int) -> bool:
    """Whether a hand-derived backward pass uses XLA's convolutions, whose axes here are in the usual order.

    On a CPU ``"auto"`` uses them where they were measured to be faster: over one or two axes, without groups, and for
    windows of more than one place.
    """
    if lowering != "auto":
        return lowering == "native"
    return platform() != "cpu" or (groups == 1 and windows.places > 1 and len(windows.window) < 3)


def convolve(x: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """y = Σₖ xₖ Wₖ."""
    x, weight = _in_one_type(x, weight)
    if native:
        return _convolution(x, weight, windows.stride, windows.pads, windows.dilation, groups)
    if groups == 1:
        return (_product_of_pairs if _come_in_pairs(weight, windows) else _product)(x, weight, windows)
    place_weights = _place_weights(weight, groups)
    is_large = windows.places > MOST_PLACES
    if weight.shape[-2] == 1 and not is_large:
        # One input channel in each group (a depthwise convolution): elementwise products instead of matrix products.
        # Channel g of the input has the outputs g · times to (g + 1) · times - 1.
        parts, times = window_places(x, windows), weight.shape[-1] // groups
        rows = [jnp.expand_dims(of_place.reshape(-1), range(x.ndim - 1)) for of_place in place_weights]
        return sum_arrays([jnp.repeat(part, times, axis=-1) * row for part, row in zip(parts, rows, strict=True)])
    # (batch, *out_sizes, places, in_size)
    stacked = stacked_places(x, windows) if is_large else jnp.stack(window_places(x, windows), axis=-2)
    y = jnp.einsum("...kgc,kcgo->...go", _grouped(stacked, groups), place_weights)
    return y.reshape(*y.shape[:-2], weight.shape[-1])


def input_gradient(y: jax.Array, weight: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """x = Σₖ Sₖᵀ (y Wₖᵀ): every element of y is spread over its window."""
    return (_native_input_gradient if native else _product_input_gradient)(*_in_one_type(y, weight), windows, groups)


def weight_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, native: bool) -> jax.Array:
    """Wₖ = xₖᵀ y, in the shape of the weight."""
    return (_native_weight_gradient if native else _product_weight_gradient)(*_in_one_type(x, y), windows, groups)


def _in_one_type(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = jnp.result_type(first, second)
    return jnp.asarray(first, dtype), jnp.asarray(second, dtype)


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
    orders = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
    dilations = {"lhs_dilation": input_dilation, "rhs_dilation": dilation}
    return lax.conv_general_dilated(
        x, weight, stride, pads, **dilations, dimension_numbers=orders, feature_group_count=groups
    )


def _place_weights(weight: jax.Array, groups: int) -> jax.Array:
    """The weights of every place in the window, (places, in_size // groups, groups, out_size // groups)."""
    *window, in_part, out_size = weight.shape
    return weight.reshape(math.prod(window), in_part, groups, out_size // groups)


def _grouped(channels: jax.Array, groups: int) -> jax.Array:
    return channels.reshape(*channels.shape[:-1], groups, channels.shape[-1] // groups)
