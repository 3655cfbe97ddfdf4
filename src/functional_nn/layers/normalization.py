"""Normalization to mean 0 and variance 1: batch, layer, RMS, group and instance normalization.

Below the layers: the part that layer, RMS, group and instance normalization share, and the normalization of groups of
values with scale, bias and the backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import Layer, Params, Shape, State
from functional_nn.core.masked import Value, check_mask, mask_of, values_of, with_mask_of
from functional_nn.core.shapes import is_known, wide_type
from functional_nn.core.texts import counted
from functional_nn.core.validation import (
    check_batch_is_whole,
    check_count,
    check_entries,
    check_entry_shapes,
    check_flag,
    check_input,
    check_number,
    check_shape,
    is_concrete,
    without_input_size,
)


@without_input_size()
def batch_norm(
    *,
    axes: Sequence[int] | None = None,
    axis_name: AxisName | None = None,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    name: str = "batch_norm",
) -> Layer:
    """Normalizes each channel (the last axis) over the batch and all other axes, and keeps running statistics.

    Math:
        In training μ and σ² are the mean and the biased variance of the m values of a channel. In evaluation they are
        the running mean and variance in the state.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        running ← momentum · running + (1 - momentum) · batch, with the unbiased variance σ² m / (m - 1), as
        in PyTorch (whose ``momentum`` is 1 minus this one)

        In ``Masked`` sequences only real steps are normalized and counted, and at padding y is 0. A channel with fewer
        than two real values raises an error. Under ``jit``, where no error can be raised, it has x̂ = 0 and keeps its
        running statistics. Statistics are computed in float32 or wider. A running variance that would overflow
        becomes the largest finite number.

    Shapes:
        x and y (batch, …, channels); scale, bias, mean, variance (channels,)

    Gradient:
        With s = 1/√(σ² + ε) and g = scale · y_bar the cotangent of x̂. In evaluation μ and s are constants:
        x_bar = s g. In training they depend on every x of the channel: ∂μ/∂x = 1/m,
        ∂s/∂x = -s² x̂ / m (from ∂σ²/∂x = 2 (x - μ) / m and ∂s/∂σ² = -s³ / 2), hence

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m), scale_bar = Σ(y_bar x̂), bias_bar = Σ y_bar

        Padding is not used: its x_bar is 0.

    Args:
        axes: the axes of x over which statistics are computed, including the batch axis 0; by default all but the
            last. Each position along the other axes is a channel: ``(0, 2, 3)`` is for images with channels first.
        axis_name: the name of a mapped axis (of ``shard_map`` or ``vmap``) whose parts form one batch. The forward and
            the backward pass then sum statistics over all parts, and scale_bar and bias_bar are this part's share of
            the sum. It is not needed for a batch that is sharded under ``jit``, since ``jit`` sees the whole batch.
        momentum: the share of the running statistics that is kept in a step, in [0, 1].
        epsilon: ε, added to the variance.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: in training, for a single value per channel, for a batch that is all padding, and inside
            ``per_example_gradients``, which computes examples one at a time. A ``vmap`` of your own over examples
            cannot be noticed: there, each example is normalized by its own mean and variance.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.batch_norm()
    >>> params, state = layer.init(None, (1,))
    >>> y, state = layer.apply(params, state, jnp.array([[1.0], [3.0]]), train=True)
    >>> print(y.ravel().round(3), state["mean"], state["variance"])
    [-1.  1.] [0.2] [1.1]

    References:
        Ioffe and Szegedy 2015, "Batch normalization", algorithm 1 and the gradients of section 3.
    """
    momentum = check_number(
        "momentum", momentum, "a number in [0, 1], the share that is kept", lambda share: 0 <= share <= 1
    )
    axis_names = axis_name if isinstance(axis_name, tuple) and axis_name else (axis_name,)
    are_names = axis_name is None or all(isinstance(axis, str) for axis in axis_names)
    check("axis_name", axis_name, "the name of a mapped axis, or a tuple of names", are_names)

    def group_axes(rank: int) -> Axes:
        """The axes over which statistics are computed."""
        return tuple(range(rank - 1)) if axes is None else chosen_axes(axes, rank, batch=True)

    def channel_axes(rank: int) -> Axes:
        return tuple(axis for axis in range(rank) if axis not in group_axes(rank))

    def normalized(values: jax.Array, groups: Groups, state: State, train: bool) -> tuple[Normalized, State]:
        if train:
            check_batch_is_whole()
            _check_size(groups, values)
            in_training, statistics = normalize(values, groups, epsilon)
            return in_training, _updated_state(state, statistics, groups.axes, momentum)
        mean, variance = (expand_shared(state[name], groups.axes, values.dtype) for name in ("mean", "variance"))
        s = lax.rsqrt(variance + jnp.asarray(epsilon, values.dtype))
        # m is None: the running statistics are constants for the backward pass.
        return Normalized((values - mean) * s, s, None), state

    return _norm_layer(
        name,
        lambda shape: shape,
        group_axes,
        channel_axes,
        epsilon,
        normalized_by=normalized,
        state={"mean": jnp.zeros, "variance": jnp.ones},
        axis_name=axis_name,
    )


def _check_size(groups: Groups, values: jax.Array) -> None:
    size = groups.size(values)
    if groups.mask is None and not is_known(size):
        return
    if not is_concrete(size) or np.max(size) >= 2:
        return
    remedy = "Use a larger batch, or a batch size that does not leave a single example in the last batch."
    kind = "values per channel" if groups.mask is None else "real steps"
    given = f"{int(np.max(size))} (shape {values.shape})"
    raise InputError("x", f"at least two {kind} in training", given, remedy)


def _updated_state(state: State, statistics: Statistics, group_axes: Axes, momentum: float | jax.Array) -> State:
    """The running statistics after a step. A channel with fewer than two real values keeps the ones it had."""
    m, mean, variance = statistics
    m = jnp.broadcast_to(m, mean.shape)

    def blend(running, value):
        value = jnp.squeeze(lax.stop_gradient(value), group_axes).astype(running.dtype)
        # A running variance of ∞ would stay ∞ in all later steps.
        value = jnp.minimum(value, jnp.finfo(running.dtype).max)
        is_enough = jnp.squeeze(m, group_axes) > 1
        # The momentum may be an array of a wider type. The state keeps its own.
        blended = (momentum * running + (1 - momentum) * value).astype(running.dtype)
        return jnp.where(is_enough, blended, running)

    unbiased = variance * (m / jnp.maximum(m - 1, 1))
    return {"mean": blend(state["mean"], mean), "variance": blend(state["variance"], unbiased)}


@without_input_size()
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

        At padding of ``Masked`` sequences y is 0. If the time axis is among the axes, only real steps are counted.
        Statistics are computed in float32 or wider.

    Shapes:
        x and y (batch, …, features); scale and bias have the sizes of the axes: (features,)

    Gradient:
        With s = 1/√(σ² + ε) and g = scale · y_bar the cotangent of x̂. μ and s depend on all m values: ∂μ/∂x = 1/m,
        ∂s/∂x = -s² x̂ / m (from ∂σ²/∂x = 2 (x - μ) / m and ∂s/∂σ² = -s³ / 2). Hence

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m) with sums along the axes, and with sums along all other axes
        scale_bar = Σ(y_bar x̂), bias_bar = Σ y_bar

    Args:
        axes: the axes of x to normalize along, one or a tuple of several, without the batch axis 0.
        epsilon: ε, added to the variance. If ε is 0, equal values give NaN, in y and in the gradient. Differences below
            1e-19 may then give NaN or infinity, because their squares are 0 in float32.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for axes that x does not have, and for axes with a single value: its x̂ would always be 0.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> layer = fnn.layer_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[1.0, 3.0], [30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.]
     [ 1. -1.]]

    References:
        Ba, Kiros and Hinton 2016, "Layer normalization", equations 3 and 4.
    """
    chosen = partial(chosen_axes, axes, batch=False)
    return _norm_layer(name, lambda shape: shape, chosen, chosen, epsilon, scale=scale, bias=bias)


