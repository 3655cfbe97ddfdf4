"""The values of one derivative from three sources, and the verdict on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.compare.error_scale import TOLERANCES
from functional_nn.gradients.compare.problem import Array
from functional_nn.gradients.compare.report import Verdict, judge

HALF_OF_DIGITS = {name: 2.0 ** -(int(jnp.finfo(name).nmant) // 2) for name in TOLERANCES}
"""The relative error that is left if half of a type's digits are right."""
NEARLY = 1e-6
"""Two errors whose relative difference is at most this are equal, up to rounding."""


@dataclass(frozen=True)
class ComparedValues:
    """Values of one derivative from three sources, as arrays of one shape.

    Args:
        hand: the values of the hand-derived formula.
        automatic: the values of automatic differentiation.
        arbiter: the values of the arbiter.
        arbiter_error: the arbiter's estimate of its own absolute error; infinite at a kink.
        scale: the size by which errors are divided.
        underflow: the absolute error that is always allowed: the smallest positive normal number, or a multiple of it
            in sums. XLA replaces smaller numbers by 0, so no formula can give them.
        narrow: the absolute error that is allowed in addition, above all because the function rounds to narrow types.
        kink: where the arbiter has found a kink of the function.
    """

    hand: np.ndarray
    automatic: np.ndarray
    arbiter: np.ndarray
    arbiter_error: np.ndarray
    scale: np.ndarray
    underflow: float
    narrow: np.ndarray
    kink: np.ndarray | bool = False

    @np.errstate(all="ignore")
    def multiplied(self, y_bar: np.ndarray, hand: np.ndarray, automatic: np.ndarray) -> ComparedValues:
        """The same values of a cotangent times these Jacobians; those by the formula and by ``jax.vjp`` are given."""
        weights, size = y_bar[None], np.abs(y_bar)[None]
        underflow = self.underflow * max(1.0, float(size.sum()))
        arbiter, error = weights @ self.arbiter, size @ self.arbiter_error
        return ComparedValues(hand, automatic, arbiter, error, size @ self.scale, underflow, size @ self.narrow)

    def with_usable_scale(self) -> ComparedValues:
        """Replaces the scale by the size of the derivative where the scale is not finite, or smaller than that.

        The scale comes from automatic differentiation. It is infinite where a term overflows, and NaN where
        automatic differentiation gives NaN. Divided by infinity, every error would be 0. The scale is never smaller
        than the automatic derivative. So if it is smaller than the derivative, automatic differentiation has missed a
        term.
        """
        size = np.abs(self.arbiter)
        return replace(self, scale=usable_scale(self.scale, size, self.arbiter_error < size))

    def only_at(self, counted: np.ndarray) -> ComparedValues:
        """The same values. Only the chosen elements count; all others get an error of 0."""
        right = np.where(np.isnan(self.arbiter) & ~counted, 0.0, self.arbiter)
        hand, automatic = (np.where(counted, found, right) for found in (self.hand, self.automatic))
        error, scale = np.where(counted, self.arbiter_error, 0.0), np.where(counted, self.scale, 1.0)
        return replace(self, hand=hand, automatic=automatic, arbiter=right, arbiter_error=error, scale=scale)

    @np.errstate(invalid="ignore")
    def verdict(self, template: Verdict) -> tuple[Verdict, tuple[int, ...]]:
        """The verdict at the worst element of the formula, and the index of that element.

        Certain failures come before doubtful ones.

        Args:
            template: a verdict with the fields that are already known, such as the subject, the leaf and the tolerance.
        """
        scale = self.scale + self.narrow / template.tolerance
        hand_error, automatic_error = (
            # Equal values have no error, also where both are infinite.
            self._relative(scale, np.where(found == self.arbiter, 0.0, found - self.arbiter))
            for found in (self.hand, self.automatic)
        )
        arbiter_error = self._relative(scale, self.arbiter_error)
        if not hand_error.size:
            return replace(template, note="It has no elements."), ()
        is_unknown = np.isnan(self.arbiter)
        hand_error, arbiter_error = (np.where(is_unknown, np.inf, errors) for errors in (hand_error, arbiter_error))
        automatic_error = np.nan_to_num(automatic_error, nan=np.inf)
        # An element that the arbiter does not know well enough says nothing about automatic differentiation.
        is_doubtful = (arbiter_error > template.tolerance) & (automatic_error <= arbiter_error)
        known_errors = np.where(is_doubtful, 0.0, automatic_error)
        # The true error lies between these two. NaN counts as an infinite error. At a kink, nothing is certain.
        least = np.where(np.isinf(arbiter_error), -np.inf, hand_error - arbiter_error)
        least = np.where(np.isnan(hand_error), np.inf, least)
        most = np.nan_to_num(hand_error + arbiter_error, nan=np.inf)
        # A wrong factor makes all elements equally wrong, up to rounding. The first of them has the simplest cotangent.
        is_worst = (least > template.tolerance) & (least >= (1 - NEARLY) * np.max(least))
        at = np.unravel_index(np.argmax(is_worst if is_worst.any() else most), hand_error.shape)
        # The reader sees the error in units of the scale alone, and a larger tolerance.
        looser = float(scale[at] / self.scale[at]) if 0 < self.scale[at] < np.inf else 1.0
        verdict = replace(
            template,
            outcome=judge(float(hand_error[at]), float(arbiter_error[at]), template.tolerance),
            tolerance=looser * template.tolerance,
            error=looser * float(hand_error[at]),
            automatic_error=looser * float(np.max(known_errors)),
            reference_error=looser * float(arbiter_error[at]),
            hand=float(self.hand[at]),
            automatic=float(self.automatic[at]),
            arbiter=float(self.arbiter[at]),
        )
        return verdict, tuple(map(int, at))

    def _relative(self, scale: np.ndarray, difference: np.ndarray) -> np.ndarray:
        """Differences in units of a scale; 0 for those that are no larger than an underflow."""
        is_underflow = np.abs(difference) <= self.underflow
        return np.where(is_underflow, 0.0, relative_error(difference, scale, self.arbiter_error))


