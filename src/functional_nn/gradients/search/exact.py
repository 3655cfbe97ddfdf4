"""Exact values, first and second derivatives of a function at many points, by differences with up to 1000 digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.numbers import Arithmetic, Function

VectorFunction: TypeAlias = Callable[[jax.Array], jax.Array]
"""A function of one number or of one vector."""
Place: TypeAlias = tuple[int, ...]
"""A point of the stencil, as a multiple of the step for each element of x."""

LEVELS = (50, 100, 200, 400, 700, 1000)
"""The numbers of digits. The next one is used for points at which the last two disagree."""
AGREEMENT = 1e-20
"""Two levels agree if their relative difference is at most this."""
GUARD_DIGITS = 10
"""How many digits rounding inside the function may cost. Two levels that agree must be this far above that noise."""
SLOW, AT_ONCE, QUICK = 400, 8, 0.05
"""From this many digits, few points are evaluated at once, since some functions take 0.1 seconds for a point then. The
number is doubled as long as this takes few seconds."""
SMALLEST = 1e-320
"""At the last level, a derivative that is smaller than this, with its noise, counts as 0."""
KINK = 1e-6
"""There is a kink if the derivatives to the right and to the left differ by more than this, relatively."""


class ExactNumbers(NamedTuple):
    """Exact numbers at points, as sums of two float64 numbers. NaN stands for a number that is not known.

    Args:
        high: the numbers rounded to float64.
        low: what rounding took away.
        condition: the condition numbers, Σₖ |xₖ ∂ₖq / q| for the number q.
    """

    high: np.ndarray
    low: np.ndarray
    condition: np.ndarray


class ExactValues(NamedTuple):
    """The exact numbers of a function with m outputs, at points with n elements.

    Args:
        value: f(x), (points, m).
        gradient: ∂fᵢ/∂xⱼ, (points, m, n).
        second: ∂²fᵢ/∂xⱼ², (points, m, n).
    """

    value: ExactNumbers
    gradient: ExactNumbers
    second: ExactNumbers


class ExactFunction:
    """A function traced once, whose exact values can be computed at many points.

    The traced program defines the function: its constants have the type in which it is traced. Nothing is rounded in
    the evaluation, and neither ``stop_gradient`` nor custom derivatives have an effect.

    Args:
        function: the function of one number, or of a vector.
        size: the number of elements of the vector; None for a function of one number.
        dtype: the type for which it is traced.
    """

    def __init__(self, function: VectorFunction, size: int | None, dtype: np.dtype):
        self._shape = () if size is None else (size,)
        self._count = 1 if size is None else size
        self._program = Program(lambda leaves: [jnp.asarray(function(leaves[0]))], [np.zeros(self._shape, dtype)])
        self._stencil = list(_stencil(self._count))

    @property
    def outputs(self) -> int:
        """The number m of outputs."""
        return self._program.outputs

    @property
    def evaluations(self) -> int:
        """How often the function is evaluated for each point and number of digits."""
        return len(self._stencil)

    @np.errstate(all="ignore")
    def at(self, points: np.ndarray, deadline: float = np.inf) -> ExactValues:
        """Computes the exact numbers at points, an array (points, n).

        Args:
            points: the points.
            deadline: the time of ``time.process_time`` at which no further level is begun. Points that are not done
                are NaN.
        """
        found = _Found(len(points), self.outputs, self._count)
        # Steps relative to |x| suit almost every function. Others vary on a scale of 1: sin at 1e10, 1 + x at 1e-200.
        for relative in (True, False):
            pending = np.arange(len(points)) if relative else found.unknown()
            coarse = None
            for digits in LEVELS:
                fine = self._level(points[pending], digits, relative, deadline)
                if fine is None:
                    break
                if coarse is not None:
                    found.settle(pending, coarse, fine, last=digits == LEVELS[-1], refresh=relative)
                value = fine.parts[0].numbers
                unknown = np.isin(pending, found.unknown()) & (value - value == 0).astype(bool).all(1)
                pending, coarse = pending[unknown], fine.at(unknown)
        return found.values()

    def _level(self, points: np.ndarray, digits: int, relative: bool, deadline: float) -> _Level | None:
        """The differences at all points; None without points, or once the deadline has passed."""
        at_once = len(points) if digits < SLOW else AT_ONCE
        levels, start = [], 0
        while start < len(points):
            began = time.process_time()
            if began > deadline:
                return None
            try:
                levels.append(self._differences(points[start : start + at_once], digits, relative, deadline))
            except TimeoutError:
                return None
            start += at_once
            if time.process_time() - began < QUICK:
                at_once *= 2
        return _joined(levels) if levels else None

    def _differences(self, points: np.ndarray, digits: int, relative: bool, deadline: float) -> _Level:
        """Computes differences of the function at one number of digits."""
        arithmetic = _ArithmeticUntil(deadline, digits)
        # The steps are powers of two: then x + h has no rounding error, and a linear function no second difference.
        exponents = np.frexp(points)[1] if relative else np.zeros(points.shape, int)
        exponents[points == 0] = 0
        with arithmetic.precision():
            base = arithmetic.numbers(points)
            step = arithmetic.numbers(2) ** (exponents - round(digits * np.log2(10) / 6)).astype(object)
            places = np.asarray(self._stencil).astype(object)
            moved = base[None] + places[:, None] * step[None]  # (places, points, elements)
            flat = np.moveaxis(moved, -1, 0).reshape(*self._shape, -1)
            y = self._program(arithmetic, [flat]).reshape(self.outputs, len(places), len(points))
            of = {place: y[:, number].T for number, place in enumerate(self._stencil)}  # (points, outputs)
            return _level(of, base, step, arithmetic.numbers(10) ** (GUARD_DIGITS - digits))


class _ArithmeticUntil(Arithmetic):
    """Arithmetic that raises ``TimeoutError`` after a deadline. The loops of some functions never end in many digits.

    Args:
        deadline: the time of ``time.process_time``.
        digits: the number of decimal digits.
    """

    def __init__(self, deadline: float, digits: int):
        super().__init__(digits)
        self._deadline = deadline

    def numbers(self, array: ArrayLike) -> np.ndarray:
        self._check_time()
        return super().numbers(array)

    def function(self, name: str) -> Function:
        self._check_time()
        return super().function(name)

    def _check_time(self) -> None:
        if time.process_time() > self._deadline:
            raise TimeoutError


def _stencil(count: int) -> Iterator[Place]:
    """The points at which the function is evaluated: the center, four on each axis, and four for each two axes."""
    yield (0,) * count
    for axis in range(count):
        for steps in (-2, -1, 1, 2):
            yield _place(count, {axis: steps})
    for one, other in combinations(range(count), 2):
        for steps, others in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            yield _place(count, {one: steps, other: others})


def _place(count: int, steps: dict[int, int]) -> Place:
    return tuple(steps.get(axis, 0) for axis in range(count))


class _Part(NamedTuple):
    """One of f, f' and f'' at one number of digits, with arrays (points, numbers).

    Args:
        numbers: the results.
        noise: what rounding in the function may add to each.
        condition: the condition numbers.
        jump: the difference between the derivative to the right and to the left.
    """

    numbers: np.ndarray
    noise: np.ndarray
    condition: np.ndarray
    jump: np.ndarray


class _Level(NamedTuple):
    """f, f' and f'' at one number of digits."""

    parts: tuple[_Part, _Part, _Part]

    def at(self, chosen: np.ndarray) -> _Level:
        """The same at some of the points."""
        first, second, third = (_Part(*(array[chosen] for array in part)) for part in self.parts)
        return _Level((first, second, third))


