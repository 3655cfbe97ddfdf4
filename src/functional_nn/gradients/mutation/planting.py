"""Errors planted in a formula: the comparison that accepts the formula has to find each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.cases.equivalent import reason_for
from functional_nn.gradients.compare.comparison import Comparison
from functional_nn.gradients.compare.problem import Leaves
from functional_nn.gradients.compare.report import Survivor
from functional_nn.gradients.mutation.mutants import mutate
from functional_nn.jaxprs.xla_options import quick_jit

MOST_MUTANTS = 100
"""Mutants of the inner steps of a formula; those of what it gives come on top."""
WIDTHS = (0.3, 1.0, 4.0)
"""Of the normal numbers at which mutants are tried that the formula's own point did not kill."""
UNCHANGED = "It changes nothing at any point: this derivative is 0, or the same along the axis."


def plant(
    comparison: Comparison, *, limit: int = MOST_MUTANTS, equivalent: Mapping[str, str] | None = None
) -> tuple[int, tuple[Survivor, ...]]:
    """Plants errors in a problem's pullback, or in its backward half: how many, and which were not found.

    Where the problem's own point does not tell a mutant from the formula, other points are tried: narrow and wide
    ones, evenly spread ones, and whole numbers, which tie and meet kinks. ``equivalent`` gives reasons for mutants, by
    what is wrong with them.
    """
    problem = comparison.problem
    with jax.enable_x64(True):
        residuals = quick_jit(problem.residuals) if problem.residuals else lambda leaves: list(map(jnp.asarray, leaves))
        first = residuals(problem.leaves), list(map(jnp.asarray, comparison.y_bars))
        mutants = mutate(problem.backward or problem.pullback, *first, limit=limit)
    if not len(mutants):
        return 0, ()
    dead, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
    for leaves, y_bars in _points(problem.leaves, comparison.y_bars):
        with jax.enable_x64(True):
            given = residuals(leaves), list(map(jnp.asarray, y_bars))
        for known, found in zip((dead, changed), comparison.killed(mutants, given, leaves), strict=True):
            known |= found
        if dead.all():
            break

    def survivor(number: int) -> Survivor:
        mutant = mutants[number]
        if mutant.family == "bar" and not changed[number]:
            return Survivor(comparison.subject, str(mutant), UNCHANGED)
        reason = (equivalent or {}).get(mutant.description) or reason_for(comparison.subject, str(mutant))
        return Survivor(comparison.subject, str(mutant), reason)

    return len(mutants), tuple(survivor(number) for number in np.flatnonzero(~dead).tolist())


def _points(leaves: Leaves, y_bars: Leaves) -> Iterator[tuple[Leaves, Leaves]]:
    yield leaves, y_bars
    random = np.random.default_rng(1)
    draw = lambda leaf: random.normal(size=np.shape(leaf))  # noqa: E731
    cotangents = lambda: [draw(bar) for bar in y_bars]  # noqa: E731
    for width in WIDTHS:
        yield [width * draw(leaf) for leaf in leaves], cotangents()
    yield (
        [random.permutation(np.linspace(-8, 8, np.size(leaf))).reshape(np.shape(leaf)) for leaf in leaves],
        cotangents(),
    )
    yield [np.round(draw(leaf)) for leaf in leaves], cotangents()
