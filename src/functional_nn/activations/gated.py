"""Smooth gates: x times a function that rises from 0 to 1."""

from __future__ import annotations

import math
from functools import partial

import jax

from functional_nn.activations.accurate_derivatives import (
    gelu_derivative,
    gelu_tanh_derivative,
    mish_derivative,
    silu_derivative,
)
from functional_nn.activations.accurate_second_derivatives import (
    gelu_second_derivative,
    gelu_tanh_second_derivative,
    mish_second_derivative,
    silu_second_derivative,
)
from functional_nn.activations.activation_types import Activation
from functional_nn.activations.derivative_rules import with_second_derivative


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
