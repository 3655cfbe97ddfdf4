"""The arbiter's derivatives: in 50 digits if that takes a reasonable time, else from differences in float64."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare.narrow_types import is_simple_fraction
from functional_nn.gradients.compare.problem import Array, Function, Leaves, Problem
from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.references.numerical import difference_jacobian, exact_jacobian
from functional_nn.jaxprs.evaluate import evaluate

MOST_EXACT_NUMBERS = 1_000_000
"""The largest count of numbers with 50 and 80 digits for one problem. They take some seconds to compute."""
MOST_COLUMNS = 200
"""The largest number of elements of a leaf that the arbiter computes."""
STEP = 2.0**-100
"""The step of the inner difference in a second derivative, in units of the smallest element of the point, or of 1 if
that is smaller."""
SMALLEST_STEP = 2.0**-1000
SECOND_ORDER_DIGITS = 110
"""The digits of the first evaluation of a second derivative. The inner difference loses 30 of them."""
USUAL_RANGE = 10
"""If the largest element is more powers of ten larger than the smallest one, a second derivative takes more digits."""
SMALLER = 2.0**10
"""A second derivative of at most this many times the step is computed again, with a step this many times smaller."""
NEAR = (2.0**-50, 2.0**-70)
"""The distances at which second derivatives to both sides are compared, in the unit of ``STEP``."""
VISIBLE_JUMP = 1e-13
"""The smallest relative difference of two second derivatives that counts: they are rounded to float64."""

CHANGE = 2.0**-30
"""The relative change of all numbers with which the sensitivity is measured. It is small, but far above rounding."""


class ReferenceJacobian(NamedTuple):
    """Independent derivatives with respect to chosen elements of each leaf.

    Args:
        name: the method that computed them.
        columns: the indices of the chosen elements in each flat leaf.
        values: the derivatives, (outputs, columns).
        error: the estimated absolute errors of the derivatives; infinite at a kink, or if nothing is known.
        kink: which derivatives are at a kink.
    """

    name: str
    columns: list[np.ndarray]
    values: list[np.ndarray]
    error: list[np.ndarray]
    kink: list[np.ndarray]


def reference_jacobian(function: Function, leaves: Leaves, doubts: list[np.ndarray]) -> ReferenceJacobian:
    """Differentiates a function of float64 leaves without any derivative rule of JAX.

    The derivatives are computed in 50 digits. If an operation has no rule for that, differences in float64 are taken.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        doubts: for each element of each leaf, how far the formula and automatic differentiation disagree. In a large
            leaf, only the elements with the greatest disagreement are computed, and others at regular distances.
    """
    try:
        return _in_many_digits(function, leaves, doubts)
    except InputError:  # an operation has no rule
        columns = [_chosen(doubt, MOST_COLUMNS) for doubt in doubts]
        return ReferenceJacobian("differences", columns, *difference_jacobian(function, leaves, columns=columns))


def reference_second_order(
    problem: Problem, y_bars: Leaves, directions: Leaves, doubts: list[np.ndarray]
) -> ReferenceJacobian:
    """Differentiates the pulled-back cotangent along u: ∂²⟨ȳ, f(x + t u)⟩ / ∂x ∂t. The result has one row per leaf.

    This is a mixed difference of the function in 110 digits or more, with a step in t of 2⁻¹⁰⁰. If an operation has no
    rule, it is a difference of the formula in float64.

    Args:
        problem: the function, its pullback and the point x.
        y_bars: the cotangent ȳ.
        directions: the direction u.
        doubts: see ``reference_jacobian``.
    """
    try:
        step = _step(problem.leaves)
        slope = partial(_slope_along, problem.function, y_bars, directions)
        # Steps relative to the smallest element get lost beside the largest one, unless there are more digits.
        digits = SECOND_ORDER_DIGITS + max(0, _range(problem.leaves) - USUAL_RANGE)
        found = _in_many_digits(partial(slope, step), problem.leaves, doubts, digits=digits)
        found = _with_smaller_step(found, partial(slope, step / SMALLER), problem.leaves, SMALLER * step, digits)
        if _is_kinked(problem, y_bars, directions, step, digits):
            return found._replace(
                error=[np.full_like(error, np.inf) for error in found.error],
                kink=[np.ones_like(kink) for kink in found.kink],
            )
        return found
    except InputError:  # an operation has no rule
        return _difference_of_pullback(problem, y_bars, directions, doubts)


def _with_smaller_step(
    found: ReferenceJacobian, slope: Function, leaves: Leaves, limit: float, digits: int
) -> ReferenceJacobian:
    """Computes the derivatives up to a limit again, with a smaller step. Their error is at least the change.

    The second derivative of x⁴ at 0 is 0, but the mixed difference is 4 h². So a number of this size may be nothing but
    the effect of the step h.
    """
    tiny = [(np.abs(values) <= limit) & (values != 0) for values in found.values]
    if not any(map(np.any, tiny)):
        return found
    columns = [chosen[is_tiny.any(0)] for chosen, is_tiny in zip(found.columns, tiny, strict=True)]
    better = exact_jacobian(slope, leaves, digits=digits, columns=columns)
    values, errors = ([array.copy() for array in arrays] for arrays in (found.values, found.error))
    for number, is_tiny in enumerate(tiny):
        at, again = is_tiny.any(0), better.values[number]
        change = np.abs(values[number][:, at] - again)
        values[number][:, at], errors[number][:, at] = again, np.maximum(change, better.error[number])
    return found._replace(values=values, error=errors)


def _is_kinked(problem: Problem, y_bars: Leaves, directions: Leaves, step: float, digits: int) -> bool:
    """Whether a term of ⟨ȳ, f(x + t u)⟩, or the slope of one, has a kink at t = 0. Then it has no second derivative.

    If the slope has a kink, the second derivatives to the right and to the left differ, however near to 0. In a smooth
    function their difference shrinks with t.

    The differences use steps in t relative to 1. So t is multiplied by a number of the size of the smallest element.
    """

    def terms(t: Array) -> jax.Array:
        moved = [leaf + t * (step / STEP) * u for leaf, u in zip(problem.leaves, directions, strict=True)]
        outputs = problem.function(moved)
        return jnp.concatenate([jnp.reshape(bar * y, -1) for bar, y in zip(y_bars, outputs, strict=True)])

    def slopes(t: Leaves) -> Leaves:
        return [(terms(t[0] + STEP) - terms(t[0] - STEP)) * (0.5 / STEP)]

    if exact_jacobian(lambda t: [terms(t[0])], [np.zeros(())]).kink[0].any():
        return True
    jumps, sizes = [], []
    for t in NEAR:
        right, left = (exact_jacobian(slopes, [np.asarray(sign * t)], digits=digits) for sign in (1, -1))
        jump = np.abs(right.values[0] - left.values[0])
        jumps.append(np.where(jump > right.error[0] + left.error[0], jump, 0))
        sizes.append(np.maximum(np.abs(right.values[0]), np.abs(left.values[0])))
    # In a smooth function, the second jump is 2²⁰ times smaller than the first, because it is that much nearer to 0.
    return bool(np.any((jumps[1] > jumps[0] / 8) & (jumps[1] > VISIBLE_JUMP * sizes[1])))


def _difference_of_pullback(
    problem: Problem, y_bars: Leaves, directions: Leaves, doubts: list[np.ndarray]
) -> ReferenceJacobian:
    """Computes the same derivative as a difference of the formula in float64, with respect to t at t = 0."""

    def pulled_back(t: Leaves) -> Leaves:
        at = [leaf + t[0] * direction for leaf, direction in zip(problem.leaves, directions, strict=True)]
        return problem.pullback(at, list(map(jnp.asarray, y_bars)))

    found = difference_jacobian(pulled_back, [np.zeros(())])
    # The Jacobian has one column, t. Its rows are the elements of all leaves; each leaf gets its part as one row.
    ends = np.cumsum([doubt.size for doubt in doubts])[:-1]
    rows = ([part.T for part in np.split(column[0], ends)] for column in found)
    columns = [np.arange(doubt.size) for doubt in doubts]
    return ReferenceJacobian("differences of the formula", columns, *rows)


def _sizes(leaves: Leaves) -> tuple[float, float]:
    """The smallest absolute value of an element that is not 0, but at most 1; and the largest one, but at least 1."""
    elements = np.concatenate([np.abs(np.asarray(leaf, np.float64)).reshape(-1) for leaf in leaves])
    smallest = np.min(elements, where=elements > 0, initial=1.0)
    return float(smallest), float(np.max(elements, initial=1.0))


def _range(leaves: Leaves) -> int:
    """How many powers of ten lie between the smallest and the largest element."""
    smallest, largest = np.log10(_sizes(leaves))
    return int(np.ceil(largest - smallest))


def _step(leaves: Leaves) -> float:
    """The step in t: a power of 2, so small that no element of the point changes by more than a tiny share."""
    smallest, _ = _sizes(leaves)
    return max(STEP * 2.0 ** np.floor(np.log2(smallest)), SMALLEST_STEP)


def _slope_along(function: Function, y_bars: Leaves, directions: Leaves, step: float, leaves: Leaves) -> Leaves:
    """⟨ȳ, f(x + h u) - f(x - h u)⟩ / 2h with the step h."""
    ahead, behind = (
        function([leaf + sign * step * direction for leaf, direction in zip(leaves, directions, strict=True)])
        for sign in (1.0, -1.0)
    )
    products = [jnp.sum(bar * (a - b)) for bar, a, b in zip(y_bars, ahead, behind, strict=True)]
    return [sum(products, jnp.zeros(())) * (0.5 / step)]


def sensitivity(function: Function, leaves: Leaves, number: int, columns: np.ndarray) -> np.ndarray:
    """How far the derivatives by some elements of a leaf change, per unit of relative change in all numbers.

    All elements of the leaves and all arrays of numbers inside the function are multiplied by 1 ± 2⁻³⁰, twice, with
    random signs. Simple fractions in these arrays stay, since they were not rounded. This returns the largest change of
    each derivative, divided by 2⁻³⁰: the condition number of the derivative, times the derivative. It is infinite if an
    operation has no rule.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        number: the index of the leaf.
        columns: the flat indices of the elements in the leaf.
    """
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    constants = [np.asarray(value) if _is_floating_array(value) else value for value in program.consts]
    moved_constants = [place for place, value in enumerate(constants) if _is_floating_array(value)]

    # The arrays that the function closes over become arguments after the leaves, so that they can be changed too.
    def with_constants(arrays: Leaves) -> Leaves:
        values = list(constants)
        for place, value in zip(moved_constants, arrays[len(leaves) :], strict=True):
            values[place] = value
        return evaluate(ClosedJaxpr(program.jaxpr, values), arrays[: len(leaves)])

    arrays = [*(np.asarray(leaf) for leaf in leaves), *(constants[place] for place in moved_constants)]
    chosen = [columns if place == number else np.zeros(0, int) for place in range(len(arrays))]
    stays = [np.zeros(np.shape(leaf), bool) for leaf in leaves]
    stays += [is_simple_fraction(constants[place]) for place in moved_constants]
    random = np.random.default_rng(0)

    def derivatives(factor: float) -> np.ndarray:
        moved = [
            np.where(is_exact, array, array * (1 + factor * random.choice([-1.0, 1.0], np.shape(array))))
            for array, is_exact in zip(arrays, stays, strict=True)
        ]
        return exact_jacobian(with_constants, moved, columns=chosen).values[number]

    try:
        at_point = derivatives(0.0)
        changes = [np.abs(derivatives(CHANGE) - at_point) / CHANGE for _ in range(2)]
    except InputError:  # an operation has no rule
        return np.full((Program(function, leaves).outputs, len(columns)), np.inf)
    return np.maximum(*changes)


def _is_floating_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray) and jnp.issubdtype(value.dtype, jnp.floating)


def _in_many_digits(
    function: Function, leaves: Leaves, doubts: list[np.ndarray], *, digits: int = 50
) -> ReferenceJacobian:
    # A central difference evaluates the function at two points, each in two precisions.
    cost = 4 * Program(function, leaves).numbers
    count = max(1, MOST_EXACT_NUMBERS // cost // len(leaves))
    columns = [_chosen(doubt, count) for doubt in doubts]
    found = exact_jacobian(function, leaves, digits=digits, columns=columns)
    return ReferenceJacobian(f"{digits} digits", columns, *found)


def _chosen(doubt: np.ndarray, count: int) -> np.ndarray:
    """Chooses at most ``count`` elements: half have the greatest doubt, the others are at regular distances."""
    count = min(count, MOST_COLUMNS)
    if doubt.size <= count:
        return np.arange(doubt.size)
    worst = np.argsort(-np.nan_to_num(doubt, nan=np.inf), kind="stable")[: -(-count // 2)]
    spread = np.linspace(0, doubt.size - 1, count - len(worst)).astype(int)
    return np.unique(np.concatenate([worst, spread]))