def _joined(levels: Sequence[_Level]) -> _Level:
    """Joins levels with the same digits at different points."""
    first, second, third = (
        _Part(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*(x.parts for x in levels), strict=True)
    )
    return _Level((first, second, third))


def _level(of: dict[Place, np.ndarray], x: np.ndarray, step: np.ndarray, noise: object) -> _Level:
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
        gradient_jump.append(abs((4 * (right + left) - (right_end + left_end) - 6 * center) / (2 * h)))
        second_jump.append(abs((right_end - 2 * right + 2 * left - left_end) / (h * h)))
        change_of_first, change_of_second = abs(x[:, j : j + 1] * curve), abs(x[:, j : j + 1] * third)
        for k in range(count):
            if k == j:
                continue
            g = step[:, k : k + 1]
            corners = {(a, b): at(j, a, k, b) for a in (1, -1) for b in (1, -1)}
            mixed = (corners[1, 1] - corners[1, -1] - corners[-1, 1] + corners[-1, -1]) / (4 * h * g)
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
    noises = [noise * size, noise * size[..., None] / steps, noise * size[..., None] / steps**2]
    jumps = [np.zeros_like(center), np.stack(gradient_jump, 2), np.stack(second_jump, 2)]
    conditions = [
        _condition(center, change, np.sum(abs(x[:, None] ** 2 * second), 2)),
        _condition(gradient, gradient_change, further_change),
        _condition(second, second_change, np.zeros_like(second)),
    ]
    parts = zip((center, gradient, second), noises, conditions, jumps, strict=True)
    first, second_part, third_part = (_Part(*(array.reshape(len(array), -1) for array in part)) for part in parts)
    return _Level((first, second_part, third_part))


