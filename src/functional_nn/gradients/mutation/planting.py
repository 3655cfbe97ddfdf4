"""Errors planted in a formula, to test the comparison itself: it has to find every error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.cases.equivalent import reason_for
from functional_nn.gradients.compare.jacobian_comparison import JacobianComparison
from functional_nn.gradients.compare.problem import Array, Leaves
from functional_nn.gradients.compare.report import Survivor
from functional_nn.gradients.mutation.mutants import mutate
from functional_nn.jaxprs.xla_options import quick_jit

MOST_MUTANTS = 100
"""The largest number of planted errors in the equations of a formula. All errors in its results are tried too."""
WIDTHS = (0.3, 1.0, 4.0)
"""Standard deviations of random points. Mutants that survive at the problem's own point are tried there."""
UNCHANGED = "It changes nothing at any point: this derivative is 0, or the same along the axis."


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
    for leaves, y_bars in _points(problem.leaves, comparison.y_bars):
        with jax.enable_x64(True):
            given = residuals(leaves), _as_arrays(y_bars)
        dead_here, changed_here = comparison.killed(mutants, given, leaves)
        dead |= dead_here
        changed |= changed_here
        if dead.all():
            break

    def survivor(number: int) -> Survivor:
        mutant = mutants[number]
        if mutant.family == "bar" and not changed[number]:
            return Survivor(comparison.subject, str(mutant), UNCHANGED)
        reason = (equivalent or {}).get(mutant.description) or reason_for(comparison.subject, str(mutant))
        return Survivor(comparison.subject, str(mutant), reason)

    return len(mutants), tuple(survivor(number) for number in np.flatnonzero(~dead).tolist())


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

    for width in WIDTHS:
        yield [width * normal(leaf) for leaf in leaves], [normal(bar) for bar in y_bars]
    yield [spread(leaf) for leaf in leaves], [normal(bar) for bar in y_bars]
    yield [np.round(normal(leaf)) for leaf in leaves], [normal(bar) for bar in y_bars]
