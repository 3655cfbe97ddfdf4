"""Smooth activations: sigmoids, gates (x times a function that rises from 0 to 1), softmax and log-softmax.

The derivatives are written in a form that keeps their digits. For example, σ'(x) is computed from e^{-|x|} and not as
σ(x) (1 - σ(x)): the difference 1 - σ(x) loses digits for large x.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from functional_nn.activations import accurate_derivatives as accurate
from functional_nn.activations.activation_types import Activation, VectorActivation


@accurate.in_wide_type
def _sigmoid_second_derivative(x: jax.Array) -> jax.Array:
    """σ''(x) = (σ(x) σ(-x))' = σ'(x) (σ(-x) - σ(x)) = -σ'(x) tanh(x / 2)."""
    return -_sigmoid_derivative(x) * jnp.tanh(x / 2)


@accurate.with_second_derivative(_sigmoid_second_derivative)
@accurate.in_wide_type
def _sigmoid_derivative(x):
    """σ'(x) = σ(x) σ(-x) = e / (1 + e)² with e = e^{-|x|}, since σ' is even."""
    # (1 + e)² is written as 1 + e (2 + e): a square would double the rounding error of 1 + e.
    e = jnp.exp(-jnp.abs(x))
    return e / (1 + e * (2 + e))


def _over_cosh_squared(x, factor):
    """factor / cosh²(x) = factor 4e / (1 + e)² with e = e^{-2|x|}."""
    e, scale = accurate.exp_and_scale(-2 * jnp.abs(x))
    # p may underflow to 0, where 1 + p is 1 anyway. The numerator keeps e, and is multiplied by the scale last.
    p = e * scale
    return factor * (4 * e / (1 + p * (2 + p))) * scale


@accurate.in_wide_type
def _tanh_second_derivative(x):
    """tanh''(x) = (1 - tanh²)' = -2 tanh(x) / cosh²(x)."""
    return _over_cosh_squared(x, -2 * jnp.tanh(x))


@accurate.with_second_derivative(_tanh_second_derivative)
@accurate.in_wide_type
def _tanh_derivative(x):
    """tanh'(x) = 1 / cosh²(x) = 4e / (1 + e)² with e = e^{-2|x|}."""
    return _over_cosh_squared(x, 1)


@accurate.in_wide_type
def _softsign_second_derivative(x):
    """((1 + |x|)⁻²)' = -2 sign(x) / (1 + |x|)³."""
    r = 1 / (1 + jnp.abs(x))
    return -2 * jnp.sign(x) * r * r * r


@accurate.with_second_derivative(_softsign_second_derivative)
@accurate.in_wide_type
def _softsign_derivative(x):
    """(x / (1 + |x|))' = ((1 + |x|) - x sign(x)) / (1 + |x|)² = 1 / (1 + |x|)²."""
    y = jnp.abs(x)
    return 1 / (1 + y * (2 + y))


@accurate.with_second_derivative(_sigmoid_derivative)
@accurate.in_wide_type
def _softplus_derivative(x):
    """(log(1 + e^x))' = e^x / (1 + e^x) = σ(x)."""
    return jax.nn.sigmoid(x)


@accurate.with_second_derivative(lambda x: -_sigmoid_derivative(x))
@accurate.in_wide_type
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


def _gelu_tanh(x):
    """x σ(2u), which equals x (1 + tanh u) / 2: for a negative u, 1 + tanh u would lose its digits."""
    return x * jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


gelu = Activation(
    "gelu",
    partial(jax.nn.gelu, approximate=False),
    accurate.with_second_derivative(accurate.gelu_second_derivative)(accurate.gelu_derivative),
    "f(x) = x Φ(x), f'(x) = Φ(x) + x φ(x)",
)
gelu_tanh = Activation(
    "gelu_tanh",
    _gelu_tanh,
    accurate.with_second_derivative(accurate.gelu_tanh_second_derivative)(accurate.gelu_tanh_derivative),
    "f(x) = x (1 + tanh u) / 2 = x σ(2u), u = √(2/π) (x + 0.044715 x³), f'(x) = σ(2u) + x u' / (2 cosh² u)",
)
silu = Activation(
    "silu",
    jax.nn.silu,
    accurate.with_second_derivative(accurate.silu_second_derivative)(accurate.silu_derivative),
    "f(x) = x σ(x), f'(x) = σ(x) (1 + x σ(-x))",
)
mish = Activation(
    "mish",
    jax.nn.mish,
    accurate.with_second_derivative(accurate.mish_second_derivative)(accurate.mish_derivative),
    "f(x) = x tanh s, s = log(1 + e^x), f'(x) = tanh s + x σ(x) / cosh² s",
)


@accurate.in_wide_type
def _softmax_pullback(x, y_bar):
    """∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ - yⱼ), so x_barⱼ = Σᵢ y_barᵢ yᵢ (δᵢⱼ - yⱼ) = yⱼ (y_barⱼ - Σᵢ y_barᵢ yᵢ).

    As the yᵢ sum to 1, this is yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ), which is computed without cancellation.
    """
    return accurate.softmax_product(accurate.softmax_of(x), y_bar.astype(x.dtype))


@accurate.in_wide_type
def _log_softmax(x):
    """With the largest element xₘ: xᵢ - xₘ - log(1 + Σₖ e^(xₖ - xₘ)) over k ≠ m.

    For a large margin, yₘ is small but not 0: the 1 of e^(xₘ - xₘ) is not in the sum, where it would hide the others.
    """
    if not x.shape[-1]:
        return x  # it has no largest element
    is_top = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=bool)
    shifted = x - jnp.sum(x, axis=-1, keepdims=True, where=is_top)
    return shifted - jnp.log1p(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=~is_top))


@accurate.in_wide_type
def _log_softmax_pullback(x, y_bar):
    """yᵢ = xᵢ - log Σ e^x, so ∂yᵢ/∂xⱼ = δᵢⱼ - pⱼ with p = softmax(x), and x_barⱼ = y_barⱼ - pⱼ Σᵢ y_barᵢ.

    If one p is above 1/2, 1 - p loses digits there. This element follows from the others, since Σⱼ x_barⱼ = 0.
    """
    p, y_bar = accurate.softmax_of(x), y_bar.astype(x.dtype)
    is_top = p > 0.5
    others = jnp.where(is_top, 0, y_bar - p * jnp.sum(y_bar, axis=-1, keepdims=True))
    return jnp.where(is_top, -jnp.sum(others, axis=-1, keepdims=True), others)


softmax = VectorActivation(
    "softmax",
    accurate.in_wide_type(jax.nn.softmax),
    _softmax_pullback,
    "yᵢ = e^{xᵢ} / Σ e^x, x_barⱼ = yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ)",
)
log_softmax = VectorActivation(
    "log_softmax",
    _log_softmax,
    _log_softmax_pullback,
    "yᵢ = xᵢ - log Σ e^x, x_bar = y_bar - softmax(x) Σ y_bar",
)
