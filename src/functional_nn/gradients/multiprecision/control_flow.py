"""Rules for loops and branches, which Python runs step by step.

``evaluate`` traces a loop's body once and lets JAX run it. Numbers of many digits exist only outside of JAX, so here
every step is evaluated anew; and at each point a loop may end at another step, and a branch may be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.gradients.multiprecision.rules import Points, Values, together
from functional_nn.jaxprs.inner_programs import array_type, branches, scan_parts, while_parts

Operand: TypeAlias = Points | np.ndarray | jax.Array
Run: TypeAlias = Callable[[ClosedJaxpr, Sequence[Operand]], list[Operand]]
"""``run(program, operands) -> results``."""
Lift: TypeAlias = Callable[[Operand], Values]
"""``lift(operand) -> values``."""


def scan(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """The results of a ``scan``."""
    loop = scan_parts(equation)
    constants, carry, inputs = loop.split_operands(operands)
    inputs = [_in_memory(x) for x in inputs]
    rows: list[list[Operand]] = []
    steps = range(loop.length)
    for step in reversed(steps) if loop.reverse else steps:
        results = run(loop.body, [*constants, *carry, *(_at(x, step) for x in inputs)])
        carry, row = loop.split_results(results)
        rows.append(row)
    if loop.reverse:
        rows.reverse()
    if rows:
        outputs = [_stacked(lift, column) for column in zip(*rows, strict=True)]
    else:
        types = [array_type(variable) for variable in equation.outvars[loop.carried :]]
        outputs = [np.zeros(output.shape, output.dtype) for output in types]
    return [*carry, *outputs]


def _in_memory(x: Operand) -> Operand:
    """An array that can be read step by step in little time; random keys exist only as arrays of JAX."""
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return x if isinstance(x, Points) or is_key else np.asarray(x)


def _at(x: Operand, step: int) -> Operand:
    return Points(x.values[step]) if isinstance(x, Points) else x[step]


def _stacked(lift: Lift, values: Sequence[Operand]) -> Operand:
    arrays = [value for value in values if not isinstance(value, Points)]
    if len(arrays) == len(values):
        return jnp.stack(arrays)
    return Points(np.stack(together(*(lift(value) for value in values))))


def cond(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """The results of a ``cond``: at each point those of the branch that is taken there."""
    index, *others = operands
    programs = branches(equation)
    numbers = np.asarray(index.values if isinstance(index, Points) else index, int)
    numbers = np.clip(numbers, 0, len(programs) - 1)
    first, *rest = np.unique(numbers)
    results = run(programs[first], others)
    for number in rest:
        results = _selected(lift, numbers == number, run(programs[number], others), results)
    return results


def while_loop(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """The results of a ``while``: a point whose loop has ended keeps its values while others go on."""
    loop = while_parts(equation)
    condition_constants, body_constants, carry = loop.split_operands(operands)

    def goes_on() -> np.ndarray:
        (go_on,) = run(loop.condition, [*condition_constants, *carry])
        return np.asarray(go_on.values if isinstance(go_on, Points) else go_on, bool)

    while (going := goes_on()).any():
        after = run(loop.body, [*body_constants, *carry])
        carry = after if going.all() else _selected(lift, going, after, carry)
    return carry


def _selected(lift: Lift, which: np.ndarray, new: Sequence[Operand], old: Sequence[Operand]) -> list[Operand]:
    """Of each pair the new one at these points, else the old one."""
    return [Points(np.where(which, lift(a), lift(b))) for a, b in zip(new, old, strict=True)]


CONTROL = {"scan": scan, "cond": cond, "while": while_loop}
