"""The operations and the bytes of one call of a function."""

from functional_nn.jaxprs.counts import bytes_by_scope, flops_by_scope
from functional_nn.jaxprs.walk import trace


def count_flops(function, *arguments) -> int:
    """The floating-point operations of one call; ``arguments`` may be shapes (``jax.ShapeDtypeStruct``)."""
    return flops_by_scope(trace(function, *arguments)).total()


def count_bytes(function, *arguments) -> int:
    """The fewest bytes that one call moves; ``arguments`` may be shapes."""
    return bytes_by_scope(trace(function, *arguments)).total()
