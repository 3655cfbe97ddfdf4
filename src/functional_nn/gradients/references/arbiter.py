"""The third opinion: derivatives in 50 digits where that can be had in reasonable time, else from differences."""

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
"""How many numbers of 50 and 80 digits are computed for one problem: some seconds."""
MOST_COLUMNS = 200
"""How many elements of a leaf are arbitrated."""


STEP = 2.0**-60
"""Of the inner difference of a second derivative; too small for anything but many digits."""


class Opinion(NamedTuple):
    """A third opinion on chosen elements of each leaf.

    Args:
        name: of the reference.
        columns: the flat elements of each leaf that it was asked for.
        values: the derivatives by them, (outputs, columns).
        error: their estimated absolute error; infinite at a kink.
    """

    name: str
    columns: list[np.ndarray]
    values: list[np.ndarray]
    error: list[np.ndarray]


def arbitrate(function: Function, leaves: Leaves, doubts: list[np.ndarray], *, exact: bool = True) -> Opinion:
    """Differentiates a function of float64 leaves by a way that shares no derivative rule with JAX.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        doubts: for each leaf how far the other parties disagree on each element. Of a large leaf the elements of
            greatest doubt are asked for, and others spread evenly over it.
        exact: whether 50 digits are tried; otherwise, and where an operation has no rule for them, differences.
    """
    if exact:
        try:
            return _exactly(function, leaves, doubts)
        except InputError:
            pass
    columns = [_chosen(doubt, MOST_COLUMNS) for doubt in doubts]
    return Opinion("differences", columns, *difference_jacobian(function, leaves, columns=columns))


def arbitrate_along(
    problem: Problem, y_bars: Leaves, u: Leaves, doubts: list[np.ndarray], *, exact: bool = True
) -> Opinion:
    """The derivative along u of the pulled-back cotangent, ∂²⟨ȳ, f(x + t u)⟩ / ∂x ∂t, as one row for each leaf.

    In 50 digits it is a mixed difference of the function alone, with a step in t of 2⁻⁶⁰. Where an operation has no
    rule, it is a difference of the formula in float64.
    """
    if exact:
        try:
            opinion = _exactly(partial(_rise, problem.function, y_bars, u), problem.leaves, doubts, digits=80)
            values, error = ([part / (2 * STEP) for part in parts] for parts in (opinion.values, opinion.error))
            return opinion._replace(values=values, error=error)
        except InputError:
            pass

    def pulled(t: Leaves) -> Leaves:
        at = [leaf + t[0] * step for leaf, step in zip(problem.leaves, u, strict=True)]
        return problem.pullback(at, list(map(jnp.asarray, y_bars)))

    value, error = difference_jacobian(pulled, [np.zeros(())])
    ends = np.cumsum([doubt.size for doubt in doubts])[:-1]
    rows = ([part.T for part in np.split(column[0], ends)] for column in (value, error))
    return Opinion("differences of the formula", [np.arange(doubt.size) for doubt in doubts], *rows)


def _rise(function: Function, y_bars: Leaves, u: Leaves, leaves: Leaves) -> Leaves:
    """⟨ȳ, f(x + h u) - f(x - h u)⟩ with h = ``STEP``."""
    ends = [function([leaf + sign * STEP * step for leaf, step in zip(leaves, u, strict=True)]) for sign in (1.0, -1.0)]
    return [sum(jnp.sum(bar * (a - b)) for bar, a, b in zip(y_bars, *ends, strict=True))]


def _exactly(function: Function, leaves: Leaves, doubts: list[np.ndarray], *, digits: int = 50) -> Opinion:
    cost = 4 * Program(function, leaves).numbers
    columns = [_chosen(doubt, max(1, MOST_EXACT_NUMBERS // cost // len(leaves))) for doubt in doubts]
    return Opinion(f"{digits} digits", columns, *exact_jacobian(function, leaves, digits=digits, columns=columns))


def _chosen(doubt: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` elements: half of them those of greatest doubt, the others spread evenly."""
    count = min(count, MOST_COLUMNS)
    if doubt.size <= count:
        return np.arange(doubt.size)
    worst = np.argsort(-np.nan_to_num(doubt, nan=np.inf), kind="stable")[: -(-count // 2)]
    spread = np.linspace(0, doubt.size - 1, count - len(worst)).astype(int)
    return np.unique(np.concatenate([worst, spread]))
