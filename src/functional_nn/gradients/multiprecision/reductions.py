"""Rules for sums, products, maxima, minima, cumulative reductions, sorting and windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.multiprecision.elementwise import ZERO, gives_floating, maximum, minimum
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.rules import Rule, Rules, Values, together
from functional_nn.jaxprs.walk import array_type

RULES = Rules()

Combine: TypeAlias = Callable[[Values, Values], Values]
"""Combines two arrays elementwise, for example by their sum, their product or their maximum."""


def _reduction(ufunc: np.ufunc) -> Rule:
    """Makes the rule for a reduction by a NumPy ufunc."""

    def rule(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
        # NumPy would add small integers in int64. JAX keeps their type, in which sums wrap around.
        dtype = object if x.dtype == object else array_type(equation.outvars[0]).dtype
        return ufunc.reduce(x, axis=equation.params["axes"], dtype=dtype)

    return rule


def _slices(x: Values, axes: Sequence[int]) -> Values:
    """Joins the reduced axes into one axis, and moves it to the front."""
    moved = np.moveaxis(x, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


def _extreme(choose: Combine) -> Rule:
    """Makes the rule for a maximum or minimum."""
    return lambda arithmetic, equation, x: reduce(choose, _slices(x, equation.params["axes"]))


def _place_of_extreme(choose: Combine) -> Rule:
    """Makes the rule for the first index of a maximum or minimum, or of NaN if there is one."""

    def rule(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
        slices = _slices(x, equation.params["axes"])
        found = (slices == reduce(choose, slices)) | (slices != slices)
        return np.argmax(found, 0).astype(equation.params["index_dtype"])

    return rule


def _running(combine: Callable[[Arithmetic], Combine]) -> Rule:
    """Makes the rule for a cumulative reduction, such as a cumulative sum."""

    def rule(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
        axis, reverse = equation.params["axis"], equation.params["reverse"]
        slices = np.moveaxis(x, axis, 0)
        totals = np.stack(list(accumulate(slices[::-1] if reverse else slices, combine(arithmetic))))
        return np.moveaxis(totals[::-1] if reverse else totals, 0, axis)

    return rule


def _log_add_exp(arithmetic: Arithmetic) -> Combine:
    """log(e^a + e^b) = a + log(1 + e^{b - a}), where a is the larger number."""

    def combine(a: Values, b: Values) -> Values:
        larger, smaller = maximum(a, b), minimum(a, b)
        # -∞ - (-∞) would be NaN.
        difference = np.where(smaller == larger, ZERO, smaller - larger)
        return larger + arithmetic.function("log1p")(arithmetic.function("exp")(difference))

    return combine


RULES |= {
    "reduce_sum": _reduction(np.add),
    "reduce_prod": _reduction(np.multiply),
    "reduce_and": _reduction(np.bitwise_and),
    "reduce_or": _reduction(np.bitwise_or),
    "reduce_xor": _reduction(np.bitwise_xor),
    "reduce_max": _extreme(maximum),
    "reduce_min": _extreme(minimum),
    "argmax": _place_of_extreme(maximum),
    "argmin": _place_of_extreme(minimum),
    "cummax": _running(lambda arithmetic: maximum),
    "cummin": _running(lambda arithmetic: minimum),
    "cumsum": _running(lambda arithmetic: np.add),
    "cumprod": _running(lambda arithmetic: np.multiply),
    "cumlogsumexp": _running(_log_add_exp),
}


@RULES.of("sort")
def _sort(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Sorts all operands by the first ``num_keys`` of them."""
    axis, keys = equation.params["dimension"], equation.params["num_keys"]
    operands = tuple(together(*operands))
    order = _ascending(operands[:keys], axis)
    return [np.take_along_axis(operand, order, axis) for operand in operands]


@RULES.of("top_k")
def _top_k(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> list[Values]:
    """Returns the k largest numbers and their indices. NaN counts as the largest, and of equal numbers the first."""
    axis, k = equation.params.get("axis", -1) % (x.ndim - 1), equation.params["k"]
    # The array is turned around before and after sorting: -x would wrap for unsigned integers.
    order = x.shape[axis] - 1 - np.flip(_ascending([np.flip(x, axis)], axis), axis)
    ordered = np.take_along_axis(x, order, axis)
    return [np.take(array, np.arange(k), axis) for array in (ordered, order.astype(np.int32))]


def _ascending(keys: Sequence[Values], axis: int) -> Values:
    """The indices that sort by the first key, then by the next ones. Equal numbers keep their order; NaN is last."""
    shape = keys[0].shape
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    order = np.broadcast_to(along, shape)
    # The sorts are stable and the last key comes first. So the first key has priority.
    for key in reversed(keys):
        is_nan = key != key
        comparable = key.copy()
        comparable[is_nan] = 0
        for values in (comparable, is_nan):
            again = np.argsort(np.take_along_axis(values, order, axis), axis, kind="stable")
            order = np.take_along_axis(order, again, axis)
    return order


def windows(
    x: Values,
    filling: np.ndarray,
    *,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Values:
    """Cuts windows out of the last axes before the points. The result has shape (…, \\*places, \\*sizes, points).

    Elements of a window that lie outside of the array, or in a hole of the dilation, have the value ``filling``.
    """
    count = len(sizes)
    first = x.ndim - 1 - count
    filling = np.asarray(filling, x.dtype)
    for i in range(count):
        # Each earlier axis has become two: (places, sizes).
        axis = first + 2 * i
        length = x.shape[axis]
        low, high = padding[i]
        # The length of a window with its gaps, and of the array with the holes between its elements.
        reach = (sizes[i] - 1) * window_dilation[i] + 1
        dilated = max((length - 1) * base_dilation[i] + 1, 0)
        starts = np.arange(0, dilated + low + high - reach + 1, strides[i]) - low
        # (windows, elements of a window): positions in the array with holes. The padding lies outside of it.
        places = starts[:, None] + np.arange(sizes[i]) * window_dilation[i]
        inside = (places >= 0) & (places < dilated) & (places % base_dilation[i] == 0)
        # One more element, at the index ``length``, holds the filling.
        edge = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), filling, x.dtype)
        x = np.take(np.concatenate([x, edge], axis), np.where(inside, places // base_dilation[i], length), axis)
    # From (…, place, size, place, size, …) to all places, then all sizes.
    return np.moveaxis(x, range(first + 1, first + 2 * count, 2), range(first + count, first + 2 * count))


def _window_reduction(combine: Combine, start: float) -> Rule:
    """Makes the rule for a reduction of every window. The padding has the neutral value ``start``."""

    def rule(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
        parameters = equation.params
        found = windows(
            x,
            arithmetic.numbers(start) if gives_floating(equation) else _least(x.dtype, start),
            sizes=parameters["window_dimensions"],
            strides=parameters["window_strides"],
            padding=parameters["padding"],
            base_dilation=parameters["base_dilation"],
            window_dilation=parameters["window_dilation"],
        )
        count = len(parameters["window_dimensions"])
        return reduce(combine, _slices(found, range(count, 2 * count)))

    return rule


def _least(dtype: np.dtype, start: float) -> np.ndarray:
    """Converts ``start`` to an integer. An infinity becomes the smallest or largest integer of the type."""
    if start == 0:
        return np.asarray(0)
    return np.asarray(np.iinfo(dtype).min if start < 0 else np.iinfo(dtype).max)


RULES |= {
    "reduce_window_sum": _window_reduction(np.add, 0.0),
    "reduce_window_max": _window_reduction(maximum, -np.inf),
    "reduce_window_min": _window_reduction(minimum, np.inf),
}