@without_input_size()
def rms_norm(
    *, axes: int | Sequence[int] = -1, epsilon: float = 1e-5, scale: bool = True, name: str = "rms_norm"
) -> Layer:
    """Divides the features of each example (and of each step of a sequence) by their root mean square.

    Math:
        x̂ = x / √(Σx² / m + ε) with the sum of the m values along the axes, y = scale · x̂

        Padding and types are handled as in ``layer_norm``.

    Shapes:
        x and y (batch, …, features); scale has the sizes of the axes: (features,)

    Gradient:
        With s = 1/√(Σx² / m + ε) and g = scale · y_bar the cotangent of x̂: ∂s/∂x = -s³ x / m = -s² x̂ / m, hence

        x_bar = s (g - x̂ Σ(g x̂) / m) with the sum along the axes, scale_bar = Σ(y_bar x̂) along all others

    Args:
        axes: the axes of x to normalize along, one or a tuple of several, without the batch axis 0.
        epsilon: ε, added to the mean square. If ε is 0, zeros give NaN, in y and in the gradient. Values below 1e-19
            may then give NaN or infinity, because their squares are 0 in float32.
        scale: whether x̂ is multiplied by a parameter.
        name: used in parameter trees and in error messages.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> layer = fnn.rms_norm(scale=False, epsilon=0.0)
    >>> print(layer.apply({}, {}, jnp.array([[3.0, 4.0, 0.0, 0.0]]), train=True)[0].round(3))
    [[1.2 1.6 0.  0. ]]

    References:
        Zhang and Sennrich 2019, "Root mean square layer normalization", equation 4.
    """
    chosen = partial(chosen_axes, axes, batch=False)
    return _norm_layer(name, lambda shape: shape, chosen, chosen, epsilon, scale=scale, bias=False, centered=False)


