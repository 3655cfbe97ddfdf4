"""Normalization over the batch, which couples its examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, State
from functional_nn.core.layer_checks import check_batch_is_whole, check_entries, check_shape, is_concrete
from functional_nn.core.masked import values_of, with_mask_of
from functional_nn.core.validation import check_number, shown
from functional_nn.layers.normalization.standardize import (
    Axes,
    Groups,
    Normalized,
    affine,
    affine_pullback,
    along,
    check_epsilon,
    chosen_axes,
    normalize,
    normalize_pullback,
    opened,
)


def batch_norm(
    *,
    axes: Sequence[int] | None = None,
    axis_name: Any = None,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    name: str = "batch_norm",
) -> Layer:
    """Normalizes each channel (the last axis) over the batch and all other axes; remembers the statistics.

    Math:
        In training μ and σ² are the mean and the biased variance of the m values of a channel; in evaluation
        they are the running ones in the state.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        running ← momentum · running + (1 - momentum) · batch, with the unbiased variance σ² m / (m - 1), as
        PyTorch keeps it (its ``momentum`` is one minus this one)

        Of ``Masked`` sequences only real steps are normalized and counted; on padding y is 0. A channel without two
        real values, which under ``jit`` cannot be refused, has x̂ = 0 and keeps its running statistics. Statistics
        are computed in float32 at least; a running variance stays at the largest number where it would overflow.

    Shapes:
        x and y (batch, …, channels); scale, bias, mean, variance (channels,)

    Gradient:
        With s = 1/√(σ² + ε) and g = scale · y_bar the cotangent of x̂. In evaluation μ and s are constants:
        x_bar = s g. In training they depend on every x of the channel: ∂μ/∂x = 1/m,
        ∂s/∂x = -s² x̂ / m (from ∂σ²/∂x = 2 (x - μ) / m and ∂s/∂σ² = -s³ / 2), hence

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m), scale_bar = Σ(y_bar x̂), bias_bar = Σ y_bar

        Padding takes no part: its x_bar is 0.

    Args:
        axes: the axes of x that statistics are taken over, the batch axis 0 among them; by default all but the last.
            Each of the others' elements is a channel: ``(0, 2, 3)`` for images with their channels first.
        axis_name: a mapped axis (of ``shard_map`` or ``vmap``) whose parts are one batch: statistics are joined over
            it, in both directions. scale_bar and bias_bar are then this part's share of the sum. Not needed where
            the batch is sharded under ``jit``, which sees all of it.
        momentum: the share of the running statistics that a step keeps, in [0, 1].
        epsilon: ε, added to the variance.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: in training with one value per channel, whose variance says nothing, with a batch of padding alone,
            or where examples are taken one by one.

    >>> layer = batch_norm()
    >>> params, state = layer.init(None, (1,))
    >>> y, state = layer.apply(params, state, jnp.array([[1.0], [3.0]]), train=True)
    >>> print(y.ravel().round(3), state["mean"], state["variance"])
    [-1.  1.] [0.2] [1.1]

    References:
        Ioffe and Szegedy 2015, "Batch normalization", algorithm 1 and the gradients of section 3.
    """
    check_number("momentum", momentum, "a number in [0, 1], the share that is kept", lambda share: 0 <= share <= 1)
    check_epsilon(epsilon)
    names = axis_name if isinstance(axis_name, tuple) and axis_name else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) for name in names):
        raise InputError("axis_name", "the name of a mapped axis, or a tuple of names", shown(axis_name))

    def joined(rank):
        return tuple(range(rank - 1)) if axes is None else chosen_axes(axes, rank, batch=True)

    def init(key, in_shape):
        shape = (1, *check_shape(in_shape, "at least a channel axis, (…, channels)"))
        channels = _channels(shape, joined(len(shape)))
        params = {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
        return params, {"mean": jnp.zeros(channels), "variance": jnp.ones(channels)}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, ("scale", "bias"))
        check_entries("state", state, ("mean", "variance"))
        params = {name: params[name] for name in ("scale", "bias")}
        values, mask = opened(x)
        channels = params["scale"].shape
        if values.ndim < 2 or _channels(values.shape, joined(values.ndim)) != channels:
            last = f"(batch, …, {channels[0]}), channels last" if axes is None else f"channels of shape {channels}"
            raise InputError("x", last, f"shape {values.shape}")
        groups = Groups(joined(values.ndim), mask, axis_name)
        if train:
            check_batch_is_whole()
            _check_size(groups, values)
            made, statistics = normalize(values, groups, epsilon)
            state = _remembered(state, made.m, statistics, groups.axes, momentum)
        else:
            mean, variance = (along(state[name], groups.axes, values.dtype) for name in ("mean", "variance"))
            s = lax.rsqrt(variance + jnp.asarray(epsilon, values.dtype))
            made = Normalized((values - mean) * s, s, None)
        y = groups.real(affine(made.x_hat, params, groups.axes)).astype(values_of(x).dtype)
        return with_mask_of(x, y), state, (made, params, mask)

    def backward(residuals, y_bar):
        made, params, mask = residuals
        groups = Groups(joined(made.x_hat.ndim), mask, axis_name)
        given = values_of(y_bar)
        params_bar, g = affine_pullback(made.x_hat, params, groups.axes, groups.real(given.astype(made.x_hat.dtype)))
        return params_bar, with_mask_of(y_bar, normalize_pullback(made, groups, g).astype(given.dtype))

    return Layer(name, init, forward, backward, takes_mask=True)


def _channels(shape, joined):
    return tuple(size for axis, size in enumerate(shape) if axis not in joined)


def _check_size(groups: Groups, values: jax.Array) -> None:
    size = groups.size(values)
    if not is_concrete(size) or np.max(size) >= 2:
        return
    remedy = "Use a larger batch, or one that leaves no single example over."
    if groups.mask is None:
        raise InputError("x", "at least two values per channel in training", f"{size} (shape {values.shape})", remedy)
    raise InputError("mask", "at least two real steps in training", int(np.max(size)), remedy)


def _remembered(state: State, m: jax.Array, statistics: tuple[jax.Array, jax.Array], joined: Axes, momentum) -> State:
    """The running statistics after a step, as they were where a channel has not two real values."""
    mean, variance = statistics
    m = jnp.broadcast_to(m, mean.shape)

    def blend(running, value):
        value = jnp.squeeze(lax.stop_gradient(value), joined).astype(running.dtype)
        value = jnp.minimum(value, jnp.finfo(running.dtype).max)
        return jnp.where(jnp.squeeze(m, joined) > 1, momentum * running + (1 - momentum) * value, running)

    unbiased = variance * (m / jnp.maximum(m - 1, 1))
    return {"mean": blend(state["mean"], mean), "variance": blend(state["variance"], unbiased)}
