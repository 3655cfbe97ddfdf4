"""Exact numbers: values and gradients of a traced function at many points, in hundreds of digits, and errors in ULP."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.arbiter import is_kink, two_differences
from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import as_numbers
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, evaluate

VALUE, GRADIENT = "value", "gradient"
DIGITS = 50
"""The digits of exact numbers, besides those that differences lose."""
AGREEMENT = 1e-20
"""Two computations agree if their relative difference is at most this."""
GUARD_DIGITS = 10
"""The number of digits that may be lost to rounding inside the function. Results must be larger than this noise."""
SMALLEST = 1e-320
"""A number that is smaller than this, with its noise, counts as 0."""


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

    @np.errstate(all="ignore")
    def at(self, points: np.ndarray) -> dict[str, ExactNumbers]:
        """The exact values (points, m) and gradients (points, m n) at points (points, n)."""
        leaf, columns = points.T.reshape(*self._shape, -1), np.arange(points.shape[1])
        coarse, fine = two_differences(self._program, [leaf], 0, columns, DIGITS)
        moves = np.sum(np.abs(points.T * fine.central), 1, keepdims=True), np.abs(points.T * fine.jump / fine.h)
        noise = fine.size * as_numbers(10) ** (GUARD_DIGITS - fine.digits) / fine.h
        # A value is computed without a difference, so it has no noise.
        value = _exact(coarse.base, fine.base, 0 * noise[:, :1], moves[0])
        gradient = _exact(coarse.central, fine.central, noise, moves[1])
        kink = np.asarray(is_kink(coarse, fine), bool)
        found = value, [np.where(kink, np.nan, array) for array in gradient]
        # The points become the first axis.
        rows = ([np.moveaxis(array, -1, 0).reshape(len(points), -1) for array in arrays] for arrays in found)
        return dict(zip((VALUE, GRADIENT), (ExactNumbers(*arrays) for arrays in rows), strict=True))


def _with_copies(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
    """The hook that copies captured arrays, so that a program does not keep what JAX converted (``converted_anew``)."""
    return compute([np.array(operand) if isinstance(operand, np.ndarray) else operand for operand in operands])


def _exact(old: np.ndarray, new: np.ndarray, noise: np.ndarray, move: np.ndarray) -> list[np.ndarray]:
    """The arrays of ``ExactNumbers``: numbers on which two computations agree, or that are 0; otherwise NaN.

    Args:
        old, new: the numbers by both computations.
        noise: a bound of the effect of rounding on the second ones.
        move: how far each number moves per relative change of the point.
    """
    size = np.abs(new)
    is_known = np.asarray((np.abs(new - old) <= AGREEMENT * size) & (size * AGREEMENT > noise), bool)
    is_zero = np.asarray((size < SMALLEST) & (noise < SMALLEST), bool) & ~is_known
    high = new.astype(np.float64)
    # A number above the largest float64 has no remainder.
    remainder = np.where(np.isfinite(high), new - np.where(np.isfinite(high), high, 0), 0).astype(np.float64)
    # The condition number of 0 is infinite, unless the number stays 0 near x.
    condition = np.where(move > SMALLEST, np.abs(move / new), 0).astype(np.float64)
    pair = (np.where(is_zero, 0, np.where(is_known, array, np.nan)) for array in (high, remainder))
    return [*pair, np.where(is_known | is_zero, condition, np.nan)]


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
