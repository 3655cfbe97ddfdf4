"""Further points at which a formula is judged: small, large, equal and sorted numbers, and both sides of branches."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from functional_nn.gradients.compare.problem import Array, Leaves, Problem
from functional_nn.jaxprs.walk import equations

ENOUGH_NUMBERS, MOST_REPETITIONS = 24, 8
"""Normal numbers are drawn again until there are this many of them, at most eight times."""
WIDTHS = (0.3, 1.0, 4.0)
"""The standard deviations of the normal numbers."""
DECIMALS = 3
"""Drawn numbers are rounded, so that a report shows all their digits."""
COMPARING = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "max", "min", "clamp", "add", "sub"))
"""Operations with a constant c at which a function may change its branch, as in x < c, or in x - c < 0."""
MOST_CONSTANTS = 12


def further_points(problem: Problem, y_bars: Leaves) -> Iterator[tuple[Leaves, Leaves]]:
    """Yields further points of a problem, each with a drawn cotangent of the outputs.

    There are normal numbers of three sizes, some with a 0 in every other array, evenly spaced numbers in a random order
    and sorted, whole numbers (which are often equal, or at kinks), positive numbers, zeros, equal numbers, numbers at
    each constant that the function or the formula compares with and on both sides of it, and numbers near those of the
    problem's own point, also sorted.

    Args:
        problem: the problem. Its ``domain`` moves each point to where the formula has to hold.
        y_bars: cotangents, for their shapes.
    """
    random = np.random.default_rng(1)

    def normal(leaf: Array) -> np.ndarray:
        return random.normal(size=np.shape(leaf))

    def spread(leaf: Array) -> np.ndarray:
        return np.linspace(-8, 8.1, np.size(leaf)).reshape(np.shape(leaf))

    leaves = [np.asarray(leaf, np.float64) for leaf in problem.leaves]
    # If a point has few numbers, more points are needed to reach every branch.
    repetitions = min(MOST_REPETITIONS, -(-ENOUGH_NUMBERS // max(sum(leaf.size for leaf in leaves), 1)))
    points: list[list[np.ndarray]] = [[width * normal(leaf) for leaf in leaves] for width in WIDTHS * repetitions]
    points.append([random.permutation(spread(leaf).reshape(-1)).reshape(leaf.shape) for leaf in leaves])
    points += [[sign * spread(leaf) for leaf in leaves] for sign in (1, -1)]
    points.append([np.round(normal(leaf)) for leaf in leaves])
    points.append([np.abs(normal(leaf)) for leaf in leaves])
    points.append([np.zeros(leaf.shape) for leaf in leaves])
    points.append([np.full(leaf.shape, random.normal()) for leaf in leaves])
    for start in (0, 1):
        points.append([normal(leaf) for leaf in leaves])
        for number, leaf in enumerate(points[-1][start::2]):
            leaf.reshape(-1)[number % max(leaf.size, 1) :][:1] = 0
    points = [[np.round(leaf, DECIMALS) for leaf in point] for point in points]
    points += _at_constants(problem, y_bars, leaves, random)
    points.append([leaf * (1 + 0.1 * normal(leaf)) for leaf in leaves])
    points.append([np.sort(leaf, axis=None).reshape(leaf.shape) for leaf in leaves])
    for point in points:
        yield problem.domain(point) if problem.domain else point, [normal(bar).astype(bar.dtype) for bar in y_bars]


def _at_constants(
    problem: Problem, y_bars: Leaves, leaves: Leaves, random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Yields points with numbers at each constant and its negative, and a little below and above."""
    programs = jax.make_jaxpr(problem.function)(leaves), jax.make_jaxpr(problem.pullback)(leaves, list(y_bars))
    constants = list(dict.fromkeys(constant for program in programs for constant in branch_constants(program)))
    numbers = random.permutation(np.outer(constants, np.outer([-1, 1], [7 / 8, 1, 9 / 8])).reshape(-1))
    smallest = min((leaf.size for leaf in leaves if leaf.size), default=1)
    # In one point after the other, each leaf takes the next numbers, until the smallest leaf has had all of them.
    for start in range(0, len(numbers), smallest):
        point = [np.resize(np.roll(numbers, -start), leaf.shape) for leaf in leaves]
        # The others are moved a little, so that they differ.
        factors = [np.round(random.uniform(0.95, 1.05, leaf.shape), DECIMALS) for leaf in leaves]
        pairs = zip(point, factors, strict=True)
        yield [np.where(np.isin(np.abs(leaf), constants), leaf, leaf * factor) for leaf, factor in pairs]


def branch_constants(program: ClosedJaxpr) -> list[float]:
    """The sizes of constants in a program at which it may change its branch, at most ``MOST_CONSTANTS``."""
    found: dict[float, None] = {}
    for located in equations(program):
        if located.equation.primitive.name in COMPARING:
            for operand in located.equation.invars:
                if isinstance(operand, Literal) and np.ndim(operand.val) == 0 and 1e-8 < abs(operand.val) < 1e8:
                    found[float(abs(operand.val))] = None  # of a complex number, its absolute value
    return list(found)[:MOST_CONSTANTS]
