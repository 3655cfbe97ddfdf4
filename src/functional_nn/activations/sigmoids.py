"""Activations that rise smoothly: sigmoid, tanh, softsign, softplus and log_sigmoid.

The derivatives are written in a form that keeps their digits. For example, σ'(x) is computed from e^{-|x|} and not as
σ(x) (1 - σ(x)): the difference 1 - σ(x) loses digits for large x.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import exp_and_scale, in_wide_type
from functional_nn.activations.activation_types import Activation
from functional_nn.activations.derivative_rules import with_second_derivative


@in_wide_type
def _sigmoid_second_derivative(x: jax.Array) -> jax.Array:
    """σ''(x) = (σ(x) σ(-x))' = σ'(x) (σ(-x) - σ(x)) = -σ'(x) tanh(x / 2)."""
    return -_sigmoid_derivative(x) * jnp.tanh(x / 2)


@with_second_derivative(_sigmoid_second_derivative)
@in_wide_type
def _sigmoid_derivative(x):
    """σ'(x) = σ(x) σ(-x) = e / (1 + e)² with e = e^{-|x|}, since σ' is even."""
    # (1 + e)² is written as 1 + e (2 + e): a square would double the rounding error of 1 + e.
    e = jnp.exp(-jnp.abs(x))
    return e / (1 + e * (2 + e))


def _over_cosh_squared(x, factor):
    """factor / cosh²(x) = factor 4e / (1 + e)² with e = e^{-2|x|}."""
    e, scale = exp_and_scale(-2 * jnp.abs(x))
    # p may underflow to 0, where 1 + p is 1 anyway. The numerator keeps e, and is multiplied by the scale last.
    p = e * scale
    return factor * (4 * e / (1 + p * (2 + p))) * scale


@in_wide_type
def _tanh_second_derivative(x):
    """tanh''(x) = (1 - tanh²)' = -2 tanh(x) / cosh²(x)."""
    return _over_cosh_squared(x, -2 * jnp.tanh(x))


@with_second_derivative(_tanh_second_derivative)
@in_wide_type
def _tanh_derivative(x):
    """tanh'(x) = 1 / cosh²(x) = 4e / (1 + e)² with e = e^{-2|x|}."""
    return _over_cosh_squared(x, 1)


@in_wide_type
def _softsign_second_derivative(x):
    """((1 + |x|)⁻²)' = -2 sign(x) / (1 + |x|)³."""
    r = 1 / (1 + jnp.abs(x))
    return -2 * jnp.sign(x) * r * r * r


@with_second_derivative(_softsign_second_derivative)
@in_wide_type
def _softsign_derivative(x):
    """(x / (1 + |x|))' = ((1 + |x|) - x sign(x)) / (1 + |x|)² = 1 / (1 + |x|)²."""
    y = jnp.abs(x)
    return 1 / (1 + y * (2 + y))


@with_second_derivative(_sigmoid_derivative)
@in_wide_type
def _softplus_derivative(x):
    """(log(1 + e^x))' = e^x / (1 + e^x) = σ(x)."""
    return jax.nn.sigmoid(x)


@with_second_derivative(lambda x: -_sigmoid_derivative(x))
@in_wide_type
def _log_sigmoid_derivative(x):
    """(log σ(x))' = σ(x) σ(-x) / σ(x) = σ(-x)."""
    return jax.nn.sigmoid(-x)


sigmoid = Activation("sigmoid", jax.nn.sigmoid, _sigmoid_derivative, "f(x) = 1 / (1 + e^{-x}), f'(x) = f(x) f(-x)")
tanh = Activation("tanh", jnp.tanh, _tanh_derivative, "f(x) = tanh x, f'(x) = 1 / cosh² x")
softsign = Activation(
    "softsign", jax.nn.soft_sign, _softsign_derivative, "f(x) = x / (1 + |x|), f'(x) = 1 / (1 + |x|)²"
)
softplus = Activation("softplus", jax.nn.softplus, _softplus_derivative, "f(x) = log(1 + e^x), f'(x) = σ(x)")
log_sigmoid = Activation("log_sigmoid", jax.nn.log_sigmoid, _log_sigmoid_derivative, "f(x) = log σ(x), f'(x) = σ(-x)")
