"""Exact numbers: values and gradients of a traced function at many points, in 50 to 1000 digits, and errors in ULP."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import as_numbers, many_digits
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate

VALUE, GRADIENT = "value", "gradient"
LEVELS = (50, 100, 200, 400, 700, 1000)
"""The numbers of digits of exact numbers. The next one is used for points at which the last two disagree."""
AGREEMENT = 1e-20
"""Two levels agree if their relative difference is at most this."""
GUARD_DIGITS = 10
"""The number of digits that may be lost to rounding inside the function. Results must be larger than this noise."""
KINK = 1e-6
"""There is a kink if the derivatives to the right and to the left have a larger relative difference."""
SMALLEST = 1e-320
"""At the last level, a derivative that is smaller than this, with its noise, counts as 0."""


class ExactNumbers(NamedTuple):
    """Exact numbers at points, as sums of two float64 numbers, (points, numbers). NaN: the number is not known.

    Args:
        high: the numbers rounded to float64.
        low: the remainders of the rounding.
        condition: the condition numbers: Σₖ |xₖ ∂ₖf / f| for a value f, and |xₖ ∂ₖ∂ₖf / ∂ₖf| for a derivative. Empty if
            they are not computed.
    """

    high: np.ndarray
    low: np.ndarray
    condition: np.ndarray = np.empty(0)


@np.errstate(all="ignore")
def ulp_errors(
    computed: np.ndarray, exact: ExactNumbers, dtype: np.dtype, *, at_least: float | np.ndarray = 0.0
) -> np.ndarray:
    """The errors of computed numbers in units in the last place (ULP) of the exact numbers; NaN if these are not known.

    All numbers below the smallest normal number count as equal, because XLA on the CPU replaces them by 0. Above the
    largest number, infinity is right. If the exact number is close to the largest one, infinity counts as the next
    power of two: a sum that overflows only because of rounding is not infinitely wrong.

    Args:
        computed: numbers of the type.
        exact: the exact numbers.
        dtype: the type.
        at_least: if an exact number is smaller than this, the unit is that of this number. By default it is the
            smallest normal number.
    """
    limits = jnp.finfo(dtype)
    smallest, largest, epsilon = float(limits.smallest_normal), float(limits.max), float(limits.eps)
    found, high, low = computed.astype(np.float64), exact.high, exact.low
    size = np.abs(high)
    _, exponent = np.frexp(np.clip(size, np.maximum(smallest, at_least), largest))
    # frexp gives |x| = m 2ᵉ with ½ ≤ m < 1. There, the distance of neighboring numbers is ε 2ᵉ⁻¹.
    unit = np.ldexp(epsilon, exponent - 1)
    # Numbers are divided by 4, so that the power of two above the largest float64 can be represented.
    same_sign = np.sign(found) == np.sign(high)
    nearly_overflows = np.isinf(found) & same_sign & (size > largest / 2)
    quarter = np.where(nearly_overflows, np.sign(high) * 2.0 ** (int(limits.maxexp) - 2), found / 4)
    # First the large parts, which nearly cancel and so leave no rounding error; then the small remainder.
    distance = np.abs((quarter - high / 4) - low / 4)
    both_tiny = np.maximum(np.abs(found), size) < smallest
    distance = np.where(both_tiny | (np.isinf(found) & same_sign & (size > largest)), 0, distance)
    distance = np.where(np.isnan(found), np.inf, distance)
    return np.where(np.isnan(high), np.nan, distance / unit * 4)


class ExactFunction:
    """A function traced once, whose exact values and gradients can be computed at many points.

    The traced program defines the function: its constants have the type in which it is traced. Nothing is rounded in
    the evaluation, and neither ``stop_gradient`` nor custom derivatives have an effect.

    Args:
        function: the function of one number, or of a vector.
        size: the number of elements of the vector; None for a function of one number.
        dtype: the type for which it is traced.
    """

    def __init__(self, function: Callable[[jax.Array], jax.Array], size: int | None, dtype: np.dtype):
        self._shape = () if size is None else (size,)
        point = [np.zeros(self._shape, dtype)]
        traced = jax.make_jaxpr(lambda leaves: [jnp.asarray(function(jnp.asarray(leaves[0])))])(point)
        self._program = Program(lambda leaves: evaluate(traced, leaves, _with_copies), point)
        # Multiples of the step: the center, then a point to the right on each axis, then the points to the left.
        axes = np.eye(size or 1, dtype=int)
        self._stencil = np.concatenate([0 * axes[:1], axes, -axes])

    @np.errstate(all="ignore")
    def at(self, points: np.ndarray) -> dict[str, ExactNumbers]:
        """The exact values (points, m) and gradients (points, m n) at points (points, n)."""
        outputs = self._program.outputs
        shape = len(points), outputs * (1 + points.shape[1])  # for each point the values, then the gradients
        found, done = np.full((3, *shape), np.nan), np.zeros(shape, bool)
        # Steps relative to |x| suit almost every function. Others vary on a scale of 1: sin at 1e10, 1 + x at 1e-200.
        for relative in (True, False):
            pending, coarse = np.flatnonzero(~done.all(1)), None
            for digits in LEVELS:
                if not len(pending):
                    break
                fine = self._differences(points[pending], digits, relative)
                if coarse is not None:
                    is_known, arrays = _agreed(coarse, fine, digits == LEVELS[-1])
                    found[:, pending] = np.where(is_known & ~done[pending], arrays, found[:, pending])
                    done[pending] |= is_known
                    # A value is often known at a level whose step is too large for its derivative, which its condition
                    # needs.
                    found[2, pending] = np.where(done[pending], fine.condition, np.nan)
                # x - x is 0 for finite numbers only. Where f is not finite, more digits do not help.
                value = fine.numbers[:, :outputs]
                going_on = ~done[pending].all(1) & (value - value == 0).astype(bool).all(1)
                pending, coarse = pending[going_on], _Part(*(array[going_on] for array in fine))
        parts = found[..., :outputs], found[..., outputs:]
        return {VALUE: ExactNumbers(*parts[0]), GRADIENT: ExactNumbers(*parts[1])}

    def _differences(self, points: np.ndarray, digits: int, relative: bool) -> _Part:
        """Computes values and central differences, (f₁ - f₋₁) / 2h, at one number of digits."""
        # The steps are powers of two. So x + h has no rounding error, and a linear function has no jumps.
        exponents = np.frexp(points)[1] if relative else np.zeros(points.shape, int)
        exponents[points == 0] = 0
        with many_digits(digits):
            x = as_numbers(points)
            # With ε = 10^-digits, the error is h² from the formula, and from rounding ε/h, or ε/h² for conditions.
            step = as_numbers(2) ** (exponents - round(digits * np.log2(10) / 4)).astype(object)
            moved = x[None] + self._stencil.astype(object)[:, None] * step[None]
            flat = np.moveaxis(moved, -1, 0).reshape(*self._shape, -1)
            y = self._program([flat]).reshape(self._program.outputs, len(self._stencil), len(points))
            y, x, h = np.moveaxis(y, -1, 0), x[:, None], step[:, None]
            value, right, left = np.split(y, [1, 1 + h.shape[-1]], 2)
            gradient, bend = (right - left) / (2 * h), right - 2 * value + left
            # An output has a rounding error of up to noise · size, and the differences divide it by h. A value is
            # computed without a difference, so only 0 is in doubt there: all digits may have canceled.
            noise = as_numbers(10) ** (GUARD_DIGITS - digits) * np.max(np.abs(y), 2, keepdims=True)
            changes = np.sum(abs(x * gradient), 2, keepdims=True), abs(x * bend / (h * h))
            # The condition number of 0 is infinite, unless the number stays 0 near x.
            of_value, of_slope = (
                np.where(change > SMALLEST, abs(change / number), 0).astype(np.float64)
                for change, number in zip(changes, (value, gradient), strict=True)
            )
            both = (value, gradient), (0 * noise, noise / h), (of_value, of_slope), (0 * noise, abs(bend) / h)
            return _Part(*(np.concatenate([array.reshape(len(y), -1) for array in pair], 1) for pair in both))


def _with_copies(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
    """The hook that copies captured arrays, so that a program does not keep what JAX converted (``converted_anew``)."""
    return compute([np.array(operand) if isinstance(operand, np.ndarray) else operand for operand in operands])


class _Part(NamedTuple):
    """Values and gradients at one number of digits, with arrays (points, numbers).

    Args:
        numbers: the results.
        noise: a bound of the effect of rounding on each result.
        condition: the condition numbers.
        jump: the difference between the derivative to the right and to the left; 0 for values.
    """

    numbers: np.ndarray
    noise: np.ndarray
    condition: np.ndarray
    jump: np.ndarray


def _agreed(old: _Part, new: _Part, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers two levels agree on, (points, numbers), and the arrays of ``ExactNumbers``, with NaN at kinks.

    Args:
        old: the previous level.
        new: the current level.
        last: whether the current level is the last one.
    """
    larger = np.maximum(abs(old.numbers), abs(new.numbers))
    exceeds_noise = abs(new.numbers) * AGREEMENT > new.noise
    known = ((abs(new.numbers - old.numbers) <= AGREEMENT * larger) & exceeds_noise).astype(bool)
    # If two levels agree on 0, both may have lost all digits. So only the last level decides about 0.
    zero = ((abs(new.numbers) < SMALLEST) & (new.noise < SMALLEST) & ~known & last).astype(bool)
    # The step is much smaller at the finer level. In a smooth function the jump shrinks with the step.
    kink = (new.jump * 1000 > old.jump) & (new.jump > KINK * abs(new.numbers)) & (new.jump > new.noise)
    high = new.numbers.astype(np.float64)
    # A number above the largest float64 has no remainder.
    remainder = np.where(np.isfinite(high), new.numbers - np.where(np.isfinite(high), high, 0), 0)
    arrays = np.stack([high, remainder.astype(np.float64), new.condition])
    arrays[:2, zero] = 0.0
    arrays[:, kink.astype(bool)] = np.nan
    return known | zero, arrays


