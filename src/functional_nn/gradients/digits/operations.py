"""Rules for operations on real numbers: elementwise, reductions, data movement, and sums of products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.digits.numbers import NAMES, SPECIAL_BY_MPMATH, Arithmetic, Rule, Rules, Values, together
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import array_type

RULES = Rules()
MOVING = Rules()
"""Rules of data movement and of sums of products, which are the same for complex numbers."""
ZERO = np.zeros((), int)
HALF_TO_EVEN = 1
"""JAX's number for rounding halves to the even neighbor. Its other method rounds halves away from 0."""


def is_floating(array: jax.Array | np.ndarray | ShapedArray) -> bool:
    """Whether an array, or a shape and type, holds floating-point numbers."""
    return jnp.issubdtype(array.dtype, np.floating)


def gives_floating(equation: JaxprEqn) -> bool:
    return is_floating(array_type(equation.outvars[0]))


def maximum(a: Values, b: Values) -> Values:
    """The larger number; NaN if one of the two is NaN."""
    # If only b is NaN, both comparisons are false, and b is taken.
    return np.where((a > b) | (a != a), a, b)


def minimum(a: Values, b: Values) -> Values:
    """The smaller number; NaN if one of the two is NaN."""
    return np.where((a < b) | (a != a), a, b)


def absolute(x: Values) -> Values:
    return np.where(x < ZERO, -x, x)


def _by_numpy(function: Callable[..., Values]) -> Rule:
    return lambda arithmetic, equation, *operands: function(*operands)


def _by_arithmetic(name: str) -> Rule:
    return lambda arithmetic, equation, *operands: arithmetic.function(name)(*operands)


RULES |= {
    "add": _by_numpy(np.add),
    "add_any": _by_numpy(np.add),
    "sub": _by_numpy(np.subtract),
    "mul": _by_numpy(np.multiply),
    "square": _by_numpy(np.square),
    "neg": _by_numpy(np.negative),
    "and": _by_numpy(np.bitwise_and),
    "or": _by_numpy(np.bitwise_or),
    "xor": _by_numpy(np.bitwise_xor),
    "not": _by_numpy(np.invert),
    "eq": _by_numpy(np.equal),
    "ne": _by_numpy(np.not_equal),
    "lt": _by_numpy(np.less),
    "le": _by_numpy(np.less_equal),
    "gt": _by_numpy(np.greater),
    "ge": _by_numpy(np.greater_equal),
    "lt_to": _by_numpy(np.less),
    "le_to": _by_numpy(np.less_equal),
    "max": _by_numpy(maximum),
    "min": _by_numpy(minimum),
    "abs": _by_numpy(absolute),
}
RULES |= {name: _by_arithmetic(name) for name in (*NAMES, *SPECIAL_BY_MPMATH, "lgamma")}


