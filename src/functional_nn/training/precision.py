"""Which floating-point types a run uses, and where."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.errors import InputError, suggest


class Precision(NamedTuple):
    """The type parameters are kept in, and the type the network computes in; losses are taken in the former."""

    parameters: Any
    compute: Any


PRECISIONS = {
    "float32": Precision(jnp.float32, jnp.float32),
    "bfloat16": Precision(jnp.float32, jnp.bfloat16),
    "float64": Precision(jnp.float64, jnp.float64),
}
"""Every precision under its name. With bfloat16 parameters, optimizer and loss stay in float32."""


def precision_named(name: str) -> Precision:
    """The precision of that name.

    Raises:
        InputError: for an unknown name, and for float64 where JAX has 64-bit numbers switched off.

    >>> precision_named("bfloat16").parameters.__name__
    'float32'
    """
    if name not in PRECISIONS:
        raise InputError("precision", "a known name", repr(name), suggest(name, PRECISIONS))
    if name == "float64" and not x64_enabled():
        remedy = 'Call jax.config.update("jax_enable_x64", True) first, or JAX would quietly compute in float32.'
        raise InputError("precision", "64-bit numbers switched on for float64", "them switched off", remedy)
    return PRECISIONS[name]


def x64_enabled() -> bool:
    """Whether JAX computes with 64-bit numbers here."""
    return jnp.zeros(()).dtype == jnp.float64


def cast(tree: Any, dtype: Any) -> Any:
    """The floating-point arrays of a pytree in another type; others as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
