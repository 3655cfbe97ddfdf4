"""Errors planted in a formula, to test the comparison itself: it has to find every error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients.cases.equivalent import reason_for
from functional_nn.gradients.compare.jacobian_comparison import JacobianComparison
from functional_nn.gradients.compare.problem import Array, DifferentiableLeaves, Leaves, differentiable_leaves
from functional_nn.gradients.compare.report import Survivor
from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.mutation.mutants import AtEquation, Mutants, mutate
from functional_nn.jaxprs.xla_options import quick_jit

MOST_MUTANTS = 100
"""The largest number of planted errors in the equations of a formula. All errors in its results are tried too."""
DIGITS, AGREEING_DIGITS = 50, 40
"""The number of digits in the comparison of a survivor with the formula, and how many of them have to agree."""
NO_MUTANT = -1
"""With this number, the formula itself is evaluated, without a mutant."""
ENOUGH_NUMBERS, MOST_REPETITIONS = 24, 8
"""Random points are drawn until they have this many numbers together, at most eight times."""
WIDTHS = (0.3, 1.0, 4.0)
"""Standard deviations of random points. Mutants that survive at the problem's own point are tried there."""
UNCHANGED = "It changes nothing at any point: this derivative is 0, or the same along the axis."
TOO_SMALL = "It changes less than the rounding in the narrow type that the function computes in."
ONLY_ROUNDING = "It changes nothing but rounding: with 50 digits, the results agree to 40."
BELOW_ROUNDING = "Rounding in this function can change this component by more than a millionth."
HIDDEN = "It changes a value that a later selection leaves out at every point."
SAME_OPERANDS = "It changes nothing: the new value is the old one at every point, as where a term of 0 is dropped."
OF_CONSTANTS = "It changes nothing: the operation has the same operands at every point, and the same result."
INSIDE_JAX = "It changes a part of a function of JAX that no point reaches, such as its rule for infinity."
A_MILLIONTH_MORE = "component × (1 + 1e-6)"


def plant(
    comparison: JacobianComparison, *, limit: int = MOST_MUTANTS, equivalent: Mapping[str, str] | None = None
) -> tuple[int, tuple[Survivor, ...]]:
    """Plants errors in the problem's backward pass, or in its pullback if it has none.

    If the comparison does not find a mutant at the problem's own point, it tries other points: random points with small
    and large values, evenly spaced values, and whole numbers, which are often equal and lie on kinks.

    Args:
        comparison: the comparison of the problem.
        limit: the largest number of planted errors in the formula's equations.
        equivalent: reasons why a mutant is not an error, by the mutant's description.

    Returns:
        The number of planted errors, and those that were not found.
    """
    problem = comparison.problem
    with jax.enable_x64(True):
        # For a problem without a separate forward pass, the leaves take the place of the residuals.
        residuals = quick_jit(problem.residuals) if problem.residuals else _as_arrays
        first = residuals(problem.leaves), _as_arrays(comparison.y_bars)
        mutants = mutate(problem.backward or problem.pullback, *first, limit=limit)
    if not len(mutants):
        return 0, ()
    dead, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
    points: list[tuple[PyTree, Leaves]] = []
    for leaves, y_bars in _points(problem.leaves, comparison.y_bars):
        with jax.enable_x64(True):
            given = residuals(leaves), _as_arrays(y_bars)
        points.append(given)
        dead_here, changed_here = comparison.killed(mutants, given, leaves)
        dead |= dead_here
        changed |= changed_here
        if dead.all():
            break

    def reason(number: int) -> str:
        mutant = mutants[number]
        if not changed[number] and mutant.family == "bar":
            return UNCHANGED
        if not changed[number] and comparison.note:
            return TOO_SMALL
        listed = (equivalent or {}).get(mutant.description) or reason_for(comparison.subject, str(mutant))
        if not listed and comparison.loses_digits and mutant.description.endswith(A_MILLIONTH_MORE):
            return BELOW_ROUNDING
        is_hidden = mutant.family == "selection" and not changed[number]
        shown = listed or _reason_at_equation(seen.get(number, ()), is_hidden=is_hidden)
        if shown or _changes_only_rounding(mutants, number, points):
            return shown or ONLY_ROUNDING
        return INSIDE_JAX if mutant.family == "library" and not changed[number] else ""

    survivors = np.flatnonzero(~dead).tolist()
    with jax.enable_x64(True):
        seen = mutants.at_equations(survivors, points)
    return len(mutants), tuple(
        Survivor(comparison.subject, str(mutants[number]), reason(number)) for number in survivors
    )