def ordinals(x: np.ndarray) -> np.ndarray:
    """Numbers the floating-point numbers of a type in order: neighbors have consecutive integers, and 0.0 has 0."""
    # The first bit is the sign, and the others count upward with the size. So the bits of a negative number, read as
    # an integer, are the lowest integer plus the size.
    bits = x.view(f"i{x.itemsize}").astype(np.int64)
    lowest = np.int64(-(2 ** (8 * x.itemsize - 1)))
    return np.where(bits < 0, lowest - bits, bits)


def from_ordinals(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The floating-point numbers with these ordinals. Those that are not normal become the nearest that are, or 0."""
    limits = jnp.finfo(dtype)
    largest, smallest = (int(ordinals(np.asarray([x], dtype))[0]) for x in (limits.max, limits.smallest_normal))
    size = np.minimum(np.abs(numbers), largest)
    nearest_normal = np.where(size < smallest // 2, 0, smallest)
    size = np.where(size < smallest, nearest_normal, size)
    magnitude = size.astype(f"i{dtype.itemsize}").view(dtype)
    return np.where(numbers < 0, -magnitude, magnitude)


def beside(centers: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The floating-point numbers that are these numbers of steps away from each center, on both sides."""
    return from_ordinals((ordinals(centers)[:, None] + np.concatenate([steps, -steps])).reshape(-1), centers.dtype)


def is_normal(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Which numbers are neither infinite nor subnormal in a type. 0 is among them."""
    limits = np.finfo(dtype)
    return (np.abs(x) <= float(limits.max)) & ((np.abs(x) >= float(limits.smallest_normal)) | (x == 0))