def _condition(number: np.ndarray, change: np.ndarray, further: np.ndarray) -> np.ndarray:
    """|change / number|, where ``change`` is what a relative change of x by 1 would do if the function were linear.

    A number that is 0 is infinitely ill conditioned, unless it also stays 0 beside x. So it matters whether the term of
    second order, ``further``, is 0 too.
    """
    is_zero = abs(number) < SMALLEST
    of_zero = np.where((change > SMALLEST) | (further > SMALLEST), np.inf, 0.0)
    return np.where(is_zero, of_zero, abs(change / np.where(is_zero, 1, number))).astype(np.float64)


class _Found:
    """The results that two levels agree on, for all points.

    Args:
        points: the number of points.
        outputs: the number of outputs.
        elements: the number of elements of a point.
    """

    def __init__(self, points: int, outputs: int, elements: int):
        shapes = [(points, outputs), (points, outputs, elements), (points, outputs, elements)]
        self._shapes = shapes
        self._arrays = [np.full((3, points, int(np.prod(shape[1:]))), np.nan) for shape in shapes]
        self._done = [np.zeros((points, int(np.prod(shape[1:]))), bool) for shape in shapes]

    def unknown(self) -> np.ndarray:
        """The indices of the points at which some number is not known."""
        return np.flatnonzero(~np.logical_and.reduce([done.all(1) for done in self._done]))

    def settle(self, at: np.ndarray, coarse: _Level, fine: _Level, *, last: bool, refresh: bool) -> None:
        """Takes the numbers that two levels agree on. A derivative at a kink stays NaN, but counts as done.

        Args:
            at: the indices of the points.
            coarse: the level before.
            fine: the level.
            last: whether it is the last one.
            refresh: whether it also gives the condition numbers of what is known already. A value is often known at
                a level whose step is still too large for its derivative, and a condition number needs the derivative.
        """
        for part, (old, new) in enumerate(zip(coarse.parts, fine.parts, strict=True)):
            larger = np.maximum(abs(old.numbers), abs(new.numbers))
            exceeds_noise = abs(new.numbers) * AGREEMENT > new.noise
            if part == 0:
                exceeds_noise = new.numbers != 0
            known = (abs(new.numbers - old.numbers) <= AGREEMENT * larger) & exceeds_noise
            # Two levels that agree on 0 prove nothing, since both may lose all digits. So only the last level decides.
            zero = (abs(new.numbers) < SMALLEST) & (new.noise < SMALLEST) & ~known & last
            # The step is much smaller at the finer level. In a smooth function the jump shrinks with the step.
            kink = (new.jump * 1000 > old.jump) & (new.jump > KINK * abs(new.numbers)) & (new.jump > new.noise)
            kink = (known | zero) & kink
            if part == 2:  # the second derivative needs a first one
                first_is_known = ~np.isnan(self._arrays[1][0, at])
                known, zero = known & first_is_known, zero & first_is_known
                kink = kink | (self._done[1][at] & ~first_is_known)
            self._store(part, at, new, known.astype(bool), zero.astype(bool), kink.astype(bool))
            if refresh:
                self._arrays[part][2][at] = np.where(self._done[part][at], new.condition, np.nan)

    def _store(
        self, part: int, at: np.ndarray, new: _Part, known: np.ndarray, zero: np.ndarray, kink: np.ndarray
    ) -> None:
        high = new.numbers.astype(np.float64)
        # A number above the largest float64 has no remainder.
        remainder = np.where(np.isfinite(high), new.numbers - np.where(np.isfinite(high), high, 0), 0)
        arrays = np.stack([high, remainder.astype(np.float64), new.condition])
        arrays[:2, zero] = 0.0
        arrays[:, kink] = np.nan
        row, column = np.nonzero((known | zero | kink) & ~self._done[part][at])
        self._arrays[part][:, at[row], column] = arrays[:, row, column]
        self._done[part][at[row], column] = True

    def values(self) -> ExactValues:
        value, gradient, second = (
            ExactNumbers(*(array.reshape(shape) for array in arrays))
            for arrays, shape in zip(self._arrays, self._shapes, strict=True)
        )
        return ExactValues(value, gradient, second)
