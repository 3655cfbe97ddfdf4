"""Differences of a function of many digits: its stencil, derivatives up to the third, and condition numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np

Place: TypeAlias = tuple[int, ...]
"""A point of the stencil, as a multiple of the step for each element of x."""

SMALLEST = 1e-320
"""At the last level, a derivative that is smaller than this, with its noise, counts as 0."""


def stencil(count: int) -> Iterator[Place]:
    """The points at which the function is evaluated: the center, four on each axis, and four for each pair of axes."""
    yield (0,) * count
    for axis in range(count):
        for steps in (-2, -1, 1, 2):
            yield _place(count, {axis: steps})
    for one, other in combinations(range(count), 2):
        for steps, others in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            yield _place(count, {one: steps, other: others})


def _place(count: int, steps: dict[int, int]) -> Place:
    return tuple(steps.get(axis, 0) for axis in range(count))


class Part(NamedTuple):
    """One of f, f' and f'' at one number of digits, with arrays (points, numbers).

    Args:
        numbers: the results.
        noise: a bound of the effect of rounding on each result.
        condition: the condition numbers.
        jump: the difference between the derivative to the right and to the left.
    """

    numbers: np.ndarray
    noise: np.ndarray
    condition: np.ndarray
    jump: np.ndarray


class Level(NamedTuple):
    """f, f' and f'' at one number of digits."""

    parts: tuple[Part, Part, Part]

    def at(self, chosen: np.ndarray) -> Level:
        """The level at some of the points."""
        first, second, third = (Part(*(array[chosen] for array in part)) for part in self.parts)
        return Level((first, second, third))


def joined(levels: Sequence[Level]) -> Level:
    """Joins levels with the same digits at different points."""
    first, second, third = (
        Part(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*(x.parts for x in levels), strict=True)
    )
    return Level((first, second, third))


def differences(of: dict[Place, np.ndarray], x: np.ndarray, step: np.ndarray, noise: object) -> Level:
    """Computes differences of fourth order from the values on the stencil.

    f'  ≈ (8 (f₁ - f₋₁) - (f₂ - f₋₂)) / 12h and f'' ≈ (16 (f₁ + f₋₁) - (f₂ + f₋₂) - 30 f₀) / 12h². Third derivatives
    are only needed for condition numbers, so differences of second order are enough for them.
    """
    count = x.shape[1]
    center = of[_place(count, {})]
    size = np.max(np.abs(np.stack(list(of.values()))), 0)
    gradient, second, gradient_jump, second_jump = ([] for _ in range(4))
    gradient_change, second_change, further_change = ([] for _ in range(3))

    def at(axis: int, steps: int, other: int = -1, others: int = 0) -> np.ndarray:
        return of[_place(count, {axis: steps, other: others})]

    for j in range(count):
        h = step[:, j : j + 1]
        right, right_end, left, left_end = (at(j, steps) for steps in (1, 2, -1, -2))
        first = (8 * (right - left) - (right_end - left_end)) / (12 * h)
        curve = (16 * (right + left) - (right_end + left_end) - 30 * center) / (12 * h * h)
        third = (right_end - 2 * right + 2 * left - left_end) / (2 * h**3)
        gradient.append(first)
        second.append(curve)
        # (-3f₀ + 4f₁ - f₂) / 2h, the derivative to the right, minus (3f₀ - 4f₋₁ + f₋₂) / 2h, the one to the left.
        gradient_jump.append(abs((4 * (right + left) - (right_end + left_end) - 6 * center) / (2 * h)))
        # (f₀ - 2f₁ + f₂) / h², the second derivative to the right, minus (f₀ - 2f₋₁ + f₋₂) / h², the one to the left.
        second_jump.append(abs((right_end - 2 * right + 2 * left - left_end) / (h * h)))
        # Σₖ |xₖ ∂ₖ∂ⱼf| and Σₖ |xₖ ∂ₖ∂ⱼ²f|, beginning with k = j.
        change_of_first, change_of_second = abs(x[:, j : j + 1] * curve), abs(x[:, j : j + 1] * third)
        for k in range(count):
            if k == j:
                continue
            g = step[:, k : k + 1]
            corners = {(a, b): at(j, a, k, b) for a in (1, -1) for b in (1, -1)}
            mixed = (corners[1, 1] - corners[1, -1] - corners[-1, 1] + corners[-1, -1]) / (4 * h * g)
            # h² ∂ⱼ²f at xₖ + g and at xₖ - g. Their difference gives ∂ₖ∂ⱼ²f.
            ahead = corners[1, 1] - 2 * at(k, 1) + corners[-1, 1]
            behind = corners[1, -1] - 2 * at(k, -1) + corners[-1, -1]
            change_of_first = change_of_first + abs(x[:, k : k + 1] * mixed)
            change_of_second = change_of_second + abs(x[:, k : k + 1] * (ahead - behind) / (2 * h * h * g))
        gradient_change.append(change_of_first)
        second_change.append(change_of_second)
        further_change.append(abs(x[:, j : j + 1] ** 2 * third))
    arrays = (gradient, second, gradient_change, second_change, further_change)
    gradient, second, gradient_change, second_change, further_change = (np.stack(array, 2) for array in arrays)
    change = np.sum(abs(x[:, None] * gradient), 2)
    steps = step[:, None]
    # An output has a rounding error of up to noise · size. The differences divide it by h or by h².
    noises = [noise * size, noise * size[..., None] / steps, noise * size[..., None] / steps**2]
    jumps = [np.zeros_like(center), np.stack(gradient_jump, 2), np.stack(second_jump, 2)]
    conditions = [
        _condition(center, change, np.sum(abs(x[:, None] ** 2 * second), 2)),
        _condition(gradient, gradient_change, further_change),
        _condition(second, second_change, np.zeros_like(second)),
    ]
    parts = zip((center, gradient, second), noises, conditions, jumps, strict=True)
    first, second_part, third_part = (Part(*(array.reshape(len(array), -1) for array in part)) for part in parts)
    return Level((first, second_part, third_part))


def _condition(number: np.ndarray, change: np.ndarray, further: np.ndarray) -> np.ndarray:
    """|change / number|, where ``change`` is the linear change of the number for a relative change of x by 1.

    The condition number of 0 is infinite, unless the number stays 0 near x. So ``further``, the change of second order,
    is also compared with 0.
    """
    is_zero = abs(number) < SMALLEST
    of_zero = np.where((change > SMALLEST) | (further > SMALLEST), np.inf, 0.0)
    return np.where(is_zero, of_zero, abs(change / np.where(is_zero, 1, number))).astype(np.float64)
