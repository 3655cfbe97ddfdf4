"""The derivatives of gates, computed in the forward pass together with the gates.

The formulas use few operations, because a train step of a recurrent layer spends much of its time on gates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import with_second_derivative
from functional_nn.activations.smooth import sigmoid, tanh
from functional_nn.core.shapes import wide_type


@with_second_derivative(lambda a: -sigmoid.derivative(a) * jnp.tanh(a / 2))
def gate_derivative(a: jax.Array, gate: jax.Array) -> jax.Array:
    """σ'(a) = σ(a) (1 - σ(a)) for gate = σ(a), computed as (e^{-a} σ(a)) σ(a), since 1 - σ(a) = e^{-a} σ(a).

    1 - σ(a) itself would lose its digits for large a. XLA computes σ(a) as 1 / (1 + e^{-a}), so this needs no further
    exponential. If e^{-a} overflows, σ(a) is 0. The bound prevents 0 · ∞.
    """
    wide = wide_type(a.dtype)
    inverse_odds = jnp.minimum(jnp.exp(-a.astype(wide)), jnp.finfo(wide).max)
    wide_gate = gate.astype(wide)
    return (inverse_odds * wide_gate * wide_gate).astype(a.dtype)


@with_second_derivative(lambda a: -2 * jnp.tanh(a) * tanh.derivative(a))
def tanh_derivative(a: jax.Array) -> jax.Array:
    """tanh'(a) = e^{-2|a|} (1 + |tanh(a)|)². From tanh(a) alone, 1 - tanh²(a) would lose its digits.

    Let e = e^{-2|a|}. Then |tanh(a)| = (1 - e) / (1 + e), so 1 + |tanh(a)| = 2 / (1 + e), and tanh'(a) = 4e / (1 + e)².
    The tanh is that of the forward pass, which XLA computes once, so this needs no division.
    """
    wide_a = a.astype(wide_type(a.dtype))
    s = 1 + jnp.abs(jnp.tanh(wide_a))
    return (jnp.exp(-2 * jnp.abs(wide_a)) * s * s).astype(a.dtype)
