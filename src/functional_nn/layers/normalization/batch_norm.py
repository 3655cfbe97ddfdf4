"""Batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Shape, State
from functional_nn.core.layer_checks import (
    check_batch_is_whole,
    check_entries,
    check_entry_shapes,
    check_shape,
    is_concrete,
    without_input_size,
)
from functional_nn.core.masked import values_of, with_mask_of
from functional_nn.core.shapes import is_known
from functional_nn.core.validation import check_number, shown
from functional_nn.layers.normalization.standardize import (
    Axes,
    AxisName,
    Groups,
    Normalized,
    Statistics,
    affine,
    affine_pullback,
    check_epsilon,
    chosen_axes,
    expand_shared,
    normalize,
    normalize_pullback,
    values_and_mask,
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

    >>> layer = batch_norm()
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
    check_epsilon(epsilon)
    axis_names = axis_name if isinstance(axis_name, tuple) and axis_name else (axis_name,)
    if axis_name is not None and not all(isinstance(axis, str) for axis in axis_names):
        raise InputError("axis_name", "the name of a mapped axis, or a tuple of names", shown(axis_name))

    def group_axes(rank: int) -> Axes:
        """The axes over which statistics are computed."""
        return tuple(range(rank - 1)) if axes is None else chosen_axes(axes, rank, batch=True)

    def init(key, in_shape):
        shape = (1, *check_shape(in_shape, "at least a channel axis, (…, channels)"))
        channels = _channels(shape, group_axes(len(shape)))
        params = {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
        return params, {"mean": jnp.zeros(channels), "variance": jnp.ones(channels)}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, ("scale", "bias"))
        check_entries("state", state, ("mean", "variance"))
        params = {name: params[name] for name in ("scale", "bias")}
        values, mask = values_and_mask(x)
        channels = params["scale"].shape
        if values.ndim < 2 or _channels(values.shape, group_axes(values.ndim)) != channels:
            expected = f"(batch, …, {channels[0]}), channels last" if axes is None else f"channels of shape {channels}"
            raise InputError("x", expected, f"shape {values.shape}")
        check_entry_shapes("params", params, {"bias": channels})
        check_entry_shapes("state", state, {"mean": channels, "variance": channels})
        groups = Groups(group_axes(values.ndim), mask, axis_name)
        if train:
            check_batch_is_whole()
            _check_size(groups, values)
            normalized, statistics = normalize(values, groups, epsilon)
            state = _updated_state(state, statistics, groups.axes, momentum)
        else:
            mean = expand_shared(state["mean"], groups.axes, values.dtype)
            variance = expand_shared(state["variance"], groups.axes, values.dtype)
            s = lax.rsqrt(variance + jnp.asarray(epsilon, values.dtype))
            # m is None: the running statistics are constants for the backward pass.
            normalized = Normalized((values - mean) * s, s, None)
        y = groups.real(affine(normalized.x_hat, params, groups.axes)).astype(values_of(x).dtype)
        return with_mask_of(x, y), state, (normalized, params, mask)

    def backward(residuals, y_bar):
        normalized, params, mask = residuals
        x_hat = normalized.x_hat
        groups = Groups(group_axes(x_hat.ndim), mask, axis_name)
        given = values_of(y_bar)
        # Padding did not reach the output, so its cotangent is set to 0 first.
        params_bar, g = affine_pullback(x_hat, params, groups.axes, groups.real(given.astype(x_hat.dtype)))
        return params_bar, with_mask_of(y_bar, normalize_pullback(normalized, groups, g).astype(given.dtype))

    return Layer(name, init, forward, backward, takes_mask=True)


def _channels(shape: Shape, group_axes: Axes) -> Shape:
    """The sizes of the axes that are not summed over."""
    return tuple(size for axis, size in enumerate(shape) if axis not in group_axes)


def _check_size(groups: Groups, values: jax.Array) -> None:
    size = groups.size(values)
    if groups.mask is None and not is_known(size):
        return
    if not is_concrete(size) or np.max(size) >= 2:
        return
    remedy = "Use a larger batch, or a batch size that does not leave a single example in the last batch."
    if groups.mask is None:
        raise InputError("x", "at least two values per channel in training", f"{size} (shape {values.shape})", remedy)
    raise InputError("mask", "at least two real steps in training", int(np.max(size)), remedy)


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
