"""A program taken apart: what each layer costs forward and backward, each part compiled and timed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from functional_nn.bench.measure.timing import Timing, clocked, race
from functional_nn.jaxprs.bytes_moved import bytes_by_scope
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.flops import flops_by_scope
from functional_nn.jaxprs.walk import Flat, Step, flattened, layer_of

OUTSIDE = "outside"
"""What stands in no layer: the loss, the optimizer, keys."""


class LayerCost(NamedTuple):
    """What one outermost layer costs in one direction.

    Args:
        layer: its name; ``outside`` for what stands in no layer.
        backward: whether it is the backward pass.
        flops: operations, counted.
        bytes: that are moved at the least, counted.
        timing: of the part compiled alone, its start included; None where it cannot be taken out of a loop.
    """

    layer: str
    backward: bool
    flops: int
    bytes: int
    timing: Timing | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "timing": self.timing and self.timing.to_dict()}


def layer_costs(program: Any, arguments: Sequence[Any], seconds: float) -> tuple[LayerCost, ...]:
    """The parts of a traced program in their order, timed in turns for so many seconds; with 0 they are counted only.

    Parts are compiled apart, so what the compiler would have fused across layers is not, and every part pays for its
    start: together they take longer than the whole.
    """
    flops, moved = (_by_part(by_scope(program)) for by_scope in (flops_by_scope, bytes_by_scope))
    flat = flattened(program)
    parts: dict[tuple[str, bool], list[Step]] = {}
    for step in flat.steps:
        parts.setdefault(_part_of(step.scope), []).append(step)
    timings = _timings(flat, parts, jax.tree.leaves(tuple(arguments)), seconds) if seconds else {}
    places = dict.fromkeys((*parts, *flops, *moved))
    return tuple(
        LayerCost(*place, flops[place], moved[place], timings.get(place))
        for place in places
        if flops[place] or moved[place]
    )


def _part_of(scope: str) -> tuple[str, bool]:
    layer, backward = layer_of(scope)
    outermost = layer.split("/")[0]
    return (outermost, backward) if outermost else (OUTSIDE, False)


def _by_part(counts: Counter[str]) -> Counter[tuple[str, bool]]:
    parts: Counter[tuple[str, bool]] = Counter()
    for scope, number in counts.items():
        parts[_part_of(scope)] += number
    return parts


def _timings(flat: Flat, parts: dict[Any, list[Step]], leaves: Sequence[Any], seconds: float) -> dict[Any, Timing]:
    made = {place: {out for step in steps for out in step.outputs} for place, steps in parts.items()}
    read = {place: {place for step in steps for place in step.inputs if isinstance(place, int)} - made[place]
            for place, steps in parts.items()}  # fmt: skip
    wanted = set().union(*read.values(), (place for place in flat.outputs if isinstance(place, int)))
    ends = sorted(wanted.difference(flat.inputs, flat.constants))
    whole = jax.jit(_runner(flat.steps, flat.inputs, ends, flat.constants))
    values = {**flat.constants, **dict(zip(flat.inputs, leaves, strict=True))}
    values |= zip(ends, whole(*leaves), strict=True)
    contestants: dict[Any, Callable[[], float]] = {}
    for place, steps in parts.items():
        given, gives = sorted(read[place]), sorted(made[place] & wanted)
        operands = [values[number] for number in given]
        compiled = jax.jit(_runner(steps, given, gives, {})).lower(*operands).compile()
        contestants[place] = lambda compiled=compiled, operands=operands: clocked(compiled, *operands)[0]
    return race(contestants, seconds)


def _runner(steps: Sequence[Step], given: Sequence[int], gives: Sequence[int], known: dict[int, Any]) -> Any:
    """A function that runs steps, from what stands in the places ``given`` to what then stands in ``gives``."""

    def run(*operands):
        values = {**known, **dict(zip(given, operands, strict=True))}
        for step in steps:
            inputs = [place.val if isinstance(place, Literal) else values[place] for place in step.inputs]
            values.update(zip(step.outputs, bind(step.equation, inputs), strict=True))
        return [values[place] for place in gives]

    return run