@RULES.of("div")
def _div(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    if gives_floating(equation):
        return arithmetic.function("divide")(a, b)
    # Integers are divided toward 0. In a quotient by 0, XLA sets all bits, as in -1.
    quotient = np.abs(a) // np.abs(_without_zeros(b))
    return np.where(b == 0, ~np.zeros_like(a), np.where((a < 0) != (b < 0), -quotient, quotient))


@RULES.of("rem")
def _rem(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    """a - b trunc(a / b), with the sign of a. For integers and b = 0 it is a."""
    if not gives_floating(equation):
        return np.where(b == 0, a, np.fmod(a, _without_zeros(b)))
    remainder = a - b * _truncated(arithmetic, arithmetic.function("divide")(a, b))
    # A finite number is less than ±∞, so it is the remainder. The formula would give 0 · ∞.
    is_finite = arithmetic.function("is_finite")
    b_is_infinite = (b == b) & ~is_finite(b).astype(bool)
    return np.where(is_finite(a).astype(bool) & b_is_infinite, a, remainder)


def _without_zeros(divisor: Values) -> Values:
    """Integers with 1 in place of 0, since NumPy cannot divide by 0."""
    return np.where(divisor == 0, 1, divisor)


def _truncated(arithmetic: Arithmetic, x: Values) -> Values:
    return np.where(x < ZERO, arithmetic.function("ceil")(x), arithmetic.function("floor")(x))


@RULES.of("integer_pow")
def _integer_pow(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """Computes xⁿ by repeated squaring, with one step for each binary digit of n."""
    exponent = equation.params["y"]
    result = np.ones_like(x)
    for bit in f"{abs(exponent):b}":
        result = result * result * x if bit == "1" else result * result
    return result if exponent >= 0 else arithmetic.function("divide")(arithmetic.numbers(1), result)


@RULES.of("pow")
def _pow(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    exponent = b if is_floating(array_type(equation.invars[1])) else arithmetic.numbers(b)
    return arithmetic.function("power")(a, exponent)


@RULES.of("rsqrt")
def _rsqrt(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return arithmetic.function("divide")(arithmetic.numbers(1), arithmetic.function("sqrt")(x))


@RULES.of("cbrt")
def _cbrt(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """±e^{log|x| / 3}, and 0 at 0."""
    size = absolute(x)
    root = arithmetic.function("exp")(arithmetic.function("log")(size) / 3)
    return np.where(size == 0, x, np.where(x < ZERO, -root, root))


@RULES.of("exp2")
def _exp2(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """e^{x log 2}."""
    return arithmetic.function("exp")(x * arithmetic.function("log")(arithmetic.numbers(2)))


@RULES.of("logistic")
def _logistic(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """1 / (1 + e^{-x})."""
    one = arithmetic.numbers(1)
    return arithmetic.function("divide")(one, one + arithmetic.function("exp")(-x))


@RULES.of("polynomial")
def _polynomial(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, *coefficients: Values) -> Values:
    """c₀ + c₁ x + … + cₙ xⁿ by Horner's rule. JAX has this operation since version 0.12."""
    *others, result = coefficients
    for coefficient in reversed(others):
        result = result * x + coefficient
    return result


@RULES.of("clamp")
def _clamp(arithmetic: Arithmetic, equation: JaxprEqn, low: Values, x: Values, high: Values) -> Values:
    return minimum(maximum(x, low), high)


@RULES.of("sign")
def _sign(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    sign = (x > ZERO).astype(int) - (x < ZERO)
    if not gives_floating(equation):
        return sign
    return np.where(x != x, x, arithmetic.numbers(sign))


@RULES.of("round")
def _round(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """The nearest whole number; halves are rounded away from zero, or to the even neighbor."""
    floor, half = arithmetic.function("floor"), arithmetic.numbers(0.5)
    size = absolute(x)
    nearest = floor(size + half)
    if int(equation.params["rounding_method"]) == HALF_TO_EVEN:
        # A half was rounded up here. If that made an odd number, the even neighbor is the one below.
        is_odd = nearest - 2 * floor(nearest * half) == 1
        was_half = size + half == nearest
        nearest = np.where(was_half & is_odd, nearest - 1, nearest)
    return np.where(x < ZERO, -nearest, nearest)


@RULES.of("shift_left", "shift_right_logical", "shift_right_arithmetic")
def _shift(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, count: Values) -> Values:
    """Shifts the bits of integers with JAX."""
    # Only one of the two may have an axis of points: the one that depends on the leaf.
    operands = [jnp.asarray(operand) for operand in np.broadcast_arrays(x, count)]
    return np.asarray(bind(equation, operands)[0])


@RULES.of("bitcast_convert_type")
def _bitcast_convert_type(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """The bits of floating-point numbers as integers of the same size, for example to read the sign bit.

    The derivatives are 0, as for all integers. There is no rule for the other direction, from bits to numbers.
    """
    given, made = array_type(equation.invars[0]), array_type(equation.outvars[0])
    if gives_floating(equation) or given.dtype.itemsize != made.dtype.itemsize:
        remedy = "difference_jacobian takes any function."
        raise InputError("function", "bits of numbers as integers of the same size", made.str_short(), remedy)
    # Numbers of many digits have no bits of a type, so they are rounded to it first.
    rounded = x.astype(np.float64) if is_floating(given) else x
    return rounded.astype(given.dtype).view(made.dtype)


@RULES.of("is_finite")
def _is_finite(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return arithmetic.function("is_finite")(x).astype(bool)


@RULES.of("select_n")
def _select_n(arithmetic: Arithmetic, equation: JaxprEqn, which: Values, *cases: Values) -> Values:
    chosen = cases[0]
    for number, case in enumerate(cases[1:], 1):
        chosen = np.where(which == number, case, chosen)
    return chosen


@RULES.of("convert_element_type")
def _convert_element_type(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """Converts numbers to another type. Floating-point types lose no digits here; integers lose the fraction."""
    was_floating = is_floating(array_type(equation.invars[0]))
    if gives_floating(equation):
        return x if was_floating else arithmetic.numbers(x)
    dtype = array_type(equation.outvars[0]).dtype
    if not was_floating:
        return x.astype(dtype)
    if np.issubdtype(dtype, bool):
        return x != ZERO
    # As XLA does on a CPU: NaN becomes 0, and numbers outside of the type become its smallest or largest number.
    limits = np.iinfo(dtype)
    within = minimum(maximum(x, arithmetic.numbers(limits.min)), arithmetic.numbers(limits.max))
    return _truncated(arithmetic, np.where(x == x, within, ZERO)).astype(dtype)


@RULES.of("stop_gradient", "copy", "name", "reduce_precision", "optimization_barrier")
@RULES.of("sharding_constraint", "device_put", "pvary")
def _identity(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Returns the operands unchanged: nothing is rounded to fewer bits, and there is no gradient to stop."""
    return list(operands)


@RULES.of("debug_callback", "debug_print")
def _nothing(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Ignores a print: the numbers here have more digits than those of the program."""
    return []


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


@MOVING.of("reshape")
def _reshape(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return x.reshape(*array_type(equation.outvars[0]).shape, x.shape[-1])


@MOVING.of("squeeze")
def _squeeze(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.squeeze(x, equation.params["dimensions"])


@MOVING.of("transpose")
def _transpose(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.transpose(x, (*equation.params["permutation"], x.ndim - 1))


@MOVING.of("broadcast_in_dim")
def _broadcast_in_dim(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    # x.shape has one more axis than ``kept``: the points, which zip leaves out.
    for axis, size in zip(kept, x.shape, strict=False):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(*aligned, x.shape[-1]), (*shape, x.shape[-1]))


@MOVING.of("rev")
def _rev(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.flip(x, equation.params["dimensions"])


@MOVING.of("slice")
def _slice(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    start, stop = equation.params["start_indices"], equation.params["limit_indices"]
    return x[tuple(map(slice, start, stop, equation.params["strides"] or [1] * len(start)))]


@MOVING.of("concatenate")
def _concatenate(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> Values:
    return np.concatenate(together(*operands), equation.params["dimension"])


@MOVING.of("split")
def _split(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> list[Values]:
    return np.split(x, np.cumsum(equation.params["sizes"])[:-1], equation.params["axis"])


@MOVING.of("stack")
def _stack(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> Values:
    return np.stack(together(*operands), equation.params["axis"])


@MOVING.of("unstack")
def _unstack(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> list[Values]:
    return list(np.moveaxis(x, equation.params["axis"], 0))


@MOVING.of("tile")
def _tile(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.tile(x, (*equation.params["reps"], 1))


@MOVING.of("pad")
def _pad(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, filling: Values) -> Values:
    return _moved(equation, [x, filling], [])


@MOVING.of("dynamic_slice")
def _dynamic_slice(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, *starts: Values) -> Values:
    return _at_each_point(lambda starts, x: _moved(equation, [x], starts), starts, x)


@MOVING.of("dynamic_update_slice")
def _dynamic_update_slice(
    arithmetic: Arithmetic, equation: JaxprEqn, x: Values, update: Values, *starts: Values
) -> Values:
    return _at_each_point(lambda starts, *moved: _moved(equation, moved, starts), starts, x, update)


@MOVING.of("gather")
def _gather(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values) -> Values:
    filling = equation.params["fill_value"]
    if filling is None:
        filling = _default_filling(equation, x)
    outside = arithmetic.numbers(filling) if gives_floating(equation) else np.asarray(filling, x.dtype)
    outside = outside.reshape(1, 1)

    def gather(indices: Sequence[np.ndarray], x: Values) -> Values:
        # An index outside of x gets the position after the last element of x, where the element of ``outside`` is.
        return _moved(equation, [x, outside], indices, numbered=1, fill_value=x.size // x.shape[-1])

    return _at_each_point(gather, [indices], x)


def _default_filling(equation: JaxprEqn, x: Values) -> float:
    """The value that JAX's gather returns for an index outside of the array, if the equation gives no fill value."""
    if gives_floating(equation):
        return np.nan
    return 0 if x.dtype == bool else np.iinfo(x.dtype).min


@MOVING.of("scatter")
def _scatter(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values, updates: Values) -> Values:
    if equation.params["update_jaxpr"] is not None and equation.params["update_jaxpr"].eqns:
        remedy = "difference_jacobian takes any function."
        raise InputError("function", "updates that replace elements", "a function of the elements", remedy)

    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        return _moved(equation, [x, updates], indices, between=True)

    return _at_each_point(scatter, [indices], x, updates)


@MOVING.of("scatter-add", "scatter-sub", "scatter-mul", "scatter-max", "scatter-min")
def _scatter_combine(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values, updates: Values) -> Values:
    combine = {
        "scatter-add": np.add,
        "scatter-sub": np.subtract,
        "scatter-mul": np.multiply,
        "scatter-max": maximum,
        "scatter-min": minimum,
    }[equation.primitive.name]

    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        x, updates = together(x, updates)
        result = x.reshape(-1, x.shape[-1]).copy()
        targets = _targets(equation, x.shape[:-1], indices[0], updates.shape[:-1]).reshape(-1)
        # One update after the other, because several may change the same element.
        for target, update in zip(targets, updates.reshape(-1, x.shape[-1]), strict=True):
            if target >= 0:
                result[target] = combine(result[target], update)
        return result.reshape(x.shape)

    return _at_each_point(scatter, [indices], x, updates)


def _targets(equation: JaxprEqn, shape: Sequence[int], indices: np.ndarray, updates: Sequence[int]) -> np.ndarray:
    """Finds the flat position that a scatter writes each update to; -1 for an update that is not written.

    A gather with the same indices reads the elements that the scatter changes. Here it reads their positions.
    """
    numbers = equation.params["dimension_numbers"]
    # The updates lack some axes of the array: there one element is read. On all other axes, the size of the updates is
    # the number of elements that are read.
    single = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = iter(numbers.update_window_dims)
    sizes = [1 if axis in single else updates[next(window)] for axis in range(len(shape))]
    taken = lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )
    places = jnp.arange(int(np.prod(shape)), dtype=jnp.int32).reshape(shape)
    mode = equation.params["mode"]
    return np.asarray(lax.gather(places, jnp.asarray(indices), taken, sizes, mode=mode, fill_value=-1))


def _moved(
    equation: JaxprEqn,
    arrays: Sequence[Values],
    indices: Sequence[np.ndarray],
    *,
    numbered: int | None = None,
    between: bool = False,
    **changed: object,
) -> Values:
    """Moves the elements of arrays as the equation does.

    Args:
        equation: the operation.
        arrays: the arrays whose elements may be in the result.
        indices: further operands, which are passed on unchanged.
        numbered: the number of arrays that are operands; by default all of them. The other arrays are not operands: a
            parameter in ``changed`` refers to their elements by position.
        between: whether the indices come directly after the first operand; otherwise they come last.
        changed: parameters that replace those of the equation.
    """
    # All arrays are joined into one flat array. A position is an index into it.
    arrays = together(*arrays)
    flat = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    positions, start = [], 0
    for array in arrays[:numbered]:
        shape = array.shape[:-1]
        size = int(np.prod(shape))
        positions.append(jnp.arange(start, start + size, dtype=jnp.int32).reshape(shape))
        start += size
    given = [jnp.asarray(index) for index in indices]
    operands = [positions[0], *given, *positions[1:]] if between else [*positions, *given]
    # JAX moves the positions, and NumPy takes the elements at the moved positions, for all points at once.
    return flat[np.asarray(bind(equation, operands, **changed)[0])]


def _at_each_point(move: Callable[..., Values], indices: Sequence[np.ndarray], *arrays: Values) -> Values:
    """Calls ``move(indices, *arrays)`` once if the indices are equal at all points; otherwise once for each point."""
    indices = together(*indices)
    if all(np.all(index == index[..., :1]) for index in indices):
        return move([index[..., 0] for index in indices], *arrays)
    # Every point gets an array of its own, also of the arrays that are the same at all points.
    *varying, first = together(*arrays, indices[0])
    points = first.shape[-1]
    return np.concatenate(
        [
            move([index[..., at] for index in indices], *(array[..., at : at + 1] for array in varying))
            for at in range(points)
        ],
        -1,
    )


def multiplied(a: Values, b: Values) -> Values:
    """Multiplies matrices of shapes (batch, m, k, points) and (batch, k, n, points)."""
    return np.moveaxis(np.matmul(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)), 0, -1)


@MOVING.of("dot_general")
def _dot_general(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    (contracted_a, contracted_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    free_a = [axis for axis in range(a.ndim - 1) if axis not in (*contracted_a, *batch_a)]
    free_b = [axis for axis in range(b.ndim - 1) if axis not in (*contracted_b, *batch_b)]

    def grouped(x: Values, *groups: list[int]) -> Values:
        sizes = [int(np.prod([x.shape[axis] for axis in group])) for group in groups]
        order = [axis for group in groups for axis in group]
        return np.transpose(x, (*order, x.ndim - 1)).reshape(*sizes, x.shape[-1])

    # (batch, free, contracted, points) times (batch, contracted, free, points). The axes of the result that JAX
    # specifies have the same order: the batch, the free axes of a, the free axes of b.
    product = multiplied(
        grouped(a, list(batch_a), free_a, list(contracted_a)), grouped(b, list(batch_b), list(contracted_b), free_b)
    )
    return product.reshape(*array_type(equation.outvars[0]).shape, product.shape[-1])


@MOVING.of("conv_general_dilated")
def _conv_general_dilated(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, kernel: Values) -> Values:
    parameters = equation.params
    if parameters["batch_group_count"] != 1:
        remedy = "difference_jacobian takes any function."
        raise InputError("function", "convolutions with batch_group_count 1", parameters["batch_group_count"], remedy)
    groups = parameters["feature_group_count"]
    # Both arrays get JAX's usual order of axes: (batch, channels, *sizes) and (out, in, *sizes).
    x_axes, kernel_axes, y_axes = parameters["dimension_numbers"]
    x = np.transpose(x, (*x_axes, x.ndim - 1))
    kernel = np.transpose(kernel, (*kernel_axes, kernel.ndim - 1))
    out_size, in_size, *sizes = kernel.shape[:-1]
    # Each window becomes a row of one matrix. The weights of each group become another matrix.
    found = windows(
        x,
        arithmetic.numbers(0.0),
        sizes=sizes,
        strides=parameters["window_strides"],
        padding=parameters["padding"],
        base_dilation=parameters["lhs_dilation"],
        window_dilation=parameters["rhs_dilation"],
    )
    batch, places = x.shape[0], found.shape[2 : 2 + len(sizes)]
    # From (batch, channels, *places, *sizes, points) to (groups, batch · places, in · sizes, points).
    found = found.reshape(batch, groups, in_size, int(np.prod(places)), -1, x.shape[-1])
    found = np.transpose(found, (1, 0, 3, 2, 4, 5)).reshape(groups, -1, in_size * int(np.prod(sizes)), x.shape[-1])
    # (groups, in · sizes, out / groups, points).
    kernel = kernel.reshape(groups, out_size // groups, -1, kernel.shape[-1]).swapaxes(1, 2)
    product = multiplied(found, kernel)
    # The outputs of the groups are joined along the channels. Then the axes get the order that the equation specifies:
    # ``argsort`` inverts the permutation ``y_axes``.
    product = product.reshape(groups, batch, -1, out_size // groups, product.shape[-1])
    y = np.transpose(product, (1, 0, 3, 2, 4)).reshape(batch, out_size, *places, product.shape[-1])
    return np.transpose(y, (*np.argsort(y_axes), y.ndim - 1))
