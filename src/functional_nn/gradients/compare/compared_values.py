"""Values of one derivative from three sources, their errors, and the verdict at the worst element."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from functional_nn.gradients.compare.problem import Array
from functional_nn.gradients.compare.verdict import Verdict, judge

NO_ERROR = np.zeros(())


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
    """

    hand: np.ndarray
    automatic: np.ndarray
    arbiter: np.ndarray
    arbiter_error: np.ndarray
    scale: np.ndarray
    underflow: float

    def along(self, direction: np.ndarray, automatic: np.ndarray) -> ComparedValues:
        """Multiplies these Jacobians by a direction. The product by automatic differentiation is given."""
        size = np.abs(direction)
        arbiter, error = self.arbiter @ direction, self.arbiter_error @ size
        underflow = self.underflow * max(1.0, float(size.sum()))
        return ComparedValues(self.hand @ direction, automatic, arbiter, error, self.scale @ size, underflow)

    def pulled_back(self, y_bar: np.ndarray, hand: np.ndarray, automatic: np.ndarray) -> ComparedValues:
        """Multiplies a cotangent by these Jacobians. The products by the formula and by automatic differentiation,
        (1, columns), are given.
        """
        size = np.abs(y_bar)[None]
        arbiter, error = y_bar[None] @ self.arbiter, size @ self.arbiter_error
        underflow = self.underflow * max(1.0, float(size.sum()))
        return ComparedValues(hand, automatic, arbiter, error, size @ self.scale, underflow)

    def with_usable_scale(self) -> ComparedValues:
        """Replaces the scale by the size of the derivative where the scale is not finite, or smaller than that.

        The scale comes from automatic differentiation. It is infinite where a term overflows, and NaN where
        automatic differentiation gives NaN. Divided by infinity, every error would be 0. A sum is never larger than
        the sum of its terms' sizes. So if the scale is much smaller, automatic differentiation has missed a term.
        """
        size = np.abs(self.arbiter)
        return replace(self, scale=usable_scale(self.scale, size, self.arbiter_error < size))

    def largest_rounding(self) -> float:
        """The largest relative error of the formula in elements that the arbiter knows."""
        with np.errstate(all="ignore"):
            relative = np.abs(self.hand - self.arbiter) / np.abs(self.arbiter)
        is_known = np.isfinite(relative) & (self.arbiter_error <= np.abs(self.arbiter))
        return float(np.max(relative, where=is_known, initial=0))

    def only_at(self, counted: np.ndarray, scale: np.ndarray) -> ComparedValues:
        """Replaces the scale. Only the chosen elements are compared; all others get an error of 0."""
        return ComparedValues(
            np.where(counted, self.hand, self.arbiter),
            np.where(counted, self.automatic, self.arbiter),
            self.arbiter,
            np.where(counted, self.arbiter_error, 0.0),
            np.where(counted, scale, 1.0),
            self.underflow,
        )

    @np.errstate(invalid="ignore")
    def verdict(self, template: Verdict) -> tuple[Verdict, tuple[int, ...]]:
        """The verdict at the worst element of the formula, and the index of that element.

        Certain failures come before doubtful ones.

        Args:
            template: a verdict with the fields that are already known, such as the subject, the leaf and the tolerance.
        """
        hand_error, automatic_error = (
            self._relative(np.where(found == self.arbiter, 0.0, found - self.arbiter))  # also where both are infinite
            for found in (self.hand, self.automatic)
        )
        arbiter_error = self._relative(self.arbiter_error)
        if not hand_error.size:
            return replace(template, note="It has no elements."), ()
        is_unknown = np.isnan(self.arbiter)
        hand_error, arbiter_error = (np.where(is_unknown, np.inf, errors) for errors in (hand_error, arbiter_error))
        # An element that the arbiter does not know says nothing about automatic differentiation.
        known_errors = np.where(np.isfinite(arbiter_error), np.nan_to_num(automatic_error, nan=np.inf), 0.0)
        # The true error lies between these two. NaN counts as an infinite error. At a kink, nothing is certain.
        least = np.where(np.isinf(arbiter_error), -np.inf, hand_error - arbiter_error)
        least = np.where(np.isnan(hand_error), np.inf, least)
        most = np.nan_to_num(hand_error + arbiter_error, nan=np.inf)
        at = np.unravel_index(np.argmax(least if np.max(least) > template.tolerance else most), hand_error.shape)
        verdict = replace(
            template,
            outcome=judge(float(hand_error[at]), float(arbiter_error[at]), template.tolerance),
            error=float(hand_error[at]),
            automatic_error=float(np.max(known_errors)),
            reference_error=float(arbiter_error[at]),
            hand=float(self.hand[at]),
            automatic=float(self.automatic[at]),
            arbiter=float(self.arbiter[at]),
        )
        return verdict, tuple(map(int, at))

    def _relative(self, difference: np.ndarray) -> np.ndarray:
        """Differences in units of the scale; 0 for those that are no larger than an underflow."""
        is_underflow = np.abs(difference) <= self.underflow
        return np.where(is_underflow, 0.0, relative_error(difference, self.scale, self.arbiter_error))


def usable_scale(scale: Array, size: Array, is_known: bool | np.ndarray = True) -> np.ndarray:
    """Where ``is_known``, the larger of scale and size. Where the scale is not finite, the size."""
    return np.where(np.isfinite(scale), np.where(is_known, np.fmax(scale, size), scale), size)


def relative_error(difference: Array, scale: Array, arbiter_error: Array = NO_ERROR) -> np.ndarray:
    """|difference| / scale. If the scale is 0, the result is infinite, or 0 within the arbiter's error."""
    with np.errstate(all="ignore"):
        difference = np.abs(difference)
        relative = difference / scale
    within_arbiter_error = np.isfinite(arbiter_error) & (difference <= arbiter_error)
    is_zero = (difference == 0) | ((scale == 0) & within_arbiter_error)
    return np.where(is_zero, 0.0, relative)
