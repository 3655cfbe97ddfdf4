"""Bytes that a program has to move between the memory and the arithmetic, counted from the traced program.

A product, a convolution, a sort, a gather and the like read their operands and write their results. Operations that go
element by element, that only move elements, and reductions are taken to be fused with each other: together they read
an array of the memory once, and write one where a product reads it or where it is a result. An array of the memory is
an argument or what a product made. Loops count as often as they run. So the count is what a good compiler needs; a
cache may save some of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from jax.extend.core import Literal

from functional_nn.jaxprs.walk import Flat, Step, flattened, inner_programs, times, trace

READ_WHOLE = frozenset(
    (
        *("dot_general", "ragged_dot_general", "conv_general_dilated", "sort", "fft", "select_and_scatter_add"),
        *("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"),
        *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "custom_call", "ffi_call", "pallas_call"),
        *("cholesky", "triangular_solve", "lu", "qr", "eigh", "svd"),
    )
)
"""Operations that read their operands from the memory and write their results there."""
TAKEN = frozenset(("gather", "dynamic_slice"))
"""These read of their first operand what they give, and their indices."""
PUT = {"dynamic_update_slice": 1} | {
    f"scatter{kind}": 2 for kind in ("", "-add", "-mul", "-min", "-max", "_add", "_mul", "_min", "_max", "-sub", "_sub")
}
"""These write, and for a sum read, what the operand of this number is large; the rest of the array stays in place."""


VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "transpose", "name", "stop_gradient"))
"""These give their operand, seen otherwise."""


def count_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """The bytes that one call moves at the least; ``arguments`` may be shapes.

    >>> import jax.numpy as jnp
    >>> count_bytes(lambda x, w: jnp.exp(x) @ w, jnp.ones((2, 3)), jnp.ones((3, 4)))
    152
    """
    return bytes_by_scope(trace(function, *arguments)).total()


def bytes_by_scope(program: Any) -> Counter[str]:
    """The bytes under each name stack (``chain_0/dense_1``) of a traced program."""
    return flat_bytes(flattened(program))


def flat_bytes(flat: Flat) -> Counter[str]:
    """The same for a program laid flat."""
    counts: Counter[str] = Counter()
    same: dict[int, int] = {}
    for step in flat.steps:
        if step.equation.primitive.name in VIEWS and isinstance(step.inputs[0], int):
            same[step.outputs[0]] = same.get(step.inputs[0], step.inputs[0])
    steps = [step for step in flat.steps if same.keys().isdisjoint(step.outputs)]

    def arrays(places: Iterable[Any]) -> set[int]:
        return {same.get(place, place) for place in places if isinstance(place, int)}

    in_memory, needed = {*flat.inputs, *flat.constants}, arrays(flat.outputs)
    for step in steps:
        if not _is_fused(step):
            counts += _moved(step)
            in_memory.update(step.outputs)
            needed |= arrays(step.inputs)
    for step in filter(_is_fused, steps):
        read = arrays(step.inputs) & in_memory
        in_memory -= read
        written = needed.intersection(step.outputs)
        counts[step.scope] += sum(size_of(flat.shapes[place]) for place in (*read, *written))
    return counts


def size_of(aval: Any) -> int:
    """The bytes of an array of this shape and type; keys and tokens count nothing."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return getattr(aval, "size", 0) * itemsize


def _is_fused(step: Step) -> bool:
    name = step.equation.primitive.name
    return not (name in READ_WHOLE or name in TAKEN or name in PUT or inner_programs(step.equation))


def _moved(step: Step) -> Counter[str]:
    equation, scope = step.equation, step.scope
    operands = [size_of(variable.aval) for variable in equation.invars]
    results = sum(size_of(variable.aval) for variable in equation.outvars)
    name = equation.primitive.name
    inner = [_scoped(bytes_by_scope(_closed(program)), scope) for program in inner_programs(equation)]
    if name == "cond":
        return max(inner, key=Counter.total)
    if inner:
        return Counter({place: times(equation) * size for part in inner for place, size in part.items()})
    if name in TAKEN:
        return Counter({scope: 2 * results + sum(operands[1:])})
    if name in PUT:
        return Counter({scope: 2 * operands[PUT[name]]})
    literals = sum(size_of(v.aval) for v in equation.invars if isinstance(v, Literal))
    return Counter({scope: sum(operands) - literals + results})


def _scoped(counts: Counter[str], scope: str) -> Counter[str]:
    return Counter({f"{scope}/{place}".strip("/"): size for place, size in counts.items()})


def _closed(program: Any) -> Any:
    """An open program as one without constants: they are arguments of it."""
    if hasattr(program, "consts"):
        return program
    from jax.extend.core import ClosedJaxpr

    return ClosedJaxpr(program, ())
