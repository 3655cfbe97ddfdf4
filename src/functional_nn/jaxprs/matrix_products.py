"""Matrix products and convolutions of a traced program: their operations, operands and names."""

from __future__ import annotations

from typing import cast

import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn

PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
"""The names of the operations."""


def operand_types(equation: JaxprEqn) -> list[ShapedArray]:
    """The shapes and types of a product's operands, which are always arrays."""
    return [cast(ShapedArray, variable.aval) for variable in equation.invars]


def product_name(equation: JaxprEqn) -> str:
    """The shapes of a product: ``128×784 · 784×128``.

    >>> import jax
    >>> product_name(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 3)), jnp.ones((3, 4))).eqns[0])
    '2×3 · 3×4'
    """
    left, right = operand_types(equation)
    kind = "" if equation.primitive.name == "dot_general" else " convolution"
    name = f"{'×'.join(map(str, left.shape))} · {'×'.join(map(str, right.shape))}{kind}"
    return name if left.dtype == jnp.float32 else f"{name} {left.dtype.name}"
