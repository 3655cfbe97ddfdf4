"""Piecewise activations: the identity, ReLU and its relatives, and simple approximations of smooth activations.

Where two pieces meet, there may be a kink, where the slope jumps. The docstring of each derivative says which value it
has there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import exp_and_scale, in_wide_type
from functional_nn.activations.activation_types import Activation
from functional_nn.core.validation import check_number


def _one(x):
    """1 everywhere."""
    return jnp.ones_like(x)


def _relu_derivative(x):
    """1 where x > 0, else 0; at the kink 0 the value is 0."""
    return (x > 0).astype(x.dtype)


def _leaky_relu(x, negative_slope):
    return jax.nn.leaky_relu(x, jnp.asarray(negative_slope, x.dtype))


@in_wide_type
def _leaky_relu_derivative(x, negative_slope):
    """1 where x ≥ 0, else the slope."""
    return jnp.where(x >= 0, jnp.ones_like(x), jnp.asarray(negative_slope, x.dtype))


def leaky_relu_with(negative_slope: float | jax.Array) -> Activation:
    """Leaky ReLU: x where x ≥ 0, else ``negative_slope`` · x, which may be traced. At 0 the derivative is 1.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.activations.leaky_relu_with(0.2)(jnp.array([-1.0, 2.0])))
    [-0.2  2. ]
    """
    check_number("negative_slope", negative_slope)
    formula = f"f(x) = x if x ≥ 0 else {negative_slope} x, f'(x) = 1 if x ≥ 0 else {negative_slope}"
    return Activation("leaky_relu", _leaky_relu, _leaky_relu_derivative, formula, (negative_slope,))


def _elu(x, alpha):
    return jax.nn.elu(x, jnp.asarray(alpha, x.dtype))


@in_wide_type
def _elu_derivative(x, alpha):
    """1 where x > 0, else α e^x."""
    e, scale = exp_and_scale(jnp.where(x > 0, 0, x))
    return jnp.where(x > 0, jnp.ones_like(x), jnp.asarray(alpha, x.dtype) * e * scale)


def elu_with(alpha: float | jax.Array) -> Activation:
    """ELU: x where x > 0, else α (e^x - 1). At 0 the derivative is α. α may be traced.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.activations.elu_with(2.0)(jnp.array([-100.0, 2.0])))
    [-2.  2.]
    """
    check_number("alpha", alpha)
    formula = f"f(x) = x if x > 0 else {alpha} (e^x - 1), f'(x) = 1 if x > 0 else {alpha} e^x"
    return Activation("elu", _elu, _elu_derivative, formula, (alpha,))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@in_wide_type
def _selu_derivative(x):
    """λ where x > 0, else λ α e^x; at 0 the value is λ α."""
    e, scale = exp_and_scale(jnp.where(x > 0, 0, x))
    return jnp.where(x > 0, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA * e * scale)


identity = Activation("identity", lambda x: x, _one, "f(x) = x, f'(x) = 1")
relu = Activation("relu", jax.nn.relu, _relu_derivative, "f(x) = max(x, 0), f'(x) = 1 if x > 0 else 0")
leaky_relu = leaky_relu_with(0.01)
elu = elu_with(1.0)
selu = Activation(
    "selu",
    jax.nn.selu,
    _selu_derivative,
    "f(x) = λ x if x > 0 else λ α (e^x - 1), f'(x) = λ if x > 0 else λ α e^x",
)


# ReLU with an upper limit, and approximations of smooth activations


def _relu6_derivative(x):
    """1 between 0 and 6, else 0; at both kinks the value is 0."""
    return ((x > 0) & (x < 6)).astype(x.dtype)


def _hard_tanh_derivative(x):
    """1 where -1 ≤ x ≤ 1, else 0; at both kinks the value is 1."""
    return ((x >= -1) & (x <= 1)).astype(x.dtype)


@in_wide_type
def _hard_sigmoid_derivative(x):
    """1/6 between -3 and 3, else 0; at both kinks the value is 0."""
    return jnp.where(jnp.abs(x) < 3, 1 / 6, jnp.zeros_like(x))


@in_wide_type
def _hardsilu_derivative(x):
    """(x h(x))' = h(x) + x h'(x) with h the hard sigmoid: (2x + 3) / 6 between -3 and 3, else h(x)."""
    return jnp.where(jnp.abs(x) < 3, (2 * x + 3) / 6, (x > 0).astype(x.dtype))


relu6 = Activation(
    "relu6",
    jax.nn.relu6,
    _relu6_derivative,
    "f(x) = min(max(x, 0), 6), f'(x) = 1 if 0 < x < 6 else 0",
)
hard_tanh = Activation(
    "hard_tanh",
    jax.nn.hard_tanh,
    _hard_tanh_derivative,
    "f(x) = min(max(x, -1), 1), f'(x) = 1 if |x| ≤ 1 else 0",
)
hard_sigmoid = Activation(
    "hard_sigmoid",
    jax.nn.hard_sigmoid,
    _hard_sigmoid_derivative,
    "f(x) = min(max(x + 3, 0), 6) / 6, f'(x) = 1/6 if |x| < 3 else 0",
)
hard_silu = Activation(
    "hard_silu",
    jax.nn.hard_silu,
    _hardsilu_derivative,
    "f(x) = x h(x), f'(x) = h(x) + x h'(x), h the hard sigmoid",
)
