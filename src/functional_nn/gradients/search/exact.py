"""Exact values, first and second derivatives of a function at many points, by differences with up to 1000 digits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from numpy.typing import ArrayLike

from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.numbers import Arithmetic, Function
from functional_nn.gradients.search.differences import SMALLEST, Level, Part, differences, joined, stencil
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate

VectorFunction: TypeAlias = Callable[[jax.Array], jax.Array]
"""A function of one number or of one vector."""
LEVELS = (50, 100, 200, 400, 700, 1000)
"""The numbers of digits. The next one is used for points at which the last two disagree."""
AGREEMENT = 1e-20
"""Two levels agree if their relative difference is at most this."""
GUARD_DIGITS = 10
"""The number of digits that may be lost to rounding inside the function. Results must be larger than this noise."""
SLOW, AT_ONCE, QUICK = 400, 8, 0.05
"""From this many digits on, few points are evaluated at once, because some functions then take 0.1 seconds per point.
The number of points is doubled as long as an evaluation takes few seconds."""
KINK = 1e-6
"""There is a kink if the derivatives to the right and to the left have a larger relative difference."""


class ExactNumbers(NamedTuple):
    """Exact numbers at points, as sums of two float64 numbers. NaN stands for a number that is not known.

    Args:
        high: the numbers rounded to float64.
        low: the remainders of the rounding.
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
        point = [np.zeros(self._shape, dtype)]
        traced = jax.make_jaxpr(lambda leaves: [jnp.asarray(function(jnp.asarray(leaves[0])))])(point)
        self._program = Program(lambda leaves: evaluate(traced, leaves, _with_copies), point)
        self._stencil = list(stencil(self._count))

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
            deadline: the value of ``time.process_time`` after which no further level is started. Unfinished points
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
                # x - x is 0 for finite numbers only. Where f is not finite, more digits do not help.
                value = fine.parts[0].numbers
                unknown = np.isin(pending, found.unknown()) & (value - value == 0).astype(bool).all(1)
                pending, coarse = pending[unknown], fine.at(unknown)
        return found.values()

    def _level(self, points: np.ndarray, digits: int, relative: bool, deadline: float) -> Level | None:
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
        return joined(levels) if levels else None

    def _differences(self, points: np.ndarray, digits: int, relative: bool, deadline: float) -> Level:
        """Computes differences of the function at one number of digits."""
        arithmetic = _ArithmeticUntil(deadline, digits)
        # The steps are powers of two. So x + h has no rounding error, and second differences of linear functions are 0.
        exponents = np.frexp(points)[1] if relative else np.zeros(points.shape, int)
        exponents[points == 0] = 0
        with arithmetic.precision():
            base = arithmetic.numbers(points)
            # The error of the second difference is h⁴ from the formula, and ε/h² from rounding. They are equal for
            # h = ε^(1/6), with ε = 10^-digits.
            step = arithmetic.numbers(2) ** (exponents - round(digits * np.log2(10) / 6)).astype(object)
            places = np.asarray(self._stencil).astype(object)
            moved = base[None] + places[:, None] * step[None]  # (places, points, elements)
            flat = np.moveaxis(moved, -1, 0).reshape(*self._shape, -1)
            y = self._program(arithmetic, [flat]).reshape(self.outputs, len(places), len(points))
            of = {place: y[:, number].T for number, place in enumerate(self._stencil)}  # (points, outputs)
            return differences(of, base, step, arithmetic.numbers(10) ** (GUARD_DIGITS - digits))


def _with_copies(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
    """The hook that copies captured arrays, so that a program does not keep what JAX converted (``converted_anew``)."""
    return compute([np.array(operand) if isinstance(operand, np.ndarray) else operand for operand in operands])


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

    def settle(self, at: np.ndarray, coarse: Level, fine: Level, *, last: bool, refresh: bool) -> None:
        """Takes the numbers that two levels agree on. A derivative at a kink stays NaN, but counts as done.

        Args:
            at: the indices of the points.
            coarse: the previous level.
            fine: the current level.
            last: whether the current level is the last one.
            refresh: whether condition numbers of known results are replaced by those of the current level. A value is
                often known at a level whose step is too large for its derivative, which the condition number needs.
        """
        for part, (old, new) in enumerate(zip(coarse.parts, fine.parts, strict=True)):
            larger = np.maximum(abs(old.numbers), abs(new.numbers))
            exceeds_noise = abs(new.numbers) * AGREEMENT > new.noise
            # The value is computed without a difference. So only 0 is in doubt: all digits may have canceled.
            if part == 0:
                exceeds_noise = new.numbers != 0
            known = (abs(new.numbers - old.numbers) <= AGREEMENT * larger) & exceeds_noise
            # If two levels agree on 0, both may have lost all digits. So only the last level decides about 0.
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
        self, part: int, at: np.ndarray, new: Part, known: np.ndarray, zero: np.ndarray, kink: np.ndarray
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
