"""Evaluation of a traced function, equation by equation, with many digits of precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.digits import decompositions as decompositions  # it adds its rules to those of operations
from functional_nn.gradients.digits import operations
from functional_nn.gradients.digits.numbers import Points, Values, as_numbers, together
from functional_nn.jaxprs.evaluate import Compute, EquationPath, bind, evaluate, scan_in_steps, while_in_steps
from functional_nn.jaxprs.walk import CALLS, TracedProgram, array_type, branches, closed, equations, place_of

Operand: TypeAlias = Points | np.ndarray | jax.Array
Array: TypeAlias = jax.Array | np.ndarray
Results: TypeAlias = list[Operand]


class Program:
    """A function of arrays, traced once.

    Some values do not depend on the inputs: random bits, masks, labels, and numbers computed from them. JAX computes
    them, as in the original program. Everything else is computed with as many digits as ``many_digits`` says, from the
    exact binary values of the inputs and literals.

    Args:
        function: ``function(leaves) -> outputs``, lists of floating-point arrays.
        leaves: arrays with the shapes and types for which the function is traced.
    """

    def __init__(self, function: Callable[[list[Array]], Sequence[Array]], leaves: Sequence[Array]):
        self._program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))

    @property
    def numbers(self) -> int:
        """How many numbers one evaluation makes for each point. This estimates its time and memory."""
        made = [(variable, 1) for variable in self._program.jaxpr.invars]
        made += [(out, located.repeats) for located in equations(self._program) for out in located.equation.outvars]
        return sum(array_type(variable).size * repeats for variable, repeats in made)

    @property
    def outputs(self) -> int:
        """The number of elements in all outputs together."""
        return sum(array_type(variable).size for variable in self._program.jaxpr.outvars)

    def __call__(self, leaves: Sequence[Values]) -> Values:
        """Evaluates the function. Leaves have shape (\\*shape, points); the result is (output elements, points)."""
        outputs = [lift(y) for y in evaluate(self._program, [Points(leaf) for leaf in leaves], in_many_digits)]
        points = max(leaf.shape[-1] for leaf in leaves)
        # An output that does not depend on the inputs has one point so far.
        flat = [np.broadcast_to(y, (*y.shape[:-1], points)).reshape(-1, points) for y in outputs]
        return np.concatenate(flat)


def in_many_digits(path: EquationPath, equation: JaxprEqn, operands: Sequence[Operand], compute: Compute) -> Results:
    """The hook that computes with many digits. Values that depend on the inputs are ``Points``, all others arrays."""
    name = equation.primitive.name
    # A call is entered, because some equations inside it may not depend on the inputs.
    if name in CALLS:
        return compute(operands)
    if not any(isinstance(operand, Points) for operand in operands):
        return [*bind(equation, operands)]
    if name in CONTROL:
        return CONTROL[name](equation, operands)
    try:
        rule = operations.by_jax if operations.is_discrete(equation) else operations.RULES[name]
        outputs = rule(equation, *map(lift, operands))
    except (AttributeError, KeyError, TypeError) as error:  # some functions of gmpy2 and mpmath take only real numbers
        given = f"{name}, used in {place_of(equation) or 'an unknown place'}"
        raise operations.no_rule("operations with a rule", given) from error
    return [Points(output) for output in (outputs if isinstance(outputs, list) else [outputs])]


def lift(value: Operand) -> Values:
    """Converts a value to ``Values``. An ordinary array has the same values at all points."""
    if isinstance(value, Points):
        return value.values
    array = np.asarray(value)
    is_inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return (as_numbers(array) if is_inexact else array)[..., None]


def run(program: TracedProgram, operands: Sequence[Operand], step: int = 0) -> Results:
    """Evaluates a program inside an equation."""
    return evaluate(program, operands, in_many_digits)


def selected(which: np.ndarray, new: Sequence[Operand], old: Sequence[Operand], step: int = 0) -> Results:
    """Takes the new value at the points where ``which`` is true, and the old value at all other points.

    ``which`` has only the first axes of the values if it is the condition of a loop under ``vmap``.
    """
    results: Results = []
    for a, b in zip(map(lift, new), map(lift, old), strict=True):
        # The new axes are between the axes of the condition and the last axis, the points.
        axes = range(which.ndim - 1, max(a.ndim, b.ndim) - 1)
        results.append(Points(np.where(np.expand_dims(which, tuple(axes)), a, b)))
    return results


def scan(equation: JaxprEqn, operands: Sequence[Operand]) -> Results:
    """The results of a ``scan``."""

    def stacked(values: Sequence[Operand]) -> Operand:
        if any(isinstance(value, Points) for value in values):
            return Points(np.stack(together(*map(lift, values))))
        return jnp.stack(cast("Sequence[Array]", values))

    # Reading one step is fast in NumPy. Random keys exist only as JAX arrays and stay so.
    stay = [isinstance(x, Points) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in operands]
    in_memory = [x if stays else np.asarray(x) for x, stays in zip(operands, stay, strict=True)]
    return scan_in_steps(equation, in_memory, run, _at, stacked)


def _at(x: Operand, step: int) -> Operand:
    return Points(x.values[step]) if isinstance(x, Points) else x[step]


def cond(equation: JaxprEqn, operands: Sequence[Operand]) -> Results:
    """Evaluates a ``cond``. Each point gets the results of the branch that it takes."""
    index, *others = operands
    programs = branches(equation)
    numbers = np.asarray(index.values if isinstance(index, Points) else index, int)
    numbers = np.clip(numbers, 0, len(programs) - 1)  # as JAX does
    # Each branch that some point takes is run for all points. Then every point keeps the results of its own branch.
    first, *rest = np.unique(numbers)
    results = run(programs[first], others)
    for number in rest:
        results = selected(numbers == number, run(programs[number], others), results)
    return results


def while_loop(equation: JaxprEqn, operands: Sequence[Operand]) -> Results:
    """Evaluates a ``while``. When the loop of a point has ended, its values stay fixed and the other points go on."""
    # A condition that does not depend on the inputs is the same at all points. ``lift`` gives it their axis, too.
    return while_in_steps(equation, operands, run, lambda value: lift(value).astype(bool), selected)


def custom_linear_solve(equation: JaxprEqn, operands: Sequence[Operand]) -> Results:
    """Solves a linear system with the ``solve`` program of the equation."""
    counts, programs = equation.params["const_lengths"], equation.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right_sides = operands[sum(counts) :]
    return run(closed(programs.solve), [*operands[start : start + counts.solve], *right_sides])


CONTROL = {"scan": scan, "cond": cond, "while": while_loop, "custom_linear_solve": custom_linear_solve}
