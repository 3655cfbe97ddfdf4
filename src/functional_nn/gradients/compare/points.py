"""Further points at which a formula is judged: other numbers, both sides of branches, and other lengths of axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.gradients.compare.problem import Array, Leaves, Problem
from functional_nn.jaxprs.walk import all_equations, inner_programs

ENOUGH_NUMBERS, MOST_REPETITIONS = 24, 8
"""Normal numbers are drawn again until there are this many of them, at most eight times."""
WIDTHS = (0.3, 1.0, 4.0)
"""The standard deviations of the normal numbers."""
EXTREMES = (1e-4, 3e3)
"""The factors of very small and very large numbers. The exponential function overflows for the latter."""
DECIMALS = 3
"""Drawn numbers are rounded, so that a report shows all their digits."""
COMPARING = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "max", "min", "clamp", "add", "sub"))
"""Operations with a constant c at which a function may change its branch, as in x < c, or in x - c < 0."""
MOST_CONSTANTS = 12


def further_points(problem: Problem, y_bars: Leaves, constants: Sequence[float]) -> Iterator[tuple[Leaves, Leaves]]:
    """Yields further points of a problem, each with a drawn cotangent of the outputs.

    There are normal numbers of three sizes, some with a 0 in every other array, and very large and very small ones;
    evenly spaced numbers in a random order and sorted, whole numbers (which are often equal, or at kinks), positive
    numbers, zeros, equal numbers, numbers at each constant that the function or the formula compares with and on both
    sides of it, and numbers near those of the problem's own point, also sorted.

    Args:
        problem: the problem. Its ``domain`` moves each point to where the formula has to hold.
        y_bars: cotangents, for their shapes.
        constants: see ``branch_constants``.
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
    points += [[size * leaf for leaf in points[0]] for size in EXTREMES]
    points += _at_constants(constants, leaves, random)
    points.append([leaf * (1 + 0.1 * normal(leaf)) for leaf in leaves])
    points.append([np.sort(leaf, axis=None).reshape(leaf.shape) for leaf in leaves])
    for point in points:
        yield problem.domain(point) if problem.domain else point, [normal(bar).astype(bar.dtype) for bar in y_bars]


def other_arguments(arguments: PyTree) -> Iterator[tuple[str, PyTree]]:
    """Yields arguments with other lengths of axes, each with its name in a report.

    First all axes become one longer, then only those of one length, and at last none. Numbers are drawn near the given
    ones. Whole numbers are often indices, so they keep their values, but some are repeated. Flags change their order.
    Arguments that would be the same as before are left out.
    """
    random, (leaves, structure) = np.random.default_rng(2), jax.tree.flatten(arguments)
    are_numbers = [is_array(leaf) and jnp.issubdtype(leaf.dtype, np.generic) for leaf in leaves]
    arrays = [np.asarray(leaf) for leaf, is_number in zip(leaves, are_numbers, strict=True) if is_number]
    fixed = {length for array in arrays if _is_permutation(array) for length in array.shape}
    lengths = sorted({length for array in arrays for length in array.shape if length > 1} - fixed)

    def moved(leaf: Array, is_number: bool, longer: tuple[int, ...]) -> Array:
        if not is_number:
            return leaf
        array = np.asarray(leaf)
        shape = tuple(length + (length in longer) for length in array.shape)
        if not jnp.issubdtype(array.dtype, np.inexact):
            return np.resize(with_repetitions(array), shape)
        numbers = np.resize(array, shape)
        return (numbers * random.uniform(0.5, 1.5, shape)).astype(array.dtype) if longer else numbers

    every: list[tuple[int, ...]] = [tuple(lengths), *((length,) for length in lengths), ()]
    for longer in dict.fromkeys(every):
        others = [moved(leaf, is_number, longer) for leaf, is_number in zip(leaves, are_numbers, strict=True)]
        regime = "axes of other lengths" if longer else "repeated whole numbers"
        if longer or any(not np.array_equal(one, leaf) for one, leaf in zip(others, leaves, strict=True)):
            yield regime, jax.tree.unflatten(structure, others)


def with_repetitions(array: np.ndarray) -> np.ndarray:
    """The same whole numbers, half of them twice; flags in another order.

    >>> with_repetitions(np.array([3, 0, 1])), with_repetitions(np.array([True, False, False]))
    (array([3, 3, 0]), array([False,  True, False]))
    """
    flat = array.reshape(-1)
    if array.dtype == bool:
        return np.roll(flat, 1).reshape(array.shape)
    return array if _is_permutation(array) else flat[np.arange(flat.size) // 2].reshape(array.shape)


def _is_permutation(array: np.ndarray) -> bool:
    """Whether whole numbers are 0 … n - 1 in any order. A formula may use that none of them is missing."""
    whole = not jnp.issubdtype(array.dtype, np.inexact) and array.dtype != bool
    return whole and array.size > 1 and np.array_equal(np.sort(array, axis=None), np.arange(array.size))


def _at_constants(
    constants: Sequence[float], leaves: Leaves, random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Yields points with numbers at each constant and its negative, and a little below and above."""
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
    """The sizes of constants in a program at which it may change its branch, at most ``MOST_CONSTANTS``.

    A call passes its constants on, as ``jnp.clip`` does.
    """
    found: dict[float, None] = {}
    for equation in all_equations(program):
        if equation.primitive.name in COMPARING or inner_programs(equation):
            for operand in equation.invars:
                if isinstance(operand, Literal) and np.ndim(operand.val) == 0 and 1e-8 < abs(operand.val) < 1e8:
                    found[float(abs(operand.val))] = None  # of a complex number, its absolute value
    return list(found)[:MOST_CONSTANTS]
