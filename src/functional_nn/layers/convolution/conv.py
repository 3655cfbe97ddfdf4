"""Convolution over one, two or three spatial axes, and its transpose; channels are the last axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.core.channels_first import explaining_channels_first
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import TwoForwardPasses
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.layer_checks import (
    check_entries,
    check_entry_shapes,
    check_floating,
    check_shape,
    without_input_size,
)
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import check_choice, check_count, check_flag
from functional_nn.layers.convolution.lowering import (
    LOWERINGS,
    backward_is_native,
    convolve,
    forward_is_native,
    input_gradient,
    weight_gradient,
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

    >>> layer = conv(1, 2, padding="valid")
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]]]), "bias": jnp.zeros(1)}
    >>> print(layer.apply(params, {}, jnp.array([[[1.0], [2.0], [3.0]]]), train=False)[0].ravel())
    [21. 32.]

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition"; Goodfellow, Bengio, Courville,
        "Deep Learning", section 9.5 and equations 9.11 to 9.13; Chellapilla, Puri, Simard 2006 (the matrix product).
    """
    out_size, groups, bias = check_count("out_size", out_size), check_count("groups", groups), check_flag("bias", bias)
    _check_settings(out_size, groups, lowering, window=window, stride=stride, dilation=dilation)
    check_padding(padding, ("same", "valid", "causal"))

    def place(in_sizes: Sequence[int]) -> Windows:
        return place_windows(in_sizes, window, stride=stride, dilation=dilation, padding=padding)

    def init(key, in_shape):
        in_size, windows = _started(in_shape, window, groups, place)
        weight, bias_value = _grouped_start(initializer, key, (*windows.window, in_size, out_size), groups)
        return ({"weight": weight, "bias": bias_value} if bias else {"weight": weight}), {}

    def shapes(window: Shape) -> dict[str, tuple[int | str, ...]]:
        weight = (*window, "in_size // groups", out_size)
        return {"weight": weight, "bias": (out_size,)} if bias else {"weight": weight}

    maps = _Maps(convolve, weight_gradient, input_gradient, lambda weight: weight.shape[-2] * groups, shapes)
    return _convolution_layer(name, init, place, maps, window, groups, bias, lowering)


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

    >>> layer = conv_transpose(1, 2, stride=2)
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]]]), "bias": jnp.zeros(1)}
    >>> print(layer.apply(params, {}, jnp.array([[[1.0], [2.0]]]), train=False)[0].ravel())
    [ 1. 10.  2. 20.]

    References:
        Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin and Visin 2016, "A guide to convolution arithmetic".
    """
    out_size, groups, bias = check_count("out_size", out_size), check_count("groups", groups), check_flag("bias", bias)
    _check_settings(out_size, groups, lowering, window=window, stride=stride, dilation=dilation)
    check_padding(padding, ("same", "valid"), least=None)

    def place(sizes: Sequence[int]) -> Windows:
        """The windows of the convolution whose transpose this is: its output has the sizes of x."""
        axes = len(sizes)
        each, strides, dilations = (
            per_axis(argument, value, axes)
            for argument, value in (("window", window), ("stride", stride), ("dilation", dilation))
        )
        spans = [d * (k - 1) + 1 for k, d in zip(each, dilations, strict=True)]
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
        if min(enlarged) < 1:
            raise InputError("padding", "less than the output it is cut from", f"{pads}, which leaves {enlarged}")
        return Windows(each, strides, dilations, pads, enlarged, tuple(sizes))

    def init(key, in_shape):
        in_size, windows = _started(in_shape, window, groups, place)
        weight, bias_value = _grouped_start(initializer, key, (*windows.window, in_size, out_size), groups)
        # Within each group, input and output channels change sides: (*window, out_size // groups, groups, in_part).
        *sizes, in_part, _ = weight.shape
        parts = jnp.swapaxes(weight.reshape(*sizes, in_part, groups, -1), -1, -3)
        weight = parts.reshape(*sizes, out_size // groups, in_size)
        return ({"weight": weight, "bias": bias_value} if bias else {"weight": weight}), {}

    def shapes(window: Shape) -> dict[str, tuple[int | str, ...]]:
        weight = (*window, out_size // groups, "in_size")
        return {"weight": weight, "bias": (out_size,)} if bias else {"weight": weight}

    # The transpose of a convolution: its forward pass is the convolution's map for x_bar, and the other way round.
    maps = _Maps(
        input_gradient,
        lambda x, y_bar, *settings: weight_gradient(y_bar, x, *settings),
        convolve,
        lambda weight: weight.shape[-1],
        shapes,
    )
    return _convolution_layer(name, init, place, maps, window, groups, bias, lowering)


class _Maps(NamedTuple):
    """The three linear maps of a layer, the shapes of its parameters, and the number of input channels of its weight.

    Args:
        output: ``output(x, weight, windows, groups, native) -> y``, without the bias.
        weight_bar: ``weight_bar(x, y_bar, windows, groups, native)``.
        x_bar: ``x_bar(y_bar, weight, windows, groups, native)``.
        in_size: ``in_size(weight)``.
        shapes: ``shapes(window)``, the shapes of its parameters by name.
    """

    output: Callable[..., jax.Array]
    weight_bar: Callable[..., jax.Array]
    x_bar: Callable[..., jax.Array]
    in_size: Callable[[jax.Array], int]
    shapes: Callable[[Shape], dict[str, tuple[int | str, ...]]]


def _convolution_layer(
    name: str,
    init: Callable[..., tuple[Params, State]],
    place: Callable[[Sequence[int]], Windows],
    maps: _Maps,
    window: Sizes,
    groups: int,
    bias: bool,
    lowering: str,
) -> Layer:
    """The layer of a convolution or of its transpose, with a forward pass for each way of differentiation."""

    def forward_in_version(params, state, x, *, train, key=None, differentiated):
        check_entries("params", params, ("weight", "bias") if bias else ("weight",))
        weight = params["weight"]
        check_floating(x)
        with explaining_channels_first(x.shape):
            check_images(x.shape, window)
            _check_channels(x, weight, maps.in_size(weight))
            windows = place(x.shape[1:-1])
        check_entry_shapes("params", params, maps.shapes(windows.window))
        native = forward_is_native(lowering, x, windows, groups, differentiated)
        y = maps.output(x, weight, windows, groups, native)
        return _plus_bias(y, params, bias), state, (x, weight)

    def backward(residuals, y_bar):
        x, weight = residuals
        windows = place(x.shape[1:-1])
        native = backward_is_native(lowering, windows, groups)
        params_bar = {"weight": maps.weight_bar(x, y_bar, windows, groups, native)}
        x_bar = maps.x_bar(y_bar, weight, windows, groups, native)
        return _with_bias_bar(params_bar, y_bar, bias), x_bar

    forward = TwoForwardPasses(
        differentiable=partial(forward_in_version, differentiated=True),
        by_hand=partial(forward_in_version, differentiated=False),
    )
    return Layer(name, init, forward, backward)


def _started(
    in_shape: Shape, window: Sizes, groups: int, place: Callable[[Sequence[int]], Windows]
) -> tuple[int, Windows]:
    """The number of input channels and the windows, for an input that fits."""
    *in_sizes, in_size = check_shape(in_shape, "spatial axes and channels, (…, in_size)")
    with explaining_channels_first((1, *in_sizes, in_size)):
        check_images((1, *in_sizes, in_size), window)
        if in_size % groups:
            raise InputError("groups", f"a divisor of the {in_size} input channels", groups)
        return in_size, place(in_sizes)


def _grouped_start(initializer: Initializer, key: jax.Array, shape: Shape, groups: int) -> tuple[jax.Array, jax.Array]:
    """Weight (*window, in_size // groups, out_size) and bias: every group starts as a convolution of its own."""
    *window, in_size, out_size = shape
    own = (*window, in_size // groups, out_size // groups)
    if groups == 1:
        return weight_and_bias(initializer, key, own)
    # weights has the shape (groups, *window, in_size // groups, out_size // groups).
    weights, biases = jax.vmap(lambda key: weight_and_bias(initializer, key, own))(jax.random.split(key, groups))
    return jnp.moveaxis(weights, 0, -2).reshape(*own[:-1], out_size), biases.reshape(out_size)


def _check_settings(out_size: int, groups: int, lowering: str, **sizes: Sizes) -> None:
    check_sizes(**sizes)
    if out_size % groups:
        raise InputError("groups", f"a divisor of out_size, {out_size}", groups)
    check_choice("lowering", lowering, LOWERINGS)


def _check_channels(x: jax.Array, weight: jax.Array, in_size: int) -> None:
    if x.ndim != weight.ndim:
        axes = "one spatial axis" if weight.ndim == 3 else f"{weight.ndim - 2} spatial axes"
        expected = f"a batch axis, {axes} and {in_size} channels, for a weight of shape {weight.shape}"
        raise InputError("x", expected, f"shape {x.shape}", "For one example, add a batch axis: x[None].")
    if x.shape[-1] != in_size:
        expected = f"{in_size} channels on the last axis, for a weight of shape {weight.shape}"
        raise InputError("x", expected, f"{x.shape[-1]} (shape {x.shape})", "Initialize with this in_shape.")


def _plus_bias(y: jax.Array, params, bias: bool) -> jax.Array:
    return y + jnp.expand_dims(params["bias"], range(y.ndim - 1)) if bias else y


def _with_bias_bar(params_bar: dict, y_bar: jax.Array, bias: bool) -> dict:
    return params_bar | ({"bias": jnp.sum(y_bar, axis=tuple(range(y_bar.ndim - 1)))} if bias else {})
