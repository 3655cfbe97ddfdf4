"""Activations, and activation lookup by name.

If ``jax.nn`` has a function, it is used. The derivatives are derived by hand, and written in a form that keeps their
digits. For example, σ'(x) is computed from e^{-|x|} and not as σ(x) (1 - σ(x)): the difference 1 - σ(x) loses digits
for large x. Second derivatives are derived by hand where JAX's derivative of the formula would lose digits.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import (
    gelu_derivative,
    gelu_tanh_derivative,
    in_wide_type,
    mish_derivative,
    silu_derivative,
)
from functional_nn.activations.accurate_second_derivatives import (
    gelu_second_derivative,
    gelu_tanh_second_derivative,
    mish_second_derivative,
    silu_second_derivative,
)
from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.derivative_rules import softmax_of, softmax_product, with_second_derivative
from functional_nn.core.validation import check_choice, check_number


def _exp_and_scale(x):
    """e and s with e^x = e s, for x ≤ 0. A factor times e, then times s, has its digits even if e^x underflows to 0."""
    small = x < -32
    return jnp.exp(jnp.where(small, x + 32, x)), jnp.where(small, math.exp(-32), jnp.ones_like(x))


def _identity(x):
    return x


def _one(x):
    """1 everywhere."""
    return jnp.ones_like(x)


identity = Activation("identity", _identity, _one, "f(x) = x, f'(x) = 1")


# Saturating: the logistic family


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
    e, scale = _exp_and_scale(-2 * jnp.abs(x))
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


# Rectifiers


def _relu_derivative(x):
    """1 where x > 0, else 0; at the kink 0 the value is 0."""
    return (x > 0).astype(x.dtype)


def _leaky_relu(x, negative_slope):
    return jax.nn.leaky_relu(x, jnp.asarray(negative_slope, x.dtype))


def _leaky_relu_derivative(x, negative_slope):
    """1 where x ≥ 0, else the slope."""
    return jnp.where(x >= 0, jnp.ones_like(x), jnp.asarray(negative_slope, x.dtype))


def leaky_relu_with(negative_slope: float | jax.Array) -> Activation:
    """Leaky ReLU: x where x ≥ 0, else ``negative_slope`` · x, which may be traced. At 0 the derivative is 1.

    >>> print(leaky_relu_with(0.2)(jnp.array([-1.0, 2.0])))
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
    e, scale = _exp_and_scale(jnp.where(x > 0, 0, x))
    return jnp.where(x > 0, jnp.ones_like(x), jnp.asarray(alpha, x.dtype) * e * scale)


def elu_with(alpha: float | jax.Array) -> Activation:
    """ELU: x where x > 0, else α (e^x - 1). At 0 the derivative is α. α may be traced.

    >>> print(elu_with(2.0)(jnp.array([-100.0, 2.0])))
    [-2.  2.]
    """
    check_number("alpha", alpha)
    formula = f"f(x) = x if x > 0 else {alpha} (e^x - 1), f'(x) = 1 if x > 0 else {alpha} e^x"
    return Activation("elu", _elu, _elu_derivative, formula, (alpha,))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@in_wide_type
def _selu_derivative(x):
    """λ where x > 0, else λ α e^x; at 0 the value is λ α."""
    e, scale = _exp_and_scale(jnp.where(x > 0, 0, x))
    return jnp.where(x > 0, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA * e * scale)


relu = Activation("relu", jax.nn.relu, _relu_derivative, "f(x) = max(x, 0), f'(x) = 1 if x > 0 else 0")
leaky_relu = leaky_relu_with(0.01)
elu = elu_with(1.0)
selu = Activation(
    "selu",
    jax.nn.selu,
    _selu_derivative,
    "f(x) = λ x if x > 0 else λ α (e^x - 1), f'(x) = λ if x > 0 else λ α e^x",
)


# Smooth gates: x times a function that rises from 0 to 1


