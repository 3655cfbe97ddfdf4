"""Central differences in many digits, with as many digits as each derivative needs, and bounds of their errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from functional_nn.gradients.compare.problem import Leaves
from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.sources import Dependence

AT_ONCE = 2_000_000
"""About how many numbers are in memory at the same time."""
MOST_REPEATED_COST = 4_000_000
"""The largest cost of computing derivatives again with more digits, for all leaves together: a few seconds."""
AGREEMENT = 1e-18
"""Two derivatives agree if they differ by at most this share."""
SAFE = 1e-40
"""If two values of the function differ by more than this share, cancellation has left too few right digits."""
MOST_LOST = 300
"""A loss of more digits counts as a loss of this many: 10 to a higher power overflows in float64."""
MARGIN = 1000
"""The estimate of the effect of rounding is multiplied by this factor to get a bound."""
SPARE_DIGITS = 10
"""The effects of rounding in two evaluations differ by less than this power of ten."""
SMALLEST = 5e-324
"""The smallest positive number of float64."""


class Level(NamedTuple):
    """An evaluation with ``digits`` digits and steps of |x| 10^-step."""

    digits: int
    step: int


MORE_DIGITS = 350
"""The additional digits of the last levels. They make the change of an output of size 1 visible for every
derivative that is not too small for float64."""


def first_levels(digits: int) -> tuple[Level, Level]:
    """The two evaluations that every derivative gets. The second has 30 digits more."""
    return Level(digits, digits // 3), Level(digits + 30, (digits + 30) // 3)


def last_levels(digits: int) -> tuple[Level, Level]:
    """The evaluation for derivatives that the first levels cannot tell from rounding, and one to confirm it."""
    return Level(digits + MORE_DIGITS, 60), Level(digits + MORE_DIGITS + 40, 75)


class Differences(NamedTuple):
    """Differences at one level, as arrays (m, columns) of numbers of many digits.

    Args:
        level: the level.
        base: the outputs at x, (m, 1).
        central: the central differences.
        jump: how far the differences to the right and to the left disagree.
        size: the largest absolute output at the points of a difference, divided by the step.
    """

    level: Level
    base: np.ndarray
    central: np.ndarray
    jump: np.ndarray
    size: np.ndarray

    def rounding(self, cancellation: np.ndarray) -> np.ndarray:
        """A bound of the effect of rounding. ``cancellation`` is the error of ``base`` in units of the last digit."""
        return self.size * cancellation * MARGIN / 10**self.level.digits


def differences(program: Program, leaves: Leaves, number: int, columns: np.ndarray, level: Level) -> Differences:
    """Computes differences by these elements of one leaf, with as many digits as the size of the elements needs."""
    x = np.asarray(leaves[number]).reshape(-1)[columns].astype(np.float64)
    # Steps are relative, so the smallest x has the smallest step. Added to numbers of size 1, it needs more digits.
    smallest = np.min(np.abs(x), where=x != 0, initial=1.0)
    arithmetic = Arithmetic(level.digits + int(np.ceil(-np.log10(smallest))))
    one, ten = arithmetic.numbers([1, 10])
    with arithmetic.precision():
        base = [arithmetic.numbers(leaf)[..., None] for leaf in leaves]
        steps = arithmetic.numbers(np.where(x == 0, 1.0, np.abs(x))) * (one / ten**level.step)
        parts = []
        for part in _parts(columns, program.numbers * 2):  # two points for each column
            h = steps[part]
            count = len(h)
            # The last axis holds all points: ``count`` points x + h, ``count`` points x - h, and x itself.
            points = np.repeat(base[number].reshape(-1, 1), 2 * count + 1, 1)
            points[columns[part], np.arange(count)] += h
            points[columns[part], count + np.arange(count)] -= h
            moved = points.reshape(*np.shape(leaves[number]), -1)
            y = program(arithmetic, [*base[:number], moved, *base[number + 1 :]])
            up, down, middle = y[:, :count], y[:, count:-1], y[:, -1:]
            right, left = (up - middle) / h, (middle - down) / h
            # Rounding in f is relative to |f|, and the quotients divide it by the step.
            size = np.maximum(np.maximum(np.abs(up), np.abs(down)), np.abs(middle)) / h
            parts.append((middle, (right + left) / 2, np.abs(right - left), size))
        if not parts:  # a leaf without chosen elements
            parts.append((np.zeros((program.outputs, 1), object), *[np.zeros((program.outputs, 0), object)] * 3))
        middles, *arrays = zip(*parts, strict=True)
        return Differences(level, middles[0], *(np.concatenate(array, 1) for array in arrays))


def _parts(columns: np.ndarray, numbers: int) -> Iterator[slice]:
    """Splits the columns into parts that fit into memory. Each column takes ``numbers`` numbers."""
    count = max(1, AT_ONCE // numbers)
    for start in range(0, len(columns), count):
        yield slice(start, start + count)


def derivatives(
    program: Program, leaves: Leaves, number: int, columns: np.ndarray, digits: int, known: Dependence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the derivatives by some elements of one leaf, bounds of their errors, and which are at a kink.

    Args:
        program: the function.
        leaves: the point.
        number: the number of the leaf.
        columns: the flat indices of the elements.
        digits: the digits of the first evaluation.
        known: the outputs, and the elements that they depend on, from an evaluation with many more digits.
    """
    coarse, fine = (differences(program, leaves, number, columns, level) for level in first_levels(digits))
    cancellation, unsafe = _cancellation(fine, known.values[:, None])
    value, error, kink, agree = _compared(coarse, fine, cancellation)
    independent = ~known.sources[number]
    # These outputs are not computed from the elements that changed, so their derivatives are 0.
    unchanged = independent & ~known.tied[number] & (fine.central == 0) & (fine.jump == 0)
    error[unchanged] = 0
    agree |= unchanged
    # What looks like a kink may be rounding, if numbers cancel inside the function. So kinks are doubtful too.
    doubtful = (~agree | (unsafe & ~independent) | np.isinf(error)) & np.isfinite(value)
    # This bound stays for the elements that are not computed again.
    error = np.where(doubtful, np.maximum(error, fine.rounding(cancellation).astype(np.float64)), error)
    # Each column needs two points at up to two levels. All leaves share the cost.
    again = np.flatnonzero(doubtful.any(0))[: MOST_REPEATED_COST // (4 * known.cost * len(leaves))]
    if again.size:
        better = _in_more_digits(
            program, leaves, number, columns[again], fine, again, cancellation, last_levels(digits)
        )
        for old, new in zip((value, error, kink), better, strict=True):
            old[:, again] = np.where(doubtful[:, again], new, old[:, again])
    return value, error, kink


def _in_more_digits(
    program: Program,
    leaves: Leaves,
    number: int,
    columns: np.ndarray,
    before: Differences,
    places: np.ndarray,
    cancellation: np.ndarray,
    levels: tuple[Level, Level],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the derivatives at the first of two levels, and at the second one if they are not just rounding."""
    first_level, confirming_level = levels
    many = differences(program, leaves, number, columns, first_level)
    # Rounding of 10^-digits, divided by a step of 10^-step, leaves digits - step right digits. The effect of rounding
    # has shrunk by as many digits as this number has grown. A derivative, or a jump of it, has not.
    gain = (first_level.digits - first_level.step) - (before.level.digits - before.level.step)
    shrunk = np.maximum(np.abs(before.central), before.jump)[:, places] / 10 ** (gain - SPARE_DIGITS)
    # The cancellation was measured with fewer digits, so its estimate gets the margin once more.
    limit = np.maximum(shrunk, many.rounding(cancellation) * MARGIN)
    # What does not exceed the limit may be rounding alone. All other derivatives are confirmed at the second level.
    nothing = (np.abs(many.central) <= limit) & (many.jump <= limit)
    value, error = _rounded(many.central, np.maximum(limit, MARGIN * np.abs(many.central)))
    kink = np.zeros(value.shape, bool)
    some = np.flatnonzero(~nothing.all(0))
    if some.size:
        confirming = differences(program, leaves, number, columns[some], confirming_level)
        coarse = many._replace(central=many.central[:, some], jump=many.jump[:, some], size=many.size[:, some])
        value[:, some], error[:, some], kink[:, some], _ = _compared(coarse, confirming, cancellation)
    return value, error, kink


def _compared(
    coarse: Differences, fine: Differences, cancellation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The derivatives, bounds of their errors (infinite at a kink), kinks, and whether the two levels agree."""
    change = np.abs(fine.central - coarse.central)
    # Two zeros do not agree: both levels may have lost the change of f.
    agree = (change <= np.abs(fine.central) * AGREEMENT) & (fine.central != 0)
    bound = np.where(agree, change, np.maximum(change, fine.rounding(cancellation)))
    value, error = _rounded(fine.central, bound)
    kink = np.asarray(_is_kink(coarse, fine), bool)
    return value, np.where(kink, np.inf, error), kink, agree


def _rounded(value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds derivatives to float64. That adds an error of up to half a unit in the last place."""
    value = value.astype(np.float64)
    # An error of exactly 0 would say that the output does not depend on the element.
    error = np.maximum(error.astype(np.float64) + np.spacing(np.abs(value)) / 2, SMALLEST)
    return value, np.where(np.isfinite(value) & ~np.isnan(error), error, np.inf)


def _is_kink(coarse: Differences, fine: Differences) -> np.ndarray:
    """Whether the differences to the right and to the left disagree at both levels.

    In a smooth function the jump shrinks with the step, and rounding shrinks even faster. At a kink it stays. At a
    point where the function itself jumps, it grows as the step shrinks.
    """
    finer = 10.0 ** (fine.level.step - coarse.level.step)
    # A jump of a smooth function would be ``finer`` times smaller, and one of a function that jumps ``finer`` times
    # larger. A jump that grows even more was not seen at the coarse level, so it is not confirmed.
    stays = (fine.jump > coarse.jump / MARGIN) & (fine.jump < coarse.jump * finer * MARGIN)
    # It has to be 15 digits larger than rounding in the quotients.
    seen = fine.jump > fine.size / 10 ** (fine.level.digits - 15)
    return stays & seen


def _cancellation(fine: Differences, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The errors of the outputs in units of the last digit, and whether they are too large to trust the derivatives.

    Args:
        fine: the differences.
        right: the outputs with many more digits, (m, 1).
    """
    wrong = np.abs(fine.base - right)
    # If the right output is 0, the share is 1, or 0 if the output is 0 too.
    share = wrong / np.where(right == 0, np.abs(fine.base) + (wrong == 0), np.abs(right))
    lost = np.minimum(share * 10**fine.level.digits, 10**MOST_LOST).astype(np.float64)
    cancellation = np.clip(lost, 1.0, 10.0 ** min(fine.level.digits, MOST_LOST))
    # An output that is 0 up to rounding is not unsafe: it gets smaller with more digits.
    is_zero = np.abs(right) < np.abs(fine.base) * SAFE
    return cancellation, ((share.astype(np.float64) > SAFE) | (lost >= 10.0**MOST_LOST)) & ~is_zero
