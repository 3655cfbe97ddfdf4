"""Rules for sums, products, extremes, running totals, order and windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import numpy as np

from functional_nn.gradients.multiprecision.elementwise import is_floating, maximum, minimum
from functional_nn.gradients.multiprecision.rules import Arithmetic, Rules, Values, together

COMPUTING = Rules()
CHOOSING = Rules()
EXTREMES = {"max": maximum, "min": minimum}


def _over(ufunc: Any) -> Callable[..., Any]:
    def rule(arithmetic, equation, x):
        axes, aval = equation.params["axes"], equation.outvars[0].aval
        return ufunc.reduce(x, axis=axes) if is_floating(aval) else ufunc.reduce(x, axis=axes, dtype=aval.dtype)

    return rule


for name, ufunc in {"reduce_sum": np.add, "reduce_prod": np.multiply}.items():
    COMPUTING.of(name)(_over(ufunc))
for name, ufunc in {**{"reduce_and": np.bitwise_and, "reduce_or": np.bitwise_or, "reduce_xor": np.bitwise_xor}}.items():
    CHOOSING.of(name)(_over(ufunc))


def _slices(x: Values, axes: Sequence[int]) -> Values:
    """The axes that a reduction goes over as one, in front."""
    moved = np.moveaxis(x, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


def _extreme(choose: Callable[..., Values]) -> Callable[..., Any]:
    return lambda arithmetic, equation, x: reduce(partial(choose, arithmetic), _slices(x, equation.params["axes"]))


def _place(choose: Callable[..., Values]) -> Callable[..., Any]:
    def rule(arithmetic, equation, x):
        """The first place where the extreme is."""
        slices = _slices(x, equation.params["axes"])
        found = arithmetic.compare(np.equal, slices, reduce(partial(choose, arithmetic), slices))
        return np.argmax(found, 0).astype(equation.params["index_dtype"])

    return rule


def _running(combine: Callable[..., Values]) -> Callable[..., Any]:
    def rule(arithmetic, equation, x):
        axis, reverse = equation.params["axis"], equation.params["reverse"]
        slices = np.moveaxis(x, axis, 0)
        totals = np.stack(list(accumulate(slices[::-1] if reverse else slices, partial(combine, arithmetic))))
        return np.moveaxis(totals[::-1] if reverse else totals, 0, axis)

    return rule


def _log_add_exp(arithmetic: Arithmetic, a: Values, b: Values) -> Values:
    """log(e^a + e^b), with the larger taken out."""
    larger, smaller = maximum(arithmetic, a, b), minimum(arithmetic, a, b)
    return larger + arithmetic.function("log1p")(arithmetic.function("exp")(smaller - larger))


for name, choose in EXTREMES.items():
    CHOOSING.of(f"reduce_{name}")(_extreme(choose))
    CHOOSING.of(f"arg{name}")(_place(choose))
    CHOOSING.of(f"cum{name}")(_running(choose))
COMPUTING.of("cumsum")(_running(lambda arithmetic, a, b: a + b))
COMPUTING.of("cumprod")(_running(lambda arithmetic, a, b: a * b))
COMPUTING.of("cumlogsumexp")(_running(_log_add_exp))


@CHOOSING.of("sort")
def _sort(arithmetic, equation, *operands):
    axis, keys = equation.params["dimension"], equation.params["num_keys"]
    operands = together(*operands)
    shape = operands[0].shape
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    order = np.broadcast_to(along, shape)
    for key in operands[keys - 1 :: -1]:
        again = np.argsort(arithmetic.order(np.take_along_axis(key, order, axis)), axis, kind="stable")
        order = np.take_along_axis(order, again, axis)
    ordered = [np.take_along_axis(operand, order, axis) for operand in operands]
    _compare_neighbors(arithmetic, ordered[0], axis)
    return ordered


@CHOOSING.of("top_k")
def _top_k(arithmetic, equation, x):
    axis, k = equation.params.get("axis", -1) % (x.ndim - 1), equation.params["k"]
    order = np.argsort(arithmetic.order(-x), axis, kind="stable")
    ordered = np.take_along_axis(x, order, axis)
    _compare_neighbors(arithmetic, ordered, axis)
    return [np.take(array, np.arange(k), axis) for array in (ordered, order.astype(np.int32))]


def _compare_neighbors(arithmetic: Arithmetic, ordered: Values, axis: int) -> None:
    """Lets the arithmetic see the ties."""
    slices = np.moveaxis(ordered, axis, 0)
    arithmetic.compare(np.equal, slices[1:], slices[:-1])


def windows(
    x: Values,
    filling: Any,
    *,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Values:
    """The windows over the last axes but the points: (…, \\*places, \\*sizes, points), ``filling`` beyond the ends."""
    count = len(sizes)
    first = x.ndim - 1 - count
    filling = np.asarray(filling, x.dtype)
    for i in range(count):
        axis = first + 2 * i
        length = x.shape[axis]
        low, high = padding[i]
        reach = (sizes[i] - 1) * window_dilation[i] + 1
        dilated = max((length - 1) * base_dilation[i] + 1, 0)
        starts = np.arange(0, dilated + low + high - reach + 1, strides[i]) - low
        places = starts[:, None] + np.arange(sizes[i]) * window_dilation[i]
        inside = (places >= 0) & (places < dilated) & (places % base_dilation[i] == 0)
        edge = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), filling, x.dtype)
        x = np.take(np.concatenate([x, edge], axis), np.where(inside, places // base_dilation[i], length), axis)
    return np.moveaxis(x, range(first + 1, first + 2 * count, 2), range(first + count, first + 2 * count))


def _window_reduction(combine: Callable[..., Values], start: float) -> Callable[..., Any]:
    def rule(arithmetic, equation, x):
        p = equation.params
        found = windows(
            x,
            arithmetic.numbers(start) if is_floating(equation.outvars[0].aval) else _least(x.dtype, start),
            sizes=p["window_dimensions"],
            strides=p["window_strides"],
            padding=p["padding"],
            base_dilation=p["base_dilation"],
            window_dilation=p["window_dilation"],
        )
        count = len(p["window_dimensions"])
        return reduce(partial(combine, arithmetic), _slices(found, range(count, 2 * count)))

    return rule


def _least(dtype: Any, start: float) -> Any:
    return 0 if start == 0 else np.iinfo(dtype).min if start < 0 else np.iinfo(dtype).max


COMPUTING.of("reduce_window_sum")(_window_reduction(lambda arithmetic, a, b: a + b, 0.0))
CHOOSING.of("reduce_window_max")(_window_reduction(maximum, -np.inf))
CHOOSING.of("reduce_window_min")(_window_reduction(minimum, np.inf))
