"""The derivative of a sigmoid gate, computed beside the gate itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import in_wide_type
from functional_nn.activations.derivative_rules import with_second_derivative
from functional_nn.activations.table import sigmoid


@with_second_derivative(lambda a: -sigmoid.derivative(a) * jnp.tanh(a / 2))
@in_wide_type
def gate_derivative(a: jax.Array) -> jax.Array:
    """σ'(a) = σ(a) (1 - σ(a)) = e^{-a} σ(a)², since 1 - σ(a) = e^{-a} σ(a).

    1 - σ(a) itself would lose its digits for large a. XLA computes σ(a) as 1 / (1 + e^{-a}), so beside the gate this
    needs no further exponential, and costs less than ``sigmoid.derivative``. Where e^{-a} overflows, σ(a) is 0.
    """
    inverse_odds = jnp.minimum(jnp.exp(-a), jnp.finfo(a.dtype).max)
    gate = jax.nn.sigmoid(a)
    return inverse_odds * gate * gate
