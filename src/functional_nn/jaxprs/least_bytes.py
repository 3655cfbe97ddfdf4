"""Bytes that have to pass between a chip and its memory in one call, however much the chip keeps on itself."""

from __future__ import annotations

from jax.extend.core import ClosedJaxpr

from functional_nn.jaxprs.bytes_moved import COMBINING, REPLACING, TAKEN, VIEWS, size_of
from functional_nn.jaxprs.inner_programs import array_type, branches, inner_programs, scan_parts, while_parts
from functional_nn.jaxprs.walk import Flat, Step, flattened

PARTLY_READ = TAKEN | REPLACING.keys() | COMBINING.keys() | {"slice", "split", "unstack"}
"""Operations of which only some elements of the first operand may be needed."""


def least_bytes(program: ClosedJaxpr) -> int:
    """The bytes of the arguments that a call reads whole, and of the results that it computes.

    All other arrays may stay in a chip's own memory between two operations. An argument of which a part is enough does
    not count, such as the images from which a loop takes a batch in each step. Of an argument that is returned with new
    elements in some places, such as a key-value cache, only these elements count: a donated argument is written in
    place.

    >>> import jax.numpy as jnp
    >>> from functional_nn.jaxprs.walk import trace
    >>> least_bytes(trace(lambda x, w: jnp.exp(jnp.exp(x) @ w), jnp.ones((2, 3)), jnp.ones((3, 4))))
    104
    """
    flat = flattened(program)
    read = sum(
        size_of(flat.shapes[place]) for place, whole in zip(flat.inputs, _read_whole(flat), strict=True) if whole
    )
    written = dict(zip(flat.outputs, _written(flat), strict=True))  # a result that is returned twice counts once
    return read + sum(written.values())


def _read_whole(flat: Flat) -> list[bool]:
    """Which arguments of a program it reads whole for certain, in the order of the arguments."""
    viewed: dict[int, int] = {}  # the array that a view shows
    reordered: set[int] = set()  # views with their elements in another order
    read: set[int] = set()
    for step in flat.steps:
        name, source = step.equation.primitive.name, step.inputs[0] if step.inputs else None
        operands = [viewed.get(place, place) if isinstance(place, int) else None for place in step.inputs]
        if name in VIEWS and operands[0] is not None:
            viewed[step.outputs[0]] = operands[0]
            if name == "transpose" or source in reordered:
                reordered.add(step.outputs[0])
            continue
        whole = _operands_read_whole(step)
        read |= {place for place, is_whole in zip(operands, whole, strict=True) if is_whole and place is not None}
    read |= {viewed[place] for place in reordered.intersection(flat.outputs)}
    return [place in read for place in flat.inputs]


def _operands_read_whole(step: Step) -> list[bool]:
    name = step.equation.primitive.name
    if name == "scan":
        scan = scan_parts(step.equation)
        return [scan.length > 0 and whole for whole in _read_whole(flattened(scan.body))]
    # Of a branch or of another loop, it is not certain that it runs.
    whole = [not inner_programs(step.equation)] * len(step.inputs)
    if name in PARTLY_READ:
        whole[0] = False
    return whole


def _written(flat: Flat) -> list[int]:
    """For each result, the least number of bytes that the program has to write, if it may change arguments in place."""
    written: dict[object, int] = {}  # an argument has 0 until some of its elements are replaced
    for step in flat.steps:
        before = [written.get(place, 0) if isinstance(place, int) else 0 for place in step.inputs]
        sizes = [size_of(flat.shapes[place]) for place in step.outputs]
        written.update(zip(step.outputs, map(min, sizes, _written_by(step, before, sizes)), strict=True))
    return [written.get(place, 0) if isinstance(place, int) else 0 for place in flat.outputs]


def _written_by(step: Step, before: list[int], sizes: list[int]) -> list[int]:
    """The same for the results of one step. ``before`` has the bytes of its operands, ``sizes`` of whole results."""
    equation, name = step.equation, step.equation.primitive.name
    if name in VIEWS and name != "transpose":
        return before[:1]
    if name in REPLACING or name in COMBINING:
        changed = array_type(equation.invars[(REPLACING | COMBINING)[name]])
        return [before[0] + size_of(changed)]
    if name == "scan":
        scan = scan_parts(equation)
        _, initial, _ = scan.split_operands(before)
        carry, _ = scan.split_results(_written(flattened(scan.body)))
        runs = scan.length > 0
        return [*(start + runs * new for start, new in zip(initial, carry, strict=True)), *sizes[scan.carried :]]
    if name == "while":  # it is not certain that it runs
        return while_parts(equation).split_operands(before)[2]
    if name == "cond":
        return [min(each) for each in zip(*(_written(flattened(branch)) for branch in branches(equation)), strict=True)]
    return sizes