def group_norm(
    groups: int, *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "group_norm"
) -> Layer:
    """Normalizes groups of channels: for each example, over all positions and all channels of a group.

    Math:
        The channels are divided into groups of channels / groups neighboring channels. μ and σ² are the mean and the
        biased variance of the m values of one group in one example.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        In ``Masked`` sequences only real steps are counted, and at padding y is 0. Statistics are computed in float32
        or wider. With one group the whole example is normalized. ``instance_norm`` has one group for each channel.

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
        InputError: if the number of channels is not a multiple of groups, and for a group with a single value.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> layer = fnn.group_norm(2, scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[1.0, 3.0, 30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.  1. -1.]]

    References:
        Wu and He 2018, "Group normalization", equations 1, 2 and 7.
    """
    groups = check_count("groups", groups)
    return _group_norm(name, lambda channels: groups, epsilon, scale=scale, bias=bias)


@without_input_size()
def instance_norm(
    *, epsilon: float = 1e-5, scale: bool = True, bias: bool = True, name: str = "instance_norm"
) -> Layer:
    """Normalizes each channel of each example over its positions: ``group_norm`` with as many groups as channels.

    Math, shapes and gradient:
        those of ``group_norm`` with one channel in each group

    Args:
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for inputs with a single position, since a channel then has a single value.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> layer = fnn.instance_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[[1.0, 30.0], [3.0, 10.0]]]), train=True)[0].round(3))
    [[[-1.  1.]
      [ 1. -1.]]]

    References:
        Ulyanov, Vedaldi and Lempitsky 2016, "Instance normalization", equation 1.
    """
    return _group_norm(name, lambda channels: channels, epsilon, scale=scale, bias=bias)


