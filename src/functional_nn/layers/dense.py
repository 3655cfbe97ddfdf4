"""The fully connected layer, the single neuron, and parametric ReLU (PReLU), a leaky ReLU with learned slopes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from functional_nn.activations.activation_types import Activation, VectorActivation, as_activation
from functional_nn.activations.piecewise import identity, relu
from functional_nn.core.layer import Layer
from functional_nn.core.products import summed_product
from functional_nn.core.validation import (
    check_count,
    check_entry_shapes,
    check_flag,
    check_input,
    check_number,
    check_shape,
    without_input_size,
)
from functional_nn.layers.initializers import Initializer, weight_and_bias


def neuron(
    activation: Activation | Callable[[jax.Array], jax.Array] = identity,
    *,
    initializer: Initializer | None = None,
    name: str = "neuron",
) -> Layer:
    """One neuron: an activation of a weighted sum of its inputs and a bias.

    Math:
        z = Σᵢ wᵢ xᵢ + b, y = f(z)

    Shapes:
        x (batch, in_size), weight (in_size,), bias (), y (batch,)

    Gradient:
        For each example n, ∂y/∂z = f'(z), ∂z/∂wᵢ = xᵢ, ∂z/∂b = 1, ∂z/∂xᵢ = wᵢ. The examples are summed. With
        z_bar = f'(z) y_bar:

        weight_barᵢ = Σₙ z_barₙ xₙᵢ, bias_bar = Σₙ z_barₙ, x_barₙᵢ = z_barₙ wᵢ

    Args:
        activation: f; any ``Activation``, or a plain function (which has no hand-derived formula).
        initializer: a name of ``functional_nn.layers.initializers`` or a function; by default He for ReLU, otherwise
            Glorot.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> unit = fnn.neuron(fnn.sigmoid)
    >>> y, _ = unit.apply({"weight": jnp.ones(2), "bias": jnp.zeros(())}, {}, jnp.zeros((3, 2)), train=False)
    >>> print(y)
    [0.5 0.5 0.5]

    References:
        Rosenblatt 1958, "The perceptron"; Goodfellow, Bengio, Courville, "Deep Learning", section 6.2.2.
    """
    activation = as_activation(activation)
    initializer = default_initializer(activation) if initializer is None else initializer

    def init(key, in_shape):
        (in_size,) = check_shape(in_shape, "(in_size,)", "Put flatten() before this layer.")
        weight, bias = weight_and_bias(initializer, key, (in_size, 1))
        return {"weight": weight[:, 0], "bias": bias[0]}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": ("in_size",), "bias": ()})
        weight, bias = params["weight"], params["bias"]
        check_input(x, "(batch, in_size)", weight.shape[0], remedy="Put flatten() before this layer.")
        z = x @ weight + bias
        return activation(z), state, (x, weight, z)

    def backward(residuals, y_bar):
        x, weight, z = residuals
        z_bar = activation.pullback(z, y_bar)
        return {"weight": z_bar @ x, "bias": jnp.sum(z_bar)}, z_bar[:, None] * weight[None, :]

    return Layer(name, init, forward, backward)


@without_input_size("out_size")
def dense(out_size: int, *, bias: bool = True, initializer: Initializer = "glorot", name: str = "dense") -> Layer:
    """A fully connected layer: every output is a weighted sum of all inputs on the last axis.

    Math:
        y = x W + b

    Shapes:
        x (batch, …, in_size), weight (in_size, out_size), bias (out_size,), y (batch, …, out_size)

    Gradient:
        yₙⱼ = Σᵢ xₙᵢ Wᵢⱼ + bⱼ, so ∂yₙⱼ/∂Wᵢⱼ = xₙᵢ, ∂yₙⱼ/∂bⱼ = 1, ∂yₙⱼ/∂xₙᵢ = Wᵢⱼ. Each
        element gets the sum over all outputs that it is used in (n runs over the batch and all middle axes):

        weight_bar = xᵀ y_bar, bias_bar = Σₙ y_barₙ, x_bar = y_bar Wᵀ

    Args:
        out_size: the number of outputs.
        bias: whether b is added.
        initializer: ``"glorot"``, ``"he"`` (for ReLU), ``"lecun"``, ``"pytorch"``, or a function; see ``initializers``.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.dense(2)
    >>> params = {"weight": jnp.eye(2), "bias": jnp.array([1.0, 2.0])}
    >>> print(layer.apply(params, {}, jnp.array([[3.0, 4.0]]), train=False)[0])
    [[4. 6.]]

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 6.5.
    """
    out_size = check_count("out_size", out_size)
    bias = check_flag("bias", bias)
    shapes = {"weight": ("in_size", out_size)} | ({"bias": (out_size,)} if bias else {})

    def init(key, in_shape):
        in_size = check_shape(in_shape, "(…, in_size)")[-1]
        drawn = weight_and_bias(initializer, key, (in_size, out_size))
        return dict(zip(shapes, drawn, strict=False)), {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, shapes)
        weight = params["weight"]
        check_input(x, "(batch, …, in_size)", weight.shape[0])
        y = x @ weight
        if bias:
            y = y + jnp.expand_dims(params["bias"], range(y.ndim - 1))
        return y, state, (x, weight)

    def backward(residuals, y_bar):
        x, weight = residuals
        rows = tuple(range(y_bar.ndim - 1))
        params_bar = {"weight": summed_product(x, y_bar)}
        if bias:
            params_bar["bias"] = jnp.sum(y_bar, axis=rows)
        return params_bar, y_bar @ weight.T

    return Layer(name, init, forward, backward)


def default_initializer(activation: Activation | VectorActivation) -> str:
    """The name of a suitable initializer: He's for ReLU, which sets half of its outputs to 0; otherwise Glorot's."""
    return "he" if activation is relu else "glorot"


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

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.prelu()
    >>> params, state = layer.init(None, (2,))
    >>> print(layer.apply(params, state, jnp.array([[-2.0, 2.0]]), train=True)[0])
    [[-0.5  2. ]]

    References:
        He et al. 2015, "Delving deep into rectifiers", equations 1 to 3.
    """
    check_number("negative_slope", negative_slope)

    def init(key, in_shape):
        channels = check_shape(in_shape, "(…, channels)")[-1]
        return {"negative_slope": jnp.full(channels, negative_slope, float)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"negative_slope": ("channels",)})
        a = params["negative_slope"]
        check_input(x, "(batch, …, channels)", a.shape[0])
        return jnp.where(x >= 0, x, x * jnp.expand_dims(a, range(x.ndim - 1))), state, (x, a)

    def backward(residuals, y_bar):
        x, a = residuals
        rows = tuple(range(x.ndim - 1))
        a_bar = jnp.sum(jnp.minimum(x, 0) * y_bar, axis=rows)
        return {"negative_slope": a_bar}, jnp.where(x >= 0, y_bar, y_bar * jnp.expand_dims(a, rows))

    return Layer(name, init, forward, backward)
