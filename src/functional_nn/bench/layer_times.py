"""Cost of each layer, forward and backward: its part of the program, compiled and timed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr

from functional_nn.bench.compiled_program import Timing, clocked, race
from functional_nn.jaxprs.counts import bytes_by_scope, flops_by_scope
from functional_nn.jaxprs.evaluate import run_steps
from functional_nn.jaxprs.walk import Flat, Step, flattened, layer_of

OUTSIDE = "outside"
"""The name for everything outside of layers: the loss, the optimizer, keys."""


Part: TypeAlias = tuple[str, bool]
"""The path of a layer, such as ``residual_0/dense_0``, and whether it is its backward pass."""


class LayerCost(NamedTuple):
    """The cost of one layer in one direction, without the layers inside it. A loop has the cost of what it runs.

    Args:
        layer: its path; ``outside`` for everything outside of layers.
        backward: whether this is the backward pass.
        flops: floating-point operations, counted.
        bytes: the least number of bytes moved, counted.
        timing: the timing of the part compiled alone, with its launch; None if it cannot be taken out of a loop.
    """

    layer: str
    backward: bool
    flops: int
    bytes: int
    timing: Timing | None

    def to_dict(self) -> dict[str, object]:
        """The cost, ready for JSON."""
        return {**self._asdict(), "timing": self.timing and self.timing.to_dict()}


def layer_costs(program: ClosedJaxpr, arguments: Sequence[object], seconds: float) -> tuple[LayerCost, ...]:
    """The costs of the parts of a traced program, in their order.

    The parts take turns for about ``seconds``; with 0 they are counted and not timed. Each part is compiled alone, so
    operations of two layers are never fused, and each part has a launch of its own. Together the parts take longer
    than the whole program.
    """
    flat = flattened(program)
    steps_of: dict[Part, list[Step]] = {}
    for step in flat.steps:
        steps_of.setdefault(_part_of(step.scope), []).append(step)
    flops, moved = (_by_part(counts(program), steps_of) for counts in (flops_by_scope, bytes_by_scope))
    timings = _timings(flat, steps_of, jax.tree.leaves(tuple(arguments)), seconds) if seconds else {}
    return tuple(
        LayerCost(*part, flops[part], moved[part], timings.get(part))
        for part in dict.fromkeys((*steps_of, *flops, *moved))
        if flops[part] or moved[part]
    )


def _part_of(scope: str) -> Part:
    layer, backward = layer_of(scope)
    return (layer, backward) if layer else (OUTSIDE, False)


def _by_part(counts: Counter[str], known: Collection[Part]) -> Counter[Part]:
    """The sum of the counts of each part. A loop is one step, so layers inside it count for the layer around it."""
    parts: Counter[Part] = Counter()
    for scope, number in counts.items():
        layer, backward = _part_of(scope)
        while (layer, backward) not in known and "/" in layer:
            layer = layer.rpartition("/")[0]
        parts[layer, backward] += number
    return parts


def _timings(
    flat: Flat, steps_of: Mapping[Part, Sequence[Step]], arguments: Sequence[object], seconds: float
) -> dict[Part, Timing]:
    """Compiles and times each part alone, on the values that it reads in the whole program."""
    # Places are numbers of arrays in the flat program. A part reads what it does not make itself.
    made = {part: {out for step in steps for out in step.outputs} for part, steps in steps_of.items()}
    read = {
        part: {place for step in steps for place in step.inputs if isinstance(place, int)} - made[part]
        for part, steps in steps_of.items()
    }

    # The whole program runs once, to get the values that the parts read and the values that are results.
    results = {place for place in flat.outputs if isinstance(place, int)}
    wanted = results.union(*read.values())
    computed = sorted(wanted.difference(flat.inputs, flat.constants))
    whole = jax.jit(_runner(flat.steps, flat.inputs, computed, flat.constants))
    values: dict[int, object] = {**flat.constants, **dict(zip(flat.inputs, arguments, strict=True))}
    values |= zip(computed, whole(*arguments), strict=True)

    contestants: dict[Part, Callable[[], float]] = {}
    for part, steps in steps_of.items():
        # A part returns what others read, or what is a result of the program. XLA leaves out everything else.
        inputs, outputs = sorted(read[part]), sorted(made[part] & wanted)
        operands = [values[place] for place in inputs]
        compiled = jax.jit(_runner(steps, inputs, outputs, {})).lower(*operands).compile()
        contestants[part] = lambda compiled=compiled, operands=operands: clocked(compiled, *operands)[0]
    return race(contestants, seconds)


def _runner(
    steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int], constants: Mapping[int, object]
) -> Callable[..., list[object]]:
    """Makes the function that runs steps. It maps the values of the places ``inputs`` to those of ``outputs``."""

    def run(*operands):
        values = {**constants, **dict(zip(inputs, operands, strict=True))}
        run_steps(steps, values)
        return [values[place] for place in outputs]

    return run
