"""Errors planted in a formula, to test the comparison itself: it has to find every error that changes its values."""

from __future__ import annotations

from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.compare.comparison import JacobianComparison
from functional_nn.gradients.compare.problem import Leaves
from functional_nn.gradients.compare.report import Survivor
from functional_nn.gradients.mutation.mutants import mutate
from functional_nn.jaxprs.walk import in_words
from functional_nn.jaxprs.xla_options import quick_jit

MOST_MUTANTS = 100
"""The largest number of planted errors in the equations of a formula. All errors in its results are tried too."""


def plant(comparison: JacobianComparison, *, limit: int = MOST_MUTANTS) -> tuple[int, tuple[Survivor, ...]]:
    """Plants errors in the problem's backward pass, or in its pullback if it has none.

    If the comparison does not find a mutant at the problem's own point, it tries the further points.

    An error inside a function of JAX that changes no value is not counted. It is in a guard, such as the rule for
    infinity in ``jax.nn.softplus``, which the author of the formula did not write.

    Args:
        comparison: the comparison of the problem.
        limit: the largest number of planted errors in the formula's equations.

    Returns:
        The number of planted errors, and those that were not found.
    """
    problem = comparison.problem
    with jax.enable_x64(True):
        # For a problem without a separate forward pass, the leaves take the place of the residuals.
        residuals = quick_jit(problem.residuals) if problem.residuals else _as_arrays
        first = residuals(problem.leaves), _as_arrays(comparison.y_bars)
        mutants = mutate(problem.backward or problem.pullback, *first, limit=limit)
    found, changed = np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)
    further = ((point.leaves, point.y_bars) for point in comparison.further_points)
    for leaves, y_bars in chain([(problem.leaves, comparison.y_bars)], further):
        if found.all():
            break
        with jax.enable_x64(True):
            given = residuals(leaves), _as_arrays(y_bars)
        found_here, changed_here = comparison.found(mutants, given, leaves)
        found |= found_here
        changed |= changed_here
    matters = found | changed
    counted = [mutant for mutant in mutants if matters[mutant.number] or mutant.family != "library"]
    survivors = []
    for mutant in counted:
        if not found[mutant.number]:
            operation, _, error = mutant.description.rpartition(": ")
            place = f"{mutant.place}: {in_words(operation)}"
            if mutant.family == "bar":
                place = f"the cotangent of {problem.names[int(mutant.place)]}"
            words = f"{place}: {error}"
            survivors.append(Survivor(comparison.subject, words, mutant.code, bool(changed[mutant.number])))
    return len(counted), tuple(survivors)


def _as_arrays(leaves: Leaves) -> list[jax.Array]:
    return [jnp.asarray(leaf) for leaf in leaves]
