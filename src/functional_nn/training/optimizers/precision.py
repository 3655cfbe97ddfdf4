"""Precision of training: the floating-point types of parameters, computation and outputs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree


class Precision(NamedTuple):
    """The floating-point types that a run uses.

    Args:
        parameters: the type of the parameters, the state and the optimizer's state.
        compute: the type in which the network computes. Parameters and inputs are cast to it.
        output: the type of the network's output when it enters the loss. 16 bits are too few for sums over examples.

    >>> precision = Precision(jnp.float32, jnp.float16, jnp.float32)
    >>> as_precision(precision) == as_precision("float16"), precision.scales_loss
    (True, True)
    """

    parameters: DTypeLike
    compute: DTypeLike
    output: DTypeLike

    @property
    def scales_loss(self) -> bool:
        """Whether training scales the loss: float16 has no numbers between 0 and 6e-8, where many gradients lie."""
        return jnp.dtype(self.compute) == jnp.float16


PRECISIONS = {
    "float32": Precision(jnp.float32, jnp.float32, jnp.float32),
    "bfloat16": Precision(jnp.float32, jnp.bfloat16, jnp.float32),
    "float16": Precision(jnp.float32, jnp.float16, jnp.float32),
    "float64": Precision(jnp.float64, jnp.float64, jnp.float64),
}
"""Every named precision. With 16 bits only the network computes; parameters, optimizer and loss stay in float32."""


def as_precision(precision: str | Precision) -> Precision:
    """The precision with a name; or a checked ``Precision`` with NumPy's types.

    Raises:
        InputError: for an unknown name; for types that are not floating-point types; for float64 if JAX's 64-bit
            numbers are switched off; for outputs in 16 bits; and for parameters in float16. In float16 an update is
            soon too small to change a parameter. And Adam's ε = 1e-8 becomes 0, so that its step is 0 / 0 for a
            gradient of 0.

    >>> as_precision("bfloat16").parameters
    dtype('float32')
    """
    if isinstance(precision, str):
        if precision not in PRECISIONS:
            raise InputError("precision", "a known name", repr(precision), suggest(precision, PRECISIONS))
        precision = PRECISIONS[precision]
    if not isinstance(precision, Precision):
        raise InputError("precision", "a name or a Precision(parameters, compute, output)", repr(precision))
    policy = Precision(*map(_floating, precision))
    if jnp.float64 in policy and not x64_enabled():
        remedy = 'Call jax.config.update("jax_enable_x64", True) first. Otherwise JAX computes in float32.'
        raise InputError("precision", "64-bit numbers switched on for float64", "JAX with them switched off", remedy)
    if policy.parameters == jnp.float16:
        remedy = "Use precision='float16': it keeps parameters in float32 and computes in float16."
        raise InputError("precision", "parameters of a type that small updates can change", "float16", remedy)
    output = jnp.dtype(policy.output)
    if jnp.finfo(output).bits < 32:
        remedy = "Losses are sums over many examples. Use float32 for the output."
        raise InputError("precision", "outputs of at least 32 bits", output.name, remedy)
    return policy


def _floating(dtype: DTypeLike) -> np.dtype:
    try:
        known = jnp.dtype(dtype)
    except (TypeError, ValueError):
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise InputError("precision", "floating-point types, such as jax.numpy.float32", repr(dtype))
    return known


def x64_enabled() -> bool:
    """Whether JAX computes with 64-bit numbers here."""
    return jnp.zeros(()).dtype == jnp.float64


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floating-point arrays of a pytree to another type; other arrays stay as they are."""

    def cast_leaf(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)
