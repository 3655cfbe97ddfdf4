"""Bytes that have to pass between a chip and its memory in one call, however much the chip keeps on itself."""

from __future__ import annotations

from jax.extend.core import ClosedJaxpr

from functional_nn.jaxprs.bytes_moved import COMBINING, REPLACING, TAKEN, VIEWS, size_of
from functional_nn.jaxprs.inner_programs import inner_programs, scan_parts
from functional_nn.jaxprs.walk import Step, flattened

PARTLY_READ = TAKEN | REPLACING.keys() | COMBINING.keys() | {"slice"}
"""Operations that need only some elements of their first operand."""


def least_bytes(program: ClosedJaxpr) -> int:
    """The bytes of the arguments that a call reads whole, and of the results that it computes.

    All other arrays may stay in a chip's own memory between two operations. An argument of which a part is enough does
    not count, such as the images from which a loop takes a batch in each step.

    >>> import jax.numpy as jnp
    >>> from functional_nn.jaxprs.walk import trace
    >>> least_bytes(trace(lambda x, w: jnp.exp(jnp.exp(x) @ w), jnp.ones((2, 3)), jnp.ones((3, 4))))
    104
    """
    flat = flattened(program)
    read = (place for place, whole in zip(flat.inputs, _read_whole(program), strict=True) if whole)
    computed = {place for step in flat.steps for place in step.outputs}.intersection(
        place for place in flat.outputs if isinstance(place, int)
    )
    return sum(size_of(flat.shapes[place]) for place in (*read, *computed))


def _read_whole(program: ClosedJaxpr) -> list[bool]:
    """Which arguments of a program it reads whole for certain, in the order of the arguments."""
    flat = flattened(program)
    viewed: dict[int, int] = {}  # the array that a view shows
    read: set[int] = set()
    for step in flat.steps:
        operands = [viewed.get(place, place) if isinstance(place, int) else None for place in step.inputs]
        if step.equation.primitive.name in VIEWS and operands[0] is not None:
            viewed[step.outputs[0]] = operands[0]
            continue
        whole = _operands_read_whole(step)
        read |= {place for place, is_whole in zip(operands, whole, strict=True) if is_whole and place is not None}
    return [place in read for place in flat.inputs]


def _operands_read_whole(step: Step) -> list[bool]:
    name = step.equation.primitive.name
    if name == "scan":
        scan = scan_parts(step.equation)
        return [scan.length > 0 and whole for whole in _read_whole(scan.body)]
    # Of a branch or of another loop, it is not certain that it runs.
    whole = [not inner_programs(step.equation)] * len(step.inputs)
    if name in PARTLY_READ:
        whole[0] = False
    return whole