def _reason_at_equation(at_points: Sequence[AtEquation], *, is_hidden: bool) -> str:
    """Why a mutant that no comparison found is not an error, if its own equation shows that; otherwise an empty text.

    Args:
        at_points: what the mutant does to its equation, at all points that were tried; empty if this is not known.
        is_hidden: whether the mutant is an error in a selection, and changes no result of the formula.
    """
    if not at_points:
        return ""
    if all(one.same_operands for one in at_points):
        return SAME_OPERANDS
    changes = any(one.changes for one in at_points)
    if not changes and all(one.operands == at_points[0].operands for one in at_points):
        return OF_CONSTANTS
    return HIDDEN if is_hidden and changes else ""


def _changes_only_rounding(mutants: Mutants, number: int, points: Sequence[tuple[PyTree, Leaves]]) -> bool:
    """Whether a mutant and the formula agree in exact arithmetic. For example, softmax is the same with another shift.

    Both are evaluated with 50 digits at all points. The last digits have to differ at some point. If all digits are
    equal everywhere, nothing is shown: the error may be in a branch that no point takes.
    """
    arithmetic = Arithmetic(DIGITS)
    differs = False
    for arguments in points:
        inputs = differentiable_leaves(arguments)

        # The inputs are a default value, because a function in a loop would read the variable's last value.
        def results(active: int, inputs: DifferentiableLeaves = inputs) -> np.ndarray:
            def bars(leaves: Leaves) -> Leaves:
                return jax.tree.leaves(mutants.alone(active, *inputs.join(leaves)))

            program = Program(bars, inputs.leaves)
            return program(arithmetic, [arithmetic.numbers(leaf)[..., None] for leaf in inputs.leaves])

        try:
            with jax.enable_x64(True), arithmetic.precision(), np.errstate(all="ignore"):
                right, found = results(NO_MUTANT), results(number)
                difference, size = np.max(np.abs(found - right), initial=0), np.max(np.abs(right), initial=0)
        except InputError:  # an operation has no rule
            return False
        if not difference <= size * 10.0**-AGREEING_DIGITS:
            return False
        differs |= bool(difference > 0)
    return differs


def _as_arrays(leaves: Leaves) -> list[jax.Array]:
    return [jnp.asarray(leaf) for leaf in leaves]


def _points(leaves: Leaves, y_bars: Leaves) -> Iterator[tuple[Leaves, Leaves]]:
    """Yields the points at which mutants are tried, with cotangents. The problem's own point comes first."""
    yield leaves, y_bars
    random = np.random.default_rng(1)

    def normal(leaf: Array) -> np.ndarray:
        return random.normal(size=np.shape(leaf))

    def spread(leaf: Array) -> np.ndarray:
        return random.permutation(np.linspace(-8, 8, np.size(leaf))).reshape(np.shape(leaf))

    # If a point has few numbers, more points are needed to reach every branch.
    numbers = sum(np.size(leaf) for leaf in leaves)
    for width in WIDTHS * min(MOST_REPETITIONS, -(-ENOUGH_NUMBERS // max(numbers, 1))):
        yield [width * normal(leaf) for leaf in leaves], [normal(bar) for bar in y_bars]
    yield [spread(leaf) for leaf in leaves], [normal(bar) for bar in y_bars]
    yield [np.round(normal(leaf)) for leaf in leaves], [normal(bar) for bar in y_bars]
