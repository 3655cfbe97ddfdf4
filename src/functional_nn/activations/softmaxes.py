"""Softmax and log-softmax, over the last axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import in_wide_type
from functional_nn.activations.activation_types import VectorActivation
from functional_nn.activations.derivative_rules import softmax_of, softmax_product


@in_wide_type
def _softmax_pullback(x, y_bar):
    """∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ - yⱼ), so x_barⱼ = Σᵢ y_barᵢ yᵢ (δᵢⱼ - yⱼ) = yⱼ (y_barⱼ - Σᵢ y_barᵢ yᵢ).

    As the yᵢ sum to 1, this is yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ), which is computed without cancellation.
    """
    return softmax_product(softmax_of(x), y_bar.astype(x.dtype))


@in_wide_type
def _log_softmax(x):
    """With the largest element xₘ: xᵢ - xₘ - log(1 + Σₖ e^(xₖ - xₘ)) over k ≠ m.

    For a large margin, yₘ is small but not 0: the 1 of e^(xₘ - xₘ) is not in the sum, where it would hide the others.
    """
    if not x.shape[-1]:
        return x  # it has no largest element
    is_top = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=bool)
    shifted = x - jnp.sum(x, axis=-1, keepdims=True, where=is_top)
    return shifted - jnp.log1p(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=~is_top))


@in_wide_type
def _log_softmax_pullback(x, y_bar):
    """yᵢ = xᵢ - log Σ e^x, so ∂yᵢ/∂xⱼ = δᵢⱼ - pⱼ with p = softmax(x), and x_barⱼ = y_barⱼ - pⱼ Σᵢ y_barᵢ.

    If one p is above 1/2, 1 - p loses digits there. This element follows from the others, since Σⱼ x_barⱼ = 0.
    """
    p, y_bar = softmax_of(x), y_bar.astype(x.dtype)
    is_top = p > 0.5
    others = jnp.where(is_top, 0, y_bar - p * jnp.sum(y_bar, axis=-1, keepdims=True))
    return jnp.where(is_top, -jnp.sum(others, axis=-1, keepdims=True), others)


softmax = VectorActivation(
    "softmax",
    in_wide_type(jax.nn.softmax),
    _softmax_pullback,
    "yᵢ = e^{xᵢ} / Σ e^x, x_barⱼ = yⱼ Σᵢ yᵢ (y_barⱼ - y_barᵢ)",
)
log_softmax = VectorActivation(
    "log_softmax",
    _log_softmax,
    _log_softmax_pullback,
    "yᵢ = xᵢ - log Σ e^x, x_bar = y_bar - softmax(x) Σ y_bar",
)