def _group_norm(
    name: str, group_count: Callable[[int], int], epsilon: float | jax.Array, *, scale: bool, bias: bool
) -> Layer:
    """A group norm. ``group_count`` gives the number of groups for a number of channels."""

    def with_group_axis(shape: Shape) -> Shape:
        """Splits the channel axis into two: groups, and channels within a group."""
        channels = shape[-1]
        groups = group_count(channels)
        check("groups", groups, f"a divisor of the {counted(channels, 'channel')}", channels % groups == 0)
        return (*shape[:-1], groups, channels // groups)

    def group_axes(rank: int) -> Axes:
        """All positions, and the channels within a group: all axes except the batch and the groups."""
        return (*range(1, rank - 1), rank)

    def channel_axis(rank: int) -> Axes:
        return (rank - 1,)

    return _norm_layer(name, with_group_axis, group_axes, channel_axis, epsilon, scale=scale, bias=bias)


def _norm_layer(
    name: str,
    grouped_shape: Callable[[Shape], Shape],
    group_axes: Callable[[int], Axes],
    parameter_axes: Callable[[int], Axes],
    epsilon: float | jax.Array,
    *,
    scale: bool = True,
    bias: bool = True,
    centered: bool = True,
    normalized_by: Callable[[jax.Array, Groups, State, bool], tuple[Normalized, State]] | None = None,
    state: Mapping[str, Callable[[Shape], jax.Array]] = MappingProxyType({}),
    axis_name: AxisName | None = None,
) -> Layer:
    """The layer of every norm.

    Args:
        name: used in parameter trees and in error messages.
        grouped_shape: gives, for the shape of x, the shape that x has while it is normalized.
        group_axes: gives, for the rank of x, the axes of the grouped shape along which a group lies.
        parameter_axes: gives, for the rank of x, the axes of x that scale and bias have.
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        centered: whether the mean is subtracted.
        normalized_by: ``normalized_by(values, groups, state, train) -> (normalized, state)``; None normalizes groups of
            values within each example.
        state: for each entry, the function of a shape that gives its starting value.
        axis_name: as for ``batch_norm``.
    """
    check_number("epsilon", epsilon, "a number not below 0", lambda epsilon: 0 <= epsilon < math.inf)
    is_used = {"scale": check_flag("scale", scale), "bias": check_flag("bias", bias)}
    starting_values = {"scale": jnp.ones, "bias": jnp.zeros}
    starts = {"params": {entry: starting_values[entry] for entry in is_used if is_used[entry]}, "state": state}

    def within_examples(values: jax.Array, groups: Groups, state: State, train: bool) -> tuple[Normalized, State]:
        are_two = not centered or math.prod(values.shape[axis] for axis in groups.axes) >= 2
        check("x", values, "at least two values to normalize together", are_two)
        return normalize(values, groups, epsilon, centered=centered)[0], state

    normalized_values = normalized_by or within_examples

    def shared_axes(rank: int) -> Axes:
        """The axes of x along which scale and bias are the same."""
        return tuple(axis for axis in range(rank) if axis not in parameter_axes(rank))

    def init(key, in_shape):
        shape = (1, *check_shape(in_shape, "(…, channels)"))
        grouped_shape(shape)  # raises if this number of channels cannot be divided into groups
        sizes = tuple(shape[axis] for axis in parameter_axes(len(shape)))
        made = {part: {entry: start(sizes) for entry, start in of.items()} for part, of in starts.items()}
        return made["params"], made["state"]

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, tuple(starts["params"]))
        params = {entry: params[entry] for entry in starts["params"]}
        values, mask = values_and_mask(x)
        shape, rank = values.shape, values.ndim
        axes = parameter_axes(rank)
        sizes = tuple(shape[axis] for axis in axes)
        for entry, first in tuple(params.items())[:1]:
            given = getattr(first, "shape", sizes)
            expected = f"sizes {given} on axes {axes}, those of the {entry}"
            check("x", values, expected, given == sizes, "Call init with this in_shape.")
        check_entry_shapes("params", params, dict.fromkeys(params, sizes))
        check_entry_shapes("state", state, dict.fromkeys(starts["state"], sizes))
        groups = Groups(group_axes(rank), mask, axis_name)
        normalized, state = normalized_values(values.reshape(grouped_shape(shape)), groups, state, train)
        y = groups.real(affine(normalized.x_hat.reshape(shape), params, shared_axes(rank)))
        return with_mask_of(x, y.astype(values_of(x).dtype)), state, (normalized, params, mask)

    def backward(residuals, y_bar):
        normalized, params, mask = residuals
        given = values_of(y_bar)
        groups, rank = Groups(group_axes(given.ndim), mask, axis_name), given.ndim
        x_hat = normalized.x_hat.reshape(given.shape)
        # Padding did not reach the output, so its cotangent is set to 0 first.
        params_bar, g = affine_pullback(x_hat, params, shared_axes(rank), groups.real(given.astype(x_hat.dtype)))
        x_bar = normalize_pullback(normalized, groups, g.reshape(normalized.x_hat.shape), centered=centered)
        return params_bar, with_mask_of(y_bar, x_bar.reshape(given.shape).astype(given.dtype))

    return Layer(name, init, forward, backward, takes_mask=True)


