"""Normalization of each example alone: of its features, or of its channels in groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Shape
from functional_nn.core.layer_checks import check_entries, check_shape
from functional_nn.core.masked import values_of, with_mask_of
from functional_nn.core.validation import check_count, check_flag
from functional_nn.layers.normalization.standardize import (
    Axes,
    Groups,
    affine,
    affine_pullback,
    check_epsilon,
    chosen_axes,
    normalize,
    normalize_pullback,
    opened,
)


def layer_norm(
    *,
    axes: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    scale: bool = True,
    bias: bool = True,
    name: str = "layer_norm",
) -> Layer:
    """Normalizes the features of each example (and of each step of a sequence) to mean 0 and variance 1.

    Math:
        μ and σ² are the mean and the biased variance of the m values along the axes.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        On padding of ``Masked`` sequences y is 0; with the time axis among the axes only real steps are counted.
        Statistics are computed in float32 at least.

    Shapes:
        x and y (batch, …, features); scale and bias have the sizes of the axes: (features,)

    Gradient:
        With s = 1/√(σ² + ε) and g = scale · y_bar the cotangent of x̂. μ and s depend on all m values: ∂μ/∂x = 1/m,
        ∂s/∂x = -s² x̂ / m (from ∂σ²/∂x = 2 (x - μ) / m and ∂s/∂σ² = -s³ / 2). Hence

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m) with sums along the axes, and with sums along all other axes
        scale_bar = Σ(y_bar x̂), bias_bar = Σ y_bar

    Args:
        axes: the axes of x to normalize along, without the batch axis 0; several as a tuple.
        epsilon: ε, added to the variance. With 0, equal values have no finite gradient.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for axes that x does not have, or with one value alone, whose x̂ is always 0.

    >>> layer = layer_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[1.0, 3.0], [30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.]
     [ 1. -1.]]

    References:
        Ba, Kiros and Hinton 2016, "Layer normalization", equations 3 and 4.
    """

    def along(rank):
        return chosen_axes(axes, rank, batch=False)

    return _norm(name, lambda shape: shape, along, along, epsilon, scale, bias)


def rms_norm(
    *, axes: int | Sequence[int] = -1, epsilon: float = 1e-5, scale: bool = True, name: str = "rms_norm"
) -> Layer:
    """Divides the features of each example (and of each step of a sequence) by their root mean square.

    Math:
        x̂ = x / √(Σx² / m + ε) with the sum of the m values along the axes, y = scale · x̂

        Padding and types as for ``layer_norm``.

    Shapes:
        x and y (batch, …, features); scale has the sizes of the axes: (features,)

    Gradient:
        With s = 1/√(Σx² / m + ε) and g = scale · y_bar the cotangent of x̂: ∂s/∂x = -s³ x / m = -s² x̂ / m, hence

        x_bar = s (g - x̂ Σ(g x̂) / m) with the sum along the axes, scale_bar = Σ(y_bar x̂) along all others

    Args:
        axes: the axes of x to normalize along, without the batch axis 0; several as a tuple.
        epsilon: ε, added to the mean square.
        scale: whether x̂ is multiplied by a parameter.
        name: used in parameter trees and in error messages.

    >>> layer = rms_norm(scale=False, epsilon=0.0)
    >>> print(layer.apply({}, {}, jnp.array([[3.0, 4.0, 0.0, 0.0]]), train=True)[0].round(3))
    [[1.2 1.6 0.  0. ]]

    References:
        Zhang and Sennrich 2019, "Root mean square layer normalization", equation 4.
    """

    def along(rank):
        return chosen_axes(axes, rank, batch=False)

    return _norm(name, lambda shape: shape, along, along, epsilon, scale, False, centered=False)


def group_norm(
    groups: int, *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "group_norm"
) -> Layer:
    """Normalizes each example's channels in groups, over all positions and the channels of a group together.

    Math:
        μ and σ² are the mean and the biased variance of the m values that an example has in a group of
        channels / groups neighboring channels.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        Of ``Masked`` sequences only real steps are counted; on padding y is 0. Statistics are computed in float32
        at least. One group is normalization over the whole example; for one group a channel see ``instance_norm``.

    Shapes:
        x and y (batch, …, channels); scale and bias (channels,)

    Gradient:
        That of ``layer_norm`` with the sums over a group: with s = 1/√(σ² + ε) and g = scale · y_bar

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m), and over the batch and all positions scale_bar = Σ(y_bar x̂),
        bias_bar = Σ y_bar

    Args:
        groups: the number of groups, a divisor of the number of channels.
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: where the groups do not divide the channels, or a group has one value alone.

    >>> layer = group_norm(2)
    >>> params, state = layer.init(None, (4,))
    >>> print(layer.apply(params, state, jnp.array([[1.0, 3.0, 30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.  1. -1.]]

    References:
        Wu and He 2018, "Group normalization", equations 1, 2 and 7.
    """
    groups = check_count("groups", groups)
    return _group_norm(name, lambda channels: groups, epsilon, scale, bias)


def instance_norm(
    *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "instance_norm"
) -> Layer:
    """Normalizes each channel of each example over its positions: ``group_norm`` with as many groups as channels.

    Math, shapes and gradient:
        those of ``group_norm`` with one channel a group

    Args:
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for inputs of a single position, which has one value a channel.

    >>> layer = instance_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[[1.0, 30.0], [3.0, 10.0]]]), train=True)[0].round(3))
    [[[-1.  1.]
      [ 1. -1.]]]

    References:
        Ulyanov, Vedaldi and Lempitsky 2016, "Instance normalization", equation 1.
    """
    return _group_norm(name, lambda channels: channels, epsilon, scale, bias)


def _group_norm(name: str, groups_of: Callable[[int], int], epsilon: Any, scale: bool, bias: bool) -> Layer:
    def split(shape):
        channels = shape[-1]
        groups = groups_of(channels)
        if channels % groups:
            raise InputError("groups", f"a divisor of the {channels} channels", groups)
        return (*shape[:-1], groups, channels // groups)

    def within(rank):
        return (*range(1, rank - 1), rank)

    return _norm(name, split, within, lambda rank: (rank - 1,), epsilon, scale, bias)


def _norm(
    name: str,
    split: Callable[[Shape], Shape],
    within: Callable[[int], Axes],
    own: Callable[[int], Axes],
    epsilon: Any,
    scale: bool,
    bias: bool,
    *,
    centered: bool = True,
) -> Layer:
    """A norm of examples alone, whose groups lie within some axes of the split shape.

    Args:
        split: the shape that x is computed in.
        within: from the rank of x to the axes of the split shape that lie within a group.
        own: from the rank of x to the axes that the parameters have.
    """
    check_epsilon(epsilon)
    names = tuple(name for name, there in (("scale", scale), ("bias", bias)) if check_flag(name, there))

    def shared(rank):
        return tuple(axis for axis in range(rank) if axis not in own(rank))

    def init(key, in_shape):
        shape = (1, *check_shape(in_shape, "at least a feature axis, (…, features)"))
        split(shape)
        sizes = tuple(shape[axis] for axis in own(len(shape)))
        starts = {"scale": jnp.ones, "bias": jnp.zeros}
        return {name: starts[name](sizes) for name in names}, {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, names)
        params = {name: params[name] for name in names}
        values, mask = opened(x)
        shape, rank = values.shape, values.ndim
        for leaf in params.values():
            if leaf.shape != tuple(shape[axis] for axis in own(rank)):
                raise InputError("x", f"values for {names[0]} of shape {leaf.shape}", f"shape {shape}")
        groups, parts = Groups(within(rank), mask), split(shape)
        if centered and math.prod(parts[axis] for axis in groups.axes) < 2:
            raise InputError("x", "at least two values to normalize together", f"one (shape {shape})")
        made, _ = normalize(values.reshape(parts), groups, epsilon, centered=centered)
        y = groups.real(affine(made.x_hat.reshape(shape), params, shared(rank)))
        return with_mask_of(x, y.astype(values_of(x).dtype)), state, (made, params, mask)

    def backward(residuals, y_bar):
        made, params, mask = residuals
        given = values_of(y_bar)
        groups, rank = Groups(within(given.ndim), mask), given.ndim
        x_hat = made.x_hat.reshape(given.shape)
        params_bar, g = affine_pullback(x_hat, params, shared(rank), groups.real(given.astype(x_hat.dtype)))
        x_bar = normalize_pullback(made, groups, g.reshape(made.x_hat.shape), centered=centered)
        return params_bar, with_mask_of(y_bar, x_bar.reshape(given.shape).astype(given.dtype))

    return Layer(name, init, forward, backward, takes_mask=True)
