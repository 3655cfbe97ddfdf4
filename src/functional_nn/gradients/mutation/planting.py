"""Errors planted in a formula, to test the comparison that accepts it: it has to find each of them."""

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
"""The most mutants of the equations of a formula. All mutants of its results are tried as well."""
WIDTHS = (0.3, 1.0, 4.0)
"""Standard deviations of the random points at which a mutant is tried that survived at the problem's own point."""
UNCHANGED = "It changes nothing at any point: this derivative is 0, or the same along the axis."


def plant(
    comparison: JacobianComparison, *, limit: int = MOST_MUTANTS, equivalent: Mapping[str, str] | None = None
) -> tuple[int, tuple[Survivor, ...]]:
    """Plants errors in a problem's pullback, or in its backward half; returns how many, and which were not found.

    If a mutant cannot be told from the formula at the problem's own point, other points are tried: narrow and wide
    ones, evenly spread ones, and whole numbers, which are often equal and lie on kinks.

    Args:
        comparison: of the problem.
        limit: the most mutants of the formula's equations.
        equivalent: reasons why mutants are no errors, by their description.
    """
    problem = comparison.problem
    with jax.enable_x64(True):
        # A problem without a forward half has its own leaves for residuals.
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
    """The points at which mutants are tried, each with cotangents; the problem's own point is the first."""
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
