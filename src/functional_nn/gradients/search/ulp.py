"""Errors of arrays in units in the last place (ULP) of the exact numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from functional_nn.gradients.search.exact import ExactNumbers


class Errors(NamedTuple):
    """The errors of computed numbers. NaN where the exact number is not known.

    Args:
        ulp: |computed - exact| in units in the last place of the exact number.
        relative: |computed - exact| / |exact|.
    """

    ulp: np.ndarray
    relative: np.ndarray


@np.errstate(all="ignore")
def errors(computed: np.ndarray, exact: ExactNumbers, dtype: np.dtype) -> Errors:
    """Measures the errors of computed numbers.

    The unit is one in the last place of the exact number, but at least the smallest normal number, because XLA on the
    CPU replaces smaller results of every operation by 0. Above the largest number, infinity is right. If the exact
    number is close to the largest one, infinity counts as the next power of two: a sum that overflows only because of
    rounding is not infinitely wrong.
    """
    limits = np.finfo(dtype)
    smallest, largest, epsilon = float(limits.smallest_normal), float(limits.max), float(limits.eps)
    found, high, low = computed.astype(np.float64), exact.high, exact.low
    _, exponent = np.frexp(np.clip(np.abs(high), smallest, largest))
    # frexp gives |x| = m 2ᵉ with ½ ≤ m < 1. There, the distance of neighboring numbers is ε 2ᵉ⁻¹.
    # All numbers are divided by 4, so that the power of two above the largest float64 can be represented.
    unit = np.maximum(np.ldexp(epsilon, exponent - 1), smallest) / 4
    same_sign = np.sign(found) == np.sign(high)
    nearly_overflows = np.isinf(found) & same_sign & (np.abs(high) > largest / 2)
    quarter = np.where(nearly_overflows, np.sign(high) * 2.0 ** (int(limits.maxexp) - 2), found / 4)
    # First the large parts, which nearly cancel and so leave no rounding error; then the small remainder.
    distance = np.abs((quarter - high / 4) - low / 4)
    distance = np.where(np.isinf(found) & same_sign & (np.abs(high) > largest), 0, distance)
    distance = np.where(np.isnan(found), np.inf, distance)
    size = np.maximum(np.abs(high), smallest) / 4
    unknown = np.isnan(high)
    return Errors(*(np.where(unknown, np.nan, distance / scale) for scale in (unit, size)))
