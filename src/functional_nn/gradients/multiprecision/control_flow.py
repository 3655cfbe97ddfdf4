"""Rules for loops and branches, which Python runs step by step.

``evaluate`` traces a loop's body once and lets JAX run it. Here the numbers have many digits, and such numbers exist
only outside of JAX. So Python evaluates every step. At different points, a loop may end after a different number of
steps, and a branch may take a different path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.gradients.multiprecision.rules import Points, Values, together
from functional_nn.jaxprs.walk import array_type, branches, closed, scan_parts, while_parts

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
    """Converts an array to NumPy, where reading one step is fast. Random keys exist only as JAX arrays and stay so."""
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
    """Evaluates a ``cond``. Each point gets the results of the branch that it takes."""
    index, *others = operands
    programs = branches(equation)
    numbers = np.asarray(index.values if isinstance(index, Points) else index, int)
    numbers = np.clip(numbers, 0, len(programs) - 1)  # as JAX does
    # Each branch that some point takes is run for all points. Then every point keeps the results of its own branch.
    first, *rest = np.unique(numbers)
    results = run(programs[first], others)
    for number in rest:
        results = _selected(lift, numbers == number, run(programs[number], others), results)
    return results


def while_loop(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """Evaluates a ``while``. When the loop of a point has ended, its values stay fixed and the other points go on."""
    loop = while_parts(equation)
    condition_constants, body_constants, carry = loop.split_operands(operands)

    def goes_on() -> np.ndarray:
        (go_on,) = run(loop.condition, [*condition_constants, *carry])
        # A condition that does not depend on the inputs is the same at all points. It gets their axis all the same.
        return np.asarray(go_on.values if isinstance(go_on, Points) else np.asarray(go_on)[..., None], bool)

    while (going := goes_on()).any():
        after = run(loop.body, [*body_constants, *carry])
        carry = after if going.all() else _selected(lift, going, after, carry)
    return carry


def _selected(lift: Lift, which: np.ndarray, new: Sequence[Operand], old: Sequence[Operand]) -> list[Operand]:
    """Takes the new value at the points where ``which`` is true, and the old value at all other points.

    ``which`` has only the first axes of the values if it is the condition of a loop under ``vmap``.
    """
    results: list[Operand] = []
    for a, b in zip(map(lift, new), map(lift, old), strict=True):
        # The new axes are between the axes of the condition and the last axis, the points.
        axes = range(which.ndim - 1, max(a.ndim, b.ndim) - 1)
        results.append(Points(np.where(np.expand_dims(which, tuple(axes)), a, b)))
    return results


def custom_linear_solve(run: Run, lift: Lift, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
    """Solves a linear system with the ``solve`` program of the equation."""
    counts, programs = equation.params["const_lengths"], equation.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right_sides = operands[sum(counts) :]
    return run(closed(programs.solve), [*operands[start : start + counts.solve], *right_sides])


CONTROL = {"scan": scan, "cond": cond, "while": while_loop, "custom_linear_solve": custom_linear_solve}
