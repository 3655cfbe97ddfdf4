"""Exponents of curves: straight lines through the logarithms, with a bend if the points have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_CHANGE = 0.3
"""A bend is named if the exponent changes by more than this there."""
LEAST_GAIN = 10.0
"""How many times as large as the scatter around two lines the improvement over one line must be: the F of a test. With
all three conditions, a scatter of 10% makes a bend in at most 2 of 100 straight curves of six points or more."""
LEAST_SCATTER = 0.05
"""If one line is nearer to all points than 5%, on average, there is no bend."""


@dataclass(frozen=True)
class Growth:
    """How a curve grows.

    Args:
        exponent: the slope of the logarithm of the cost; before the bend, if there is one. A cost that is proportional
            to the size has exponent 1.
        bend: the size at the bend, or None.
        exponent_after: the slope after the bend, or None.
    """

    exponent: float
    bend: float | None = None
    exponent_after: float | None = None


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Fits one line to the logarithms, and two lines that meet at one of the sizes.

    The two lines are chosen if the exponent changes by more than 0.3 between them, and if they are so much nearer to
    the points that scatter alone would hardly make the difference. Each of the two goes through three points or more,
    the bend included.

    Raises:
        ValueError: if there are fewer than two points, or if a number is not positive.

    >>> round(growth([1, 2, 4, 8], [3, 6, 12, 24]).exponent, 6)
    1.0
    """
    if len(sizes) < 2 or len(sizes) != len(costs) or min(*sizes, *costs) <= 0:
        raise ValueError(f"expected two or more sizes, a cost for each, all positive; got {sizes} and {costs}")
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    line, error_of_line = _least_squares(y, np.ones_like(x), x)
    one = Growth(line[1])
    found = [(_least_squares(y, np.ones_like(x), x, np.maximum(x - x[at], 0)), at) for at in range(2, len(x) - 2)]
    if not found:
        return one
    (lines, error), at = min(found, key=lambda candidate: candidate[0][1])
    left_over = max(len(x) - 4, 1)  # two lines have three numbers, and the place of the bend is a fourth
    scatter = max(error / left_over, 1e-12)
    is_bend = (
        abs(lines[2]) > LEAST_CHANGE
        and (error_of_line - error) / scatter > LEAST_GAIN
        and (error_of_line / len(x)) ** 0.5 > LEAST_SCATTER
    )
    return Growth(lines[1], float(sizes[at]), lines[1] + lines[2]) if is_bend else one


def _least_squares(y: np.ndarray, *columns: np.ndarray) -> tuple[list[float], float]:
    """The coefficients, and the sum of the squared errors."""
    matrix = np.stack(columns, axis=1)
    coefficients = np.linalg.lstsq(matrix, y, rcond=None)[0]
    return coefficients.tolist(), float(np.sum((matrix @ coefficients - y) ** 2))
