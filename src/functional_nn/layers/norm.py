"""Normalisation: activations brought to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax

from functional_nn.errors import InputError
from functional_nn.layer import Layer, check_entries, check_floating, check_shape, is_concrete


def batch_norm(*, momentum: float = 0.9, epsilon: float = 1e-5, name: str = "batch_norm") -> Layer:
    """Normalises each channel (the last axis) over the batch and all other axes; remembers the statistics.

    Math:
        In training μ and σ² are the mean and the biased variance of the m values of a channel; in evaluation
        they are the running ones in the state.

        x̂ = (x - μ) / √(σ² + ε), y = scale · x̂ + bias

        running ← momentum · running + (1 - momentum) · batch, with the unbiased variance σ² m / (m - 1), as
        PyTorch keeps it (its ``momentum`` is one minus this one)

    Shapes:
        x and y (batch, …, channels); scale, bias, mean, variance (channels,)

    Gradient:
        With s = 1/√(σ² + ε) and g = scale · y_bar the cotangent of x̂. In evaluation μ and s are constants:
        x_bar = s g. In training they depend on every x of the channel: ∂μ/∂x = 1/m,
        ∂s/∂x = -s² x̂ / m (from ∂σ²/∂x = 2 (x - μ) / m and ∂s/∂σ² = -s³ / 2), hence

        x_bar = s (g - Σg / m - x̂ Σ(g x̂) / m), scale_bar = Σ(y_bar x̂), bias_bar = Σ y_bar

    Args:
        momentum: the share of the running statistics that a step keeps, in [0, 1].
        epsilon: ε, added to the variance.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: in training with one value per channel, whose variance says nothing.

    >>> layer = batch_norm()
    >>> params, state = layer.init(None, (1,))
    >>> y, state = layer.apply(params, state, jnp.array([[1.0], [3.0]]), train=True)
    >>> print(y.ravel().round(3), state["mean"], state["variance"])
    [-1.  1.] [0.2] [1.1]

    References:
        Ioffe and Szegedy 2015, "Batch normalization", algorithm 1 and the gradients of section 3.
    """
    if is_concrete(momentum) and not 0 <= momentum <= 1:
        raise InputError("momentum", "a number in [0, 1], the share that is kept", momentum)
    if is_concrete(epsilon) and not epsilon >= 0:
        raise InputError("epsilon", "a number not below 0", epsilon)

    def init(key, in_shape):
        channels = check_shape(in_shape, "at least a channel axis, (…, channels)")[-1:]
        params = {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
        return params, {"mean": jnp.zeros(channels), "variance": jnp.ones(channels)}

    def forward(params, state, x, *, train, key=None):
        check_floating(x)
        check_entries("params", params, ("scale", "bias"))
        check_entries("state", state, ("mean", "variance"))
        scale, bias = params["scale"], params["bias"]
        if x.ndim < 2 or x.shape[-1:] != scale.shape:
            raise InputError("x", f"(batch, …, {scale.shape[0]}), channels last", f"shape {x.shape}")
        rows = tuple(range(x.ndim - 1))
        m = math.prod(x.shape[:-1])
        coupled = jnp.ones(()) if train else None
        mean, variance = state["mean"].astype(x.dtype), state["variance"].astype(x.dtype)
        if train:
            if m < 2:
                raise InputError(
                    "x",
                    "at least two values per channel in training",
                    f"{m} (shape {x.shape})",
                    "Use a larger batch, or one that leaves no single example over.",
                )
            mean = jnp.mean(x, axis=rows)
            variance = jnp.mean(jnp.square(x - _rows(mean, x)), axis=rows)
            state = {
                "mean": _blend(momentum, state["mean"], mean),
                "variance": _blend(momentum, state["variance"], variance * (m / (m - 1))),
            }
        inverse_deviation = lax.rsqrt(variance + epsilon)
        normalised = (x - _rows(mean, x)) * _rows(inverse_deviation, x)
        y = normalised * _rows(scale, x) + _rows(bias, x)
        return y, state, (normalised, inverse_deviation, scale, coupled)

    def backward(residuals, y_bar):
        normalised, inverse_deviation, scale, coupled = residuals
        rows = tuple(range(y_bar.ndim - 1))
        scale_bar, bias_bar = jnp.sum(y_bar * normalised, axis=rows), jnp.sum(y_bar, axis=rows)
        g = y_bar
        if coupled is not None:
            means = jnp.mean(y_bar, axis=rows), jnp.mean(y_bar * normalised, axis=rows)
            g = g - _rows(means[0], g) - normalised * _rows(means[1], g)
        return {"scale": scale_bar, "bias": bias_bar}, g * _rows(scale * inverse_deviation, g)

    return Layer(name, init, forward, backward)


def _rows(channels, x):
    """Gives a value per channel the rank of ``x``, so that it is the same in every row."""
    return jnp.expand_dims(channels, range(x.ndim - 1))


def _blend(momentum, running, batch):
    return momentum * running + (1 - momentum) * lax.stop_gradient(batch).astype(running.dtype)