Axes: TypeAlias = tuple[int, ...]

AxisName: TypeAlias = str | tuple[str, ...]
"""The name of a mapped axis, or several names."""


class Groups(NamedTuple):
    """The groups of values that are normalized together, and which of the values are real.

    Args:
        axes: the axes along which a group lies. Each position along the other axes is another group.
        mask: (batch, time) booleans, True where values are real; None if all are.
        axis_name: a mapped axis whose parts belong to the same groups; None if there is none.
    """

    axes: Axes
    mask: jax.Array | None = None
    axis_name: AxisName | None = None

    def real(self, values: jax.Array) -> jax.Array:
        """The values with 0 in place of padding."""
        if self.mask is None:
            return values
        return jnp.where(_expanded_mask(self.mask, values.ndim), values, jnp.zeros_like(values))

    def sum(self, values: jax.Array) -> jax.Array:
        """The sum of each group. Its size along the axes of the group is 1."""
        total = jnp.sum(values, axis=self.axes, keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def largest(self, values: jax.Array) -> jax.Array:
        """The largest real value of each group. For differentiation it is a constant."""
        values = lax.stop_gradient(values)
        if self.mask is not None:
            values = jnp.where(_expanded_mask(self.mask, values.ndim), values, jnp.finfo(values.dtype).min)
        largest = jnp.max(values, axis=self.axes, keepdims=True)
        return largest if self.axis_name is None else lax.pmax(largest, self.axis_name)

    def size(self, values: jax.Array) -> jax.Array | int:
        """The number of real values in each group; without a mask, one number for all groups."""
        if self.mask is None:
            return math.prod(values.shape[axis] for axis in self.axes) * self._mapped_size()
        return self.sum(jnp.broadcast_to(_expanded_mask(self.mask, values.ndim), values.shape).astype(jnp.int32))

    def _mapped_size(self) -> int:
        if self.axis_name is None:
            return 1
        try:
            return lax.axis_size(self.axis_name)
        except NameError:
            expected = "an axis that vmap or shard_map maps around this call"
            raise InputError("axis_name", expected, repr(self.axis_name)) from None


class Normalized(NamedTuple):
    """Normalized values, and what their backward pass needs.

    Args:
        x_hat: x̂, the values with mean 0 and variance 1.
        s: 1/√(σ² + ε).
        m: the number of values in a group; None if the statistics are constants, as in evaluation.
    """

    x_hat: jax.Array
    s: jax.Array
    m: jax.Array | None


class Statistics(NamedTuple):
    """The statistics of each group: its number of values m, mean μ and biased variance σ²."""

    m: jax.Array
    mean: jax.Array
    variance: jax.Array


def normalize(
    x: jax.Array, groups: Groups, epsilon: float | jax.Array, *, centered: bool = True
) -> tuple[Normalized, Statistics]:
    """Computes x̂ = (x - μ) s with s = 1/√(σ² + ε), and the statistics, for every group. μ is 0 if not centered.

    Two steps keep the digits:

    - The mean is computed from the distances to the largest value. So its rounding error depends on these distances
      and not on the size of the mean, and equal values have the deviation 0 however large they are.
    - Deviations are divided by the largest distance before they are squared, so that no square overflows. The sum of
      the distances can still overflow, for values near the largest finite number.

    The largest value and the largest distance cancel in x̂, so they are constants for differentiation.
    """
    m = jnp.maximum(jnp.asarray(groups.size(x), x.dtype), 1)
    if centered:
        largest = groups.largest(x)
        distance = groups.real(x - largest)
        mean_distance = groups.sum(distance) / m
        mean = largest + mean_distance
        deviation = groups.real(distance - mean_distance)
        # Distances are 0 or negative, so this is the largest size of one. No deviation is larger.
        unit = groups.largest(-distance)
    else:
        mean = jnp.zeros((), x.dtype)
        deviation = x
        unit = groups.largest(jnp.abs(x))

    # Variance and ε in units of ``unit``, which is at least 1 so that small values are left as they are.
    unit = jnp.maximum(unit, 1)
    scaled = deviation / unit
    variance = groups.sum(jnp.square(scaled)) / m
    # ε is divided twice, since unit² could overflow. The unit cancels in x̂ = (x - μ) s, and s is divided by it.
    s = lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype) / unit / unit)
    return Normalized(scaled * s, s / unit, m), Statistics(m, mean, variance * unit * unit)


