"""Parametric ReLU (PReLU): a leaky ReLU with learned slopes."""

from __future__ import annotations

import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import check_entry_shapes, check_floating, check_shape
from functional_nn.core.validation import check_number


def prelu(*, negative_slope: float = 0.25, name: str = "prelu") -> Layer:
    """A leaky ReLU that learns a slope for each channel.

    Math:
        y = x if x ≥ 0 else a x

    Shapes:
        x and y (batch, …, channels); the parameter negative_slope, which is a, (channels,)

    Gradient:
        ∂y/∂x = 1 if x ≥ 0 else a, ∂y/∂a = 0 if x ≥ 0 else x. With the sum over the batch and all middle axes

        x_bar = y_bar if x ≥ 0 else a y_bar, a_bar = Σ min(x, 0) y_bar

    At kinks:
        at x = 0 ∂y/∂x is 1, as for ``leaky_relu``.

    Args:
        negative_slope: the initial value of every a.
        name: used in parameter trees and in error messages.

    >>> layer = prelu()
    >>> params, state = layer.init(None, (2,))
    >>> print(layer.apply(params, state, jnp.array([[-2.0, 2.0]]), train=True)[0])
    [[-0.5  2. ]]

    References:
        He et al. 2015, "Delving deep into rectifiers", equations 1 to 3.
    """
    check_number("negative_slope", negative_slope)

    def init(key, in_shape):
        channels = check_shape(in_shape, "at least a channel axis, (…, channels)")[-1]
        return {"negative_slope": jnp.full(channels, negative_slope, float)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"negative_slope": ("channels",)})
        check_floating(x)
        a = params["negative_slope"]
        if x.ndim < 2 or x.shape[-1:] != a.shape:
            raise InputError("x", f"(batch, …, {a.shape[0]}), channels last", f"shape {x.shape}")
        return jnp.where(x >= 0, x, x * jnp.expand_dims(a, range(x.ndim - 1))), state, (x, a)

    def backward(residuals, y_bar):
        x, a = residuals
        rows = tuple(range(x.ndim - 1))
        a_bar = jnp.sum(jnp.minimum(x, 0) * y_bar, axis=rows)
        return {"negative_slope": a_bar}, jnp.where(x >= 0, y_bar, y_bar * jnp.expand_dims(a, rows))

    return Layer(name, init, forward, backward)
