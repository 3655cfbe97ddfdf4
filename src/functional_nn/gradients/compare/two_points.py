"""A second point beside the problem's own, and derivatives at both: formulas must not mix points up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from functional_nn.gradients.compare.jacobians import Derivatives
from functional_nn.gradients.compare.problem import Array, Leaves

Pullbacks: TypeAlias = Callable[[Leaves, Leaves], Derivatives]
"""``pullbacks(point, y_bars)``: a pulled-back cotangent by the formula and by automatic differentiation."""


def with_second(leaf: Array) -> np.ndarray:
    """Stacks an array and 0.53 times this array. With this number, the second point is rarely at a kink."""
    array = np.asarray(leaf)
    return np.stack([array, (array * 0.53).astype(array.dtype)])


def at_points(pullbacks: Pullbacks, points: Leaves, y_bars: Leaves) -> Derivatives:
    """Derivatives in float64 at several points, as matrices, (points, elements of the leaf).

    Args:
        pullbacks: the two ways to pull a cotangent back.
        points: the points, stacked along a leading axis of each leaf.
        y_bars: a cotangent for each point, stacked likewise.
    """
    rows = []
    for number in range(len(points[0])):
        point, bars = ([np.asarray(leaf[number], np.float64) for leaf in leaves] for leaves in (points, y_bars))
        rows.append(as_rows(pullbacks(point, bars), point, 1))
    return Derivatives(
        *([np.concatenate(of_leaf) for of_leaf in zip(*source, strict=True)] for source in zip(*rows, strict=True))
    )


def as_rows(derivatives: Derivatives, leaves: Leaves, rows: int) -> Derivatives:
    """Reshapes the derivatives to float64 matrices, (rows, elements of the leaf)."""
    matrices = (
        [np.asarray(array, np.float64).reshape(rows, np.size(leaf)) for array, leaf in zip(arrays, leaves, strict=True)]
        for arrays in derivatives
    )
    return Derivatives(*matrices)
