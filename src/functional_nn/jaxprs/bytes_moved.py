"""Bytes that a program has to move between memory and arithmetic, counted from the traced program.

A matrix product, a convolution, a sort, a gather and the like read their operands and write their results. Elementwise
operations, operations that only move elements, and reductions are assumed to be fused with each other: together they
read an array from memory once. They write it once if a product reads it or if it is a result. An array is in memory if
it is an argument or if a product made it. The body of a loop counts once for each step. So the count is the number of
bytes that a good compiler needs; a cache may save some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jax.extend.core import ClosedJaxpr, Literal

from functional_nn.jaxprs.inner_programs import array_type, inner_programs
from functional_nn.jaxprs.walk import Place, Step, flattened, times

READ_WHOLE = frozenset(
    {"dot_general", "ragged_dot_general", "conv_general_dilated", "sort", "fft", "select_and_scatter_add"}
    | {"reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"}
    | {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "custom_call", "ffi_call", "pallas_call"}
    | {"cholesky", "triangular_solve", "lu", "qr", "eigh", "svd"}
)
"""Operations that read their operands from memory and write their results there."""
TAKEN = frozenset(("gather", "dynamic_slice"))
"""Operations that read their indices, but of their first operand only the elements that they return."""
REPLACING = {"dynamic_update_slice": 1, "scatter": 2}
COMBINING = {
    f"scatter{kind}": 2 for kind in ("-add", "-mul", "-min", "-max", "_add", "_mul", "_min", "_max", "-sub", "_sub")
}
"""Operations that read their indices and new elements, and write a part of an array, while the rest stays in place. The
value is the index of the operand with the new elements. ``COMBINING`` operations read the same number of old elements.
"""


VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "transpose", "name", "stop_gradient"))
"""Operations that return the same elements in another shape or order."""


def bytes_by_scope(program: ClosedJaxpr) -> Counter[str]:
    """The fewest bytes that a traced program moves under each name stack (``chain_0/dense_1``).

    >>> import jax.numpy as jnp
    >>> from functional_nn.jaxprs.walk import trace
    >>> bytes_by_scope(trace(lambda x, w: jnp.exp(x) @ w, jnp.ones((2, 3)), jnp.ones((3, 4)))).total()
    152
    """
    flat = flattened(program)
    counts: Counter[str] = Counter()
    given = {*flat.inputs, *flat.constants}
    # A view has no memory of its own: it is replaced by the array that it shows. A view of an argument that is a result
    # is a copy.
    shown: dict[int, int] = {}
    for step in flat.steps:
        source = step.inputs[0] if step.inputs else None
        if step.equation.primitive.name in VIEWS and isinstance(source, int):
            view, array = step.outputs[0], shown.get(source, source)
            if not (view in flat.outputs and array in given):
                shown[view] = array
    steps = [step for step in flat.steps if shown.keys().isdisjoint(step.outputs)]

    def arrays(places: Iterable[Place]) -> set[int]:
        return {shown.get(place, place) for place in places if isinstance(place, int)}

    # Operations that are not fused read and write memory. This also determines which arrays must be in memory.
    in_memory, needed = {*given}, arrays(flat.outputs)
    for step in steps:
        if not _is_fused(step):
            counts += _moved(step)
            in_memory.update(step.outputs)
            needed |= arrays(step.inputs)
    # Fused operations read each array once, when it is first needed. They write the arrays that others need.
    for step in filter(_is_fused, steps):
        read = arrays(step.inputs) & in_memory
        in_memory -= read
        written = needed.intersection(step.outputs)
        counts[step.scope] += sum(size_of(flat.shapes[place]) for place in (*read, *written))
    return counts


def size_of(array: object) -> int:
    """The bytes of an array, or of a shape and type. Random keys and tokens count as 0."""
    itemsize = getattr(getattr(array, "dtype", None), "itemsize", 0)
    return getattr(array, "size", 0) * itemsize


def _is_fused(step: Step) -> bool:
    name = step.equation.primitive.name
    apart = (READ_WHOLE, TAKEN, REPLACING, COMBINING)
    return not (any(name in names for names in apart) or inner_programs(step.equation))


def _moved(step: Step) -> Counter[str]:
    """The bytes that are moved by an operation that is not fused."""
    equation, scope = step.equation, step.scope
    operands = [size_of(array_type(variable)) for variable in equation.invars]
    results = sum(size_of(array_type(variable)) for variable in equation.outvars)
    name = equation.primitive.name
    # The program inside a ``pallas_call`` computes one block.
    programs = [] if name in READ_WHOLE else inner_programs(equation)
    inner = [_in_scope(scope, bytes_by_scope(program)) for program in programs]
    if name == "cond":
        return max(inner, key=Counter.total)
    if inner:
        return Counter({place: times(equation) * size for part in inner for place, size in part.items()})
    if name in TAKEN:
        return Counter({scope: 2 * results + sum(operands[1:])})
    if name in REPLACING:
        return Counter({scope: sum(operands[1:]) + operands[REPLACING[name]]})
    if name in COMBINING:
        return Counter({scope: sum(operands[1:]) + 2 * operands[COMBINING[name]]})
    literals = sum(size_of(array_type(literal)) for literal in equation.invars if isinstance(literal, Literal))
    return Counter({scope: sum(operands) - literals + results})


def _in_scope(scope: str, counts: Counter[str]) -> Counter[str]:
    return Counter({f"{scope}/{place}".strip("/"): size for place, size in counts.items()})
