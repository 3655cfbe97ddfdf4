"""Activation lookup by name.

If ``jax.nn`` has a function whose values keep their digits, it is used. The derivatives are derived by hand. Second
derivatives are derived by hand where JAX's derivative of the formula would lose digits.
"""

from __future__ import annotations

import jax.numpy as jnp

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.piecewise import (
    elu,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    leaky_relu,
    relu,
    relu6,
    selu,
)
from functional_nn.activations.smooth import (
    gelu,
    gelu_tanh,
    log_sigmoid,
    log_softmax,
    mish,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    tanh,
)
from functional_nn.core.validation import check_choice


def _identity(x):
    return x


def _one(x):
    """1 everywhere."""
    return jnp.ones_like(x)


identity = Activation("identity", _identity, _one, "f(x) = x, f'(x) = 1")

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
