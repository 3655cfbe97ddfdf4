"""The arbiter's derivatives: in 50 digits if that takes a reasonable time, else from differences in float64."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare.problem import Function, Leaves, Problem
from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.references.numerical import difference_jacobian, exact_jacobian

MOST_EXACT_NUMBERS = 1_000_000
"""Numbers of 50 and 80 digits that are computed for one problem: this takes some seconds."""
MOST_COLUMNS = 200
"""Elements of a leaf that the arbiter computes."""
STEP = 2.0**-60
"""The step of the inner difference of a second derivative. Only many digits can resolve it."""


class ReferenceJacobian(NamedTuple):
    """Independent derivatives by chosen elements of each leaf.

    Args:
        name: how they were computed.
        columns: the chosen elements of each flat leaf.
        values: the derivatives by them, (outputs, columns).
        error: their estimated absolute errors; infinite at a kink.
    """

    name: str
    columns: list[np.ndarray]
    values: list[np.ndarray]
    error: list[np.ndarray]


def reference_jacobian(function: Function, leaves: Leaves, doubts: list[np.ndarray]) -> ReferenceJacobian:
    """Differentiates a function of float64 leaves in a way that shares no derivative rule with JAX.

    The derivatives are computed in 50 digits, or if an operation has no rule for them, from differences in float64.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        doubts: for each leaf how far the formula and automatic differentiation disagree, element by element. In a
            large leaf the elements with the greatest doubt are computed, and others spread evenly over it.
    """
    try:
        return _in_many_digits(function, leaves, doubts)
    except InputError:  # an operation has no rule
        columns = [_chosen(doubt, MOST_COLUMNS) for doubt in doubts]
        return ReferenceJacobian("differences", columns, *difference_jacobian(function, leaves, columns=columns))


def reference_second_order(
    problem: Problem, y_bars: Leaves, directions: Leaves, doubts: list[np.ndarray]
) -> ReferenceJacobian:
    """Differentiates the pulled-back cotangent along u: ∂²⟨ȳ, f(x + t u)⟩ / ∂x ∂t, as one row for each leaf.

    In 80 digits this is a mixed difference of the function alone, with a step in t of 2⁻⁶⁰. If an operation has no
    rule, it is a difference of the formula in float64.

    Args:
        problem: the function, its pullback and the point x.
        y_bars: the cotangent ȳ.
        directions: the direction u.
        doubts: see ``reference_jacobian``.
    """
    try:
        change = partial(_change_along, problem.function, y_bars, directions)
        found = _in_many_digits(change, problem.leaves, doubts, digits=80)
    except InputError:  # an operation has no rule
        return _difference_of_pullback(problem, y_bars, directions, doubts)
    values, error = ([part / (2 * STEP) for part in parts] for parts in (found.values, found.error))
    return found._replace(values=values, error=error)


def _difference_of_pullback(
    problem: Problem, y_bars: Leaves, directions: Leaves, doubts: list[np.ndarray]
) -> ReferenceJacobian:
    """The same as a difference of the formula in float64, with respect to t at t = 0."""

    def pulled_back(t: Leaves) -> Leaves:
        at = [leaf + t[0] * direction for leaf, direction in zip(problem.leaves, directions, strict=True)]
        return problem.pullback(at, list(map(jnp.asarray, y_bars)))

    value, error = difference_jacobian(pulled_back, [np.zeros(())])
    ends = np.cumsum([doubt.size for doubt in doubts])[:-1]
    rows = ([part.T for part in np.split(column[0], ends)] for column in (value, error))
    columns = [np.arange(doubt.size) for doubt in doubts]
    return ReferenceJacobian("differences of the formula", columns, *rows)


def _change_along(function: Function, y_bars: Leaves, directions: Leaves, leaves: Leaves) -> Leaves:
    """⟨ȳ, f(x + h u) - f(x - h u)⟩ with h = ``STEP``."""
    ahead, behind = (
        function([leaf + sign * STEP * direction for leaf, direction in zip(leaves, directions, strict=True)])
        for sign in (1.0, -1.0)
    )
    products = [jnp.sum(bar * (a - b)) for bar, a, b in zip(y_bars, ahead, behind, strict=True)]
    return [sum(products, jnp.zeros(()))]


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
    """At most ``count`` elements: half of them those with the greatest doubt, the others spread evenly."""
    count = min(count, MOST_COLUMNS)
    if doubt.size <= count:
        return np.arange(doubt.size)
    worst = np.argsort(-np.nan_to_num(doubt, nan=np.inf), kind="stable")[: -(-count // 2)]
    spread = np.linspace(0, doubt.size - 1, count - len(worst)).astype(int)
    return np.unique(np.concatenate([worst, spread]))