def _gelu_tanh(x):
    """x σ(2u), which equals x (1 + tanh u) / 2: for a negative u, 1 + tanh u would lose its digits."""
    return x * jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


gelu = Activation(
    "gelu",
    partial(jax.nn.gelu, approximate=False),
    with_second_derivative(gelu_second_derivative)(gelu_derivative),
    "f(x) = x Φ(x), f'(x) = Φ(x) + x φ(x)",
)
gelu_tanh = Activation(
    "gelu_tanh",
    _gelu_tanh,
    with_second_derivative(gelu_tanh_second_derivative)(gelu_tanh_derivative),
    "f(x) = x (1 + tanh u) / 2 = x σ(2u), u = √(2/π) (x + 0.044715 x³), f'(x) = σ(2u) + x u' / (2 cosh² u)",
)
silu = Activation(
    "silu",
    jax.nn.silu,
    with_second_derivative(silu_second_derivative)(silu_derivative),
    "f(x) = x σ(x), f'(x) = σ(x) (1 + x σ(-x))",
)
mish = Activation(
    "mish",
    jax.nn.mish,
    with_second_derivative(mish_second_derivative)(mish_derivative),
    "f(x) = x tanh s, s = log(1 + e^x), f'(x) = tanh s + x σ(x) / cosh² s",
)


# Piecewise linear approximations


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


# Over the last axis


def _softmax_pullback(x, y_bar):
    """∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ - yⱼ), so x_barⱼ = Σᵢ y_barᵢ yᵢ (δᵢⱼ - yⱼ) = yⱼ (y_barⱼ - Σᵢ y_barᵢ yᵢ).

    As the yᵢ sum to 1, this is yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ), which is computed without cancellation.
    """
    return softmax_product(softmax_of(x), y_bar)


def _log_softmax(x):
    """With the largest element xₘ: xᵢ - xₘ - log(1 + Σₖ e^(xₖ - xₘ)) over k ≠ m.

    For a large margin, yₘ is small but not 0: the 1 of e^(xₘ - xₘ) is not in the sum, where it would hide the others.
    """
    is_top = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=bool)
    shifted = x - jnp.sum(x, axis=-1, keepdims=True, where=is_top)
    return shifted - jnp.log1p(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=~is_top))


def _log_softmax_pullback(x, y_bar):
    """yᵢ = xᵢ - log Σ e^x, so ∂yᵢ/∂xⱼ = δᵢⱼ - pⱼ with p = softmax(x), and x_barⱼ = y_barⱼ - pⱼ Σᵢ y_barᵢ.

    If one p is above 1/2, 1 - p loses digits there. This element follows from the others, since Σⱼ x_barⱼ = 0.
    """
    p = softmax_of(x)
    is_top = p > 0.5
    others = jnp.where(is_top, 0, y_bar - p * jnp.sum(y_bar, axis=-1, keepdims=True))
    return jnp.where(is_top, -jnp.sum(others, axis=-1, keepdims=True), others)


softmax = VectorActivation(
    "softmax", jax.nn.softmax, _softmax_pullback, "yᵢ = e^{xᵢ} / Σ e^x, x_barⱼ = yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ)"
)
log_softmax = VectorActivation(
    "log_softmax",
    _log_softmax,
    _log_softmax_pullback,
    "yᵢ = xᵢ - log Σ e^x, x_bar = y_bar - softmax(x) Σ y_bar",
)

ACTIVATIONS: dict[str, Activation | VectorActivation] = {
    activation.name: activation
    for activation in (
        identity, sigmoid, tanh, softsign, softplus, log_sigmoid,
        relu, leaky_relu, elu, selu,
        gelu, gelu_tanh, silu, mish,
        relu6, hard_tanh, hard_sigmoid, hard_silu,
        softmax, log_softmax,
    )
}  # fmt: skip
"""Every activation by its name, as flags and configurations use it."""


def activation(name: str) -> Activation | VectorActivation:
    """Looks up an activation by its name.

    >>> activation("relu") is relu
    True
    """
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]
