"""Which floating-point types a run uses, and where."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError, suggest


class Precision(NamedTuple):
    """A policy: what is kept, computed and judged in which floating-point type.

    Args:
        parameters: of the parameters, the state and the optimizer's state.
        compute: of the network's computation; parameters and inputs are cast to it, gradients come back from it.
        output: of the network's output as the loss takes it; 16 bits are too few for sums over examples.

    >>> precision = Precision(jnp.float32, jnp.float16, jnp.float32)
    >>> as_precision(precision) == as_precision("float16"), precision.scales_loss
    (True, True)
    """

    parameters: Any
    compute: Any
    output: Any

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
"""Every precision under its name. With 16 bits the network computes; parameters, optimizer and loss stay in float32."""


def as_precision(precision: str | Precision) -> Precision:
    """The precision of that name; a policy as it is, checked, with its types as NumPy's.

    Raises:
        InputError: for an unknown name; for what are no floating-point types; for 64-bit numbers where JAX has them
            switched off; for parameters in float16, where an update is soon too small to change a parameter and Adam's
            ε = 1e-8 is 0, which makes its step 0 / 0 where a gradient is 0; for outputs in 16 bits.

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
        remedy = 'Call jax.config.update("jax_enable_x64", True) first, or JAX would quietly compute in float32.'
        raise InputError("precision", "64-bit numbers switched on for float64", "them switched off", remedy)
    if policy.parameters == jnp.float16:
        remedy = "Keep them in float32 and compute in float16: that is what 'float16' does."
        raise InputError("precision", "parameters in a type with room for small updates", "float16", remedy)
    if jnp.finfo(policy.output).bits < 32:
        remedy = "Losses are sums over many examples: take them in float32."
        raise InputError("precision", "outputs of at least 32 bits", policy.output.name, remedy)
    return policy


def _floating(dtype: Any) -> Any:
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


def cast(tree: Any, dtype: Any) -> Any:
    """The floating-point arrays of a pytree in another type; others as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
