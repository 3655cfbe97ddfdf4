"""Layer normalization and RMS normalization: over the features of each example."""

from __future__ import annotations

from collections.abc import Sequence

from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import without_input_size
from functional_nn.layers.normalization.example_norm import example_norm
from functional_nn.layers.normalization.standardize import Axes, chosen_axes


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

    >>> import jax.numpy as jnp
    >>> layer = layer_norm(scale=False, bias=False)
    >>> print(layer.apply({}, {}, jnp.array([[1.0, 3.0], [30.0, 10.0]]), train=True)[0].round(3))
    [[-1.  1.]
     [ 1. -1.]]

    References:
        Ba, Kiros and Hinton 2016, "Layer normalization", equations 3 and 4.
    """

    def chosen(rank: int) -> Axes:
        return chosen_axes(axes, rank, batch=False)

    return example_norm(name, lambda shape: shape, chosen, chosen, epsilon, scale=scale, bias=bias)


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

    >>> import jax.numpy as jnp
    >>> layer = rms_norm(scale=False, epsilon=0.0)
    >>> print(layer.apply({}, {}, jnp.array([[3.0, 4.0, 0.0, 0.0]]), train=True)[0].round(3))
    [[1.2 1.6 0.  0. ]]

    References:
        Zhang and Sennrich 2019, "Root mean square layer normalization", equation 4.
    """

    def chosen(rank: int) -> Axes:
        return chosen_axes(axes, rank, batch=False)

    return example_norm(name, lambda shape: shape, chosen, chosen, epsilon, scale=scale, bias=False, centered=False)