def normalize_pullback(normalized: Normalized, groups: Groups, g: jax.Array, *, centered: bool = True) -> jax.Array:
    """The cotangent of x from g, that of x̂: s (g - Σg / m - x̂ Σ(g x̂) / m). The term Σg / m is for centered values."""
    x_hat, s, m = normalized
    if m is None:
        return s * g
    through_statistics = x_hat * (groups.sum(g * x_hat) / m)
    if centered:
        through_statistics = through_statistics + groups.sum(g) / m
    return s * groups.real(g - through_statistics)


def affine(x_hat: jax.Array, params: Params, shared: Axes) -> jax.Array:
    """scale · x̂ + bias, where scale or bias may be missing. Along the shared axes they are the same."""
    y = x_hat
    if "scale" in params:
        y = y * expand_shared(params["scale"], shared, y.dtype)
    if "bias" in params:
        y = y + expand_shared(params["bias"], shared, y.dtype)
    return y


def affine_pullback(x_hat: jax.Array, params: Params, shared: Axes, y_bar: jax.Array) -> tuple[Params, jax.Array]:
    """The cotangents scale_bar = Σ y_bar x̂, bias_bar = Σ y_bar (over the shared axes) and x̂_bar = scale · y_bar."""
    terms = {"scale": y_bar * x_hat, "bias": y_bar}
    params_bar = {name: jnp.sum(terms[name], axis=shared).astype(leaf.dtype) for name, leaf in params.items()}
    x_hat_bar = y_bar
    if "scale" in params:
        x_hat_bar = y_bar * expand_shared(params["scale"], shared, y_bar.dtype)
    return params_bar, x_hat_bar


def expand_shared(leaf: jax.Array, shared: Axes, dtype: DTypeLike) -> jax.Array:
    """The leaf with an axis of size 1 for each shared axis."""
    return jnp.expand_dims(leaf, shared).astype(dtype)


def values_and_mask(x: Value) -> tuple[jax.Array, jax.Array | None]:
    """The values of an input, in float32 or wider and with 0 in place of padding, and its mask."""
    check_mask(x)
    values, mask = values_of(x), mask_of(x)
    check_input(values, "(batch, …, features)" if mask is None else "(batch, time, …, features)")
    values = values.astype(wide_type(values.dtype))
    return Groups((), mask).real(values), mask


def chosen_axes(axes: int | Sequence[int], rank: int, *, batch: bool) -> Axes:
    """The chosen axes, counted from the front and sorted. Requires the batch axis 0 among them, or not among them."""
    given = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    known = [axis for axis in given if isinstance(axis, Integral) and -rank <= axis < rank]
    chosen = tuple(sorted({int(axis) % rank for axis in known}))
    which = "the batch axis 0 among them" if batch else "without the batch axis 0"
    fits = chosen and len(chosen) == len(given) and (0 in chosen) == batch
    check("axes", axes, f"different axes of an input of {rank} axes, {which}", fits)
    return chosen


def _expanded_mask(mask: jax.Array, rank: int) -> jax.Array:
    return jnp.expand_dims(mask, range(2, rank))