def usable_scale(scale: Array, size: Array, is_known: bool | np.ndarray = True) -> np.ndarray:
    """Where ``is_known``, the larger of scale and size. Where the scale is not finite, the size."""
    return np.where(np.isfinite(scale), np.where(is_known, np.fmax(scale, size), scale), size)


def relative_error(difference: Array, scale: Array, arbiter_error: Array | float = 0.0) -> np.ndarray:
    """|difference| / scale. If the scale is 0, the result is infinite, or 0 within the arbiter's error."""
    with np.errstate(all="ignore"):
        difference = np.abs(difference)
        relative = difference / scale
    within_arbiter_error = np.isfinite(arbiter_error) & (difference <= arbiter_error)
    is_zero = (difference == 0) | ((scale == 0) & within_arbiter_error)
    return np.where(is_zero, 0.0, relative)


def needs_relative(values: ComparedValues, dtype: str) -> np.ndarray:
    """Which elements need an error relative to the derivative: the usual verdict allows more than half of their digits.

    They have to be normal numbers of the type. The comparison is negated, so that a scale of NaN counts too.
    """
    size = np.abs(values.arbiter)
    with np.errstate(invalid="ignore"):
        usual = TOLERANCES[dtype] * values.scale + values.narrow
        return (size >= float(jnp.finfo(dtype).tiny)) & ~(usual <= HALF_OF_DIGITS[dtype] * size)


def relative_values(
    values: ComparedValues, columns: np.ndarray, condition: Callable[[np.ndarray], np.ndarray], dtype: str = "float64"
) -> ComparedValues | None:
    """The values with the size of the derivative as their scale. Only elements that need this measure count.

    The arbiter has to know them. Returns None if there is no such element.

    Args:
        values: the values with the usual scale.
        columns: the elements of the leaf that the arbiter has computed.
        condition: ``condition(columns)``, how far rounding can move the derivatives by some elements. It matters only
            if an error is too large. Computing it takes as long as computing the derivative itself.
        dtype: the type in which the formula was computed.
    """
    size, allowed = np.abs(values.arbiter), HALF_OF_DIGITS[dtype]
    is_known = np.zeros(size.shape, bool)
    is_known[:, columns] = True
    with np.errstate(invalid="ignore"):
        counted = is_known & (values.arbiter_error <= allowed * size) & needs_relative(values, dtype)
        errors = [np.abs(found - values.arbiter) for found in (values.hand, values.automatic)]
        is_right = np.all([error <= allowed * size + values.narrow for error in errors], 0)
    also_allowed, doubtful = values.narrow.copy(), np.flatnonzero((counted & ~is_right).any(0))
    if len(doubtful):
        also_allowed[:, doubtful] += condition(doubtful)
    counted &= np.isfinite(also_allowed)
    return replace(values, scale=size, narrow=also_allowed).only_at(counted) if counted.any() else None
