"""One table of rules for operations: elementwise, reductions, data movement, sums of products, Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.digits.numbers import Rule, Values, as_numbers, functions, gmpy2, together
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import array_type

MOVED_BY_JAX = ("concatenate", "pad", "rev", "slice", "split", "stack", "tile", "unstack")
"""Operations that move elements to places that do not depend on any number."""


def is_floating(array: jax.Array | np.ndarray | ShapedArray) -> bool:
    """Whether an array, or a shape and type, holds floating-point or complex numbers."""
    return jnp.issubdtype(array.dtype, np.inexact)


def is_complex(array: jax.Array | np.ndarray | ShapedArray) -> bool:
    return jnp.issubdtype(array.dtype, np.complexfloating)


def gives_complex(equation: JaxprEqn) -> bool:
    return is_complex(array_type(equation.outvars[0]))


def is_discrete(equation: JaxprEqn) -> bool:
    """Whether an equation computes with integers and booleans only."""
    types = [array_type(variable).dtype for variable in (*equation.invars, *equation.outvars)]
    return all(jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_) for dtype in types)


def by_jax(equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Computes with integers and booleans by JAX itself, at each point."""
    with jax.enable_x64(True):
        found = jax.vmap(lambda *x: bind(equation, x), -1, -1)(*map(jnp.asarray, together(*operands)))
        return list(map(np.asarray, found))


def no_rule(expected: str, got: object) -> InputError:
    """The error for an operation that cannot be computed in many digits."""
    return InputError("function", expected, got, "difference_jacobian takes any function.")


def _elementwise(function: Callable[..., object]) -> np.ufunc:
    """Makes a function of two numbers one of arrays, which can also be reduced and accumulated along axes."""
    return np.frompyfunc(function, 2, 1, identity=None)


# If only b is NaN, both comparisons are false, and b is taken.
maximum = _elementwise(lambda a, b: a if a > b or a != a else b)
minimum = _elementwise(lambda a, b: a if a < b or a != a else b)


@_elementwise
def log_add_exp(a: Any, b: Any) -> Any:
    """log(e^a + e^b) = a + log(1 + e^{b - a}), where a is the larger number."""
    difference = 0 if a == b else -abs(a - b)  # -∞ - (-∞) would be NaN
    return max(a, b) + gmpy2.log1p(gmpy2.exp(difference))


ROUNDED = np.frompyfunc(gmpy2.rint_round, 1, 1), np.frompyfunc(gmpy2.rint, 1, 1)
"""The nearest whole number, by JAX's number of the method: halves away from zero, or to the even neighbor."""
TRUNCATED = np.frompyfunc(gmpy2.rint_trunc, 1, 1)


def _unchanged(equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Returns the operands: nothing is rounded to fewer bits, and there is no gradient to stop."""
    return list(operands)


def _of_operands(function: Callable[..., Values]) -> Rule:
    return lambda equation, *operands: function(*operands)


def _as_complex(x: Values) -> Values:
    return functions.complex(functions.real(x), functions.imag(x))


def _reshaped(equation: JaxprEqn, x: Values) -> Values:
    return x.reshape(*array_type(equation.outvars[0]).shape, x.shape[-1])


def _pow(equation: JaxprEqn, a: Values, b: Values) -> Values:
    if gives_complex(equation):
        # 0 to a complex power is NaN in JAX.
        a = np.where(a == 0, as_numbers(np.nan), a)
    return a ** (b if is_floating(array_type(equation.invars[1])) else as_numbers(b))


def _sign(equation: JaxprEqn, x: Values) -> Values:
    """-1, 0 or 1; for a complex number z / |z|, and 0 at 0."""
    if gives_complex(equation):
        size = np.abs(x)
        return x / np.where(size == 0, as_numbers(1), size)
    return np.where(x != x, x, as_numbers((x > 0).astype(int) - (x < 0)))


def _bitcast_convert_type(equation: JaxprEqn, x: Values) -> Values:
    """The bits of floating-point numbers as integers of the same size, for example to read the sign bit.

    The derivatives are 0, as for all integers. There is no rule for the other direction, from bits to numbers.
    """
    given, made = array_type(equation.invars[0]), array_type(equation.outvars[0])
    if is_floating(made) or given.dtype.itemsize != made.dtype.itemsize:
        raise no_rule("bits of numbers as integers of the same size", made.str_short())
    # Numbers of many digits have no bits of a type, so they are rounded to it first.
    return x.astype(np.float64).astype(given.dtype).view(made.dtype)


def _convert_element_type(equation: JaxprEqn, x: Values) -> Values:
    """Converts numbers to another type. Floating-point types lose no digits here; integers lose the fraction."""
    given, made = array_type(equation.invars[0]), array_type(equation.outvars[0])
    if is_complex(given) and not is_complex(made):
        x = functions.real(x)
    if is_floating(made):
        x = x if is_floating(given) else as_numbers(x)
        return _as_complex(x) if is_complex(made) else x
    if made.dtype == bool:
        return x != 0
    # As XLA does on a CPU: NaN becomes 0, and numbers outside of the type become its smallest or largest number.
    limits = np.iinfo(made.dtype)
    within = minimum(maximum(x, as_numbers(limits.min)), as_numbers(limits.max))
    return TRUNCATED(np.where(x == x, within, 0)).astype(made.dtype)


COMBINING = {"sum": np.add, "prod": np.multiply, "max": maximum, "min": minimum, "logsumexp": log_add_exp}
"""What reductions combine two numbers by, by the end of their names."""
NEUTRAL = {np.add: 0.0, maximum: -np.inf, minimum: np.inf}
"""The value of the padding, which changes no reduction of a window."""


def _combining(equation: JaxprEqn) -> np.ufunc:
    return next(combine for end, combine in COMBINING.items() if equation.primitive.name.endswith(end))


def _reduction(equation: JaxprEqn, x: Values) -> Values:
    return _combining(equation).reduce(x, equation.params["axes"])


def _place_of_extreme(equation: JaxprEqn, x: Values) -> Values:
    """The first index of a maximum or minimum, or of NaN if there is one."""
    (axis,) = equation.params["axes"]
    found = (x == _combining(equation).reduce(x, axis, keepdims=True)) | (x != x)
    return np.argmax(found, axis).astype(equation.params["index_dtype"])


def _running(equation: JaxprEqn, x: Values) -> Values:
    """A cumulative reduction, such as a cumulative sum."""
    axis = equation.params["axis"]
    turned = np.flip if equation.params["reverse"] else lambda x, axis: x
    return turned(_combining(equation).accumulate(turned(x, axis), axis), axis)


def _window_reduction(equation: JaxprEqn, x: Values) -> Values:
    """A reduction of every window."""
    combine, places = _combining(equation), ("window_strides", "padding", "base_dilation", "window_dilation")
    sizes, how = equation.params["window_dimensions"], (equation.params[name] for name in places)
    return combine.reduce(windows(x[None], as_numbers(NEUTRAL[combine]), sizes, *how)[0])


def windows(x: Values, filling: np.ndarray, sizes: Sequence[int], *how: Any) -> Values:
    """Cuts windows out of all axes between the first and the points: (first, elements of a window, \\*places, points).

    Elements of a window that lie outside of the array, or in a hole of the dilation, have the value ``filling``. After
    the sizes of the windows come the strides, the padding, and the dilations of the array and of the windows.
    """
    first, *shape, points = x.shape
    # JAX cuts the windows out of an array of positions, in which 0 stands for the filling.
    positions = 1 + jnp.arange(first * prod(shape), dtype=jnp.float32).reshape(first, 1, *shape)
    found = lax.conv_general_dilated_patches(positions, sizes, *how, precision=lax.Precision.HIGHEST)
    edge = np.broadcast_to(np.asarray(filling, x.dtype), (1, points))
    return np.concatenate([edge, x.reshape(-1, points)])[np.asarray(found, int)]


def _sort(equation: JaxprEqn, *operands: Values) -> list[Values]:
    """Sorts all operands by the first ``num_keys`` of them."""
    axis, keys = equation.params["dimension"], equation.params["num_keys"]
    operands = tuple(together(*operands))
    order = _ascending(operands[:keys], axis)
    return [np.take_along_axis(operand, order, axis) for operand in operands]


def _top_k(equation: JaxprEqn, x: Values) -> list[Values]:
    """Returns the k largest numbers and their indices. NaN counts as the largest, and of equal numbers the first."""
    axis, k = equation.params.get("axis", -1) % (x.ndim - 1), equation.params["k"]
    # The array is turned around before and after sorting: -x would wrap for unsigned integers.
    order = x.shape[axis] - 1 - np.flip(_ascending([np.flip(x, axis)], axis), axis)
    ordered = np.take_along_axis(x, order, axis)
    return [np.take(array, np.arange(k), axis) for array in (ordered, order.astype(np.int32))]


def _ascending(keys: Sequence[Values], axis: int) -> Values:
    """The indices that sort by the first key, then by the next ones. Equal numbers keep their order; NaN is last."""
    by_priority: list[Values] = []  # NumPy takes the last one first
    for key in reversed(keys):
        is_nan = key != key
        by_priority += [np.where(is_nan, 0, key), is_nan]
    return np.lexsort(by_priority, axis)


def _broadcast_in_dim(equation: JaxprEqn, x: Values) -> Values:
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    added = [axis for axis in range(len(shape)) if axis not in kept]
    return np.broadcast_to(np.expand_dims(x, added), (*shape, x.shape[-1]))


def _dynamic_slice(equation: JaxprEqn, *operands: Values) -> Values:
    count = 1 if equation.primitive.name == "dynamic_slice" else 2
    return _at_each_point(lambda starts, *x: _moved(equation, x, starts)[0], operands[count:], *operands[:count])


def _gather(equation: JaxprEqn, x: Values, indices: Values) -> Values:
    filling = equation.params["fill_value"]
    outside = as_numbers(np.nan if filling is None else filling).reshape(1, 1)

    def gather(indices: Sequence[np.ndarray], x: Values) -> Values:
        # An index outside of x gets the position after the last element of x, where the element of ``outside`` is.
        return _moved(equation, [x, outside], indices, numbered=1, fill_value=x.size // x.shape[-1])[0]

    return _at_each_point(gather, [indices], x)


SCATTERS = {
    "scatter": lambda old, new: new,
    "scatter-add": np.add,
    "scatter-sub": np.subtract,
    "scatter-mul": np.multiply,
    "scatter-max": maximum,
    "scatter-min": minimum,
}


def _scatter(equation: JaxprEqn, x: Values, indices: Values, updates: Values) -> Values:
    combine = SCATTERS[equation.primitive.name]
    if equation.primitive.name == "scatter" and getattr(equation.params["update_jaxpr"], "eqns", ()):
        raise no_rule("updates that replace elements", "a function of the elements")

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

    The transposed operation of adding updates at some places reads the numbers there. Here it reads their positions.
    """
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    add = partial(lax.scatter_add, jnp.zeros(shape), jnp.asarray(indices), dimension_numbers=numbers, mode=mode)
    read = jax.linear_transpose(lambda x: add(updates=x), jnp.zeros(updates))
    (found,) = read(jnp.arange(1.0, 1 + prod(shape)).reshape(shape))
    return np.asarray(found, int) - 1


def _moved(
    equation: JaxprEqn,
    arrays: Sequence[Values],
    indices: Sequence[np.ndarray],
    *,
    numbered: int | None = None,
    **changed: object,
) -> list[Values]:
    """Moves the elements of arrays as the equation does.

    Args:
        equation: the operation.
        arrays: the arrays whose elements may be in the results.
        indices: further operands, which are passed on unchanged after the arrays.
        numbered: the number of arrays that are operands; by default all of them. The other arrays are not operands: a
            parameter in ``changed`` refers to their elements by position.
        changed: parameters that replace those of the equation.
    """
    # All arrays are joined into one flat array. A position is an index into it.
    arrays = together(*arrays)
    flat = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    ends = np.cumsum([prod(array.shape[:-1]) for array in arrays])
    positions = [
        jnp.arange(end - prod(array.shape[:-1]), end, dtype=jnp.int32).reshape(array.shape[:-1])
        for array, end in zip(arrays[:numbered], ends, strict=False)
    ]
    # JAX moves the positions, and NumPy takes the elements at the moved positions, for all points at once.
    return [flat[np.asarray(moved)] for moved in bind(equation, [*positions, *map(jnp.asarray, indices)], **changed)]


def _at_each_point(move: Callable[..., Values], indices: Sequence[np.ndarray], *arrays: Values) -> Values:
    """Calls ``move(indices, *arrays)`` once if the indices are equal at all points; otherwise once for each point."""
    indices = together(*indices)
    if all(np.all(index == index[..., :1]) for index in indices):
        return move([index[..., 0] for index in indices], *arrays)
    # Every point gets an array of its own, also of the arrays that are the same at all points.
    *varying, first = together(*arrays, indices[0])

    def at(point: int) -> Values:
        return move([index[..., point] for index in indices], *(array[..., point : point + 1] for array in varying))

    return np.concatenate(list(map(at, range(first.shape[-1]))), -1)


def _dot_general(equation: JaxprEqn, a: Values, b: Values) -> Values:
    (contracted_a, contracted_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    # Every axis gets a number, and axes that belong together the same one. The points are the last axis of all arrays.
    of_a, of_b = list(range(a.ndim - 1)), list(range(a.ndim, a.ndim + b.ndim - 1))
    for one, other in zip((*contracted_a, *batch_a), (*contracted_b, *batch_b), strict=True):
        of_b[other] = one
    free_a = [axis for axis in of_a if axis not in of_b]
    free_b = [axis for axis in of_b if axis not in of_a]
    points = a.ndim - 1
    return np.einsum(a, [*of_a, points], b, [*of_b, points], [*batch_a, *free_a, *free_b, points])


def _conv_general_dilated(equation: JaxprEqn, x: Values, kernel: Values) -> Values:
    parameters = equation.params
    if parameters["batch_group_count"] != 1:
        raise no_rule("convolutions with batch_group_count 1", parameters["batch_group_count"])
    groups = parameters["feature_group_count"]
    # Both arrays get JAX's usual order of axes: (batch, channels, *sizes) and (out, in, *sizes).
    x_axes, kernel_axes, y_axes = parameters["dimension_numbers"]
    x = np.transpose(x, (*x_axes, x.ndim - 1))
    kernel = np.transpose(kernel, (*kernel_axes, kernel.ndim - 1))
    (batch, channels), (out_size, in_size, *sizes) = x.shape[:2], kernel.shape[:-1]
    how = (parameters[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
    found = windows(x.reshape(batch * channels, *x.shape[2:]), as_numbers(0.0), sizes, *how)
    places = found.shape[2:-1]
    # Each output is the sum over the inputs of its group and the elements of its window.
    found = found.reshape(batch, groups, in_size, prod(sizes), prod(places), -1)
    kernel = kernel.reshape(groups, out_size // groups, in_size, prod(sizes), -1)
    y = np.einsum("bgiewp,goiep->bgowp", found, kernel).reshape(batch, out_size, *places, -1)
    # The axes get the order that the equation specifies: ``argsort`` inverts the permutation ``y_axes``.
    return np.transpose(y, (*np.argsort(y_axes), y.ndim - 1))


def _fft(equation: JaxprEqn, x: Values) -> Values:
    """Fourier transforms over the last axes, one axis after the other, as products with roots of unity."""
    kind, lengths = equation.params["fft_type"].name, equation.params["fft_lengths"]
    is_inverse = kind in ("IFFT", "IRFFT")
    for axis, n in enumerate(lengths, x.ndim - 1 - len(lengths)):
        # e^{±2πi jk/n} depends only on jk mod n, so n roots are enough.
        angles = np.arange(n).astype(object) * (2 * gmpy2.const_pi() / n)
        sines = functions.sin(angles)
        roots = functions.complex(functions.cos(angles), sines if is_inverse else -sines)
        factors = roots[np.outer(np.arange(n), np.arange(n)) % n]
        # The spectrum of real numbers is stored up to the middle of the last axis. The rest is its conjugate, so these
        # elements count twice, except the first one and the one in the middle.
        stored = np.arange(n // 2 + 1)
        if kind == "RFFT" and axis == x.ndim - 2:
            factors = factors[stored]
        if kind == "IRFFT" and axis == x.ndim - 2:
            factors = factors[:, stored] * np.where(2 * stored % n == 0, 1, 2)
        x = np.moveaxis(np.tensordot(factors, np.moveaxis(x, axis, 0), 1), 0, axis)
        x = x / n if is_inverse else x
    return functions.real(x) if kind == "IRFFT" else x


PLAIN: dict[str, Callable[..., Values]] = {
    **vars(functions),
    **dict.fromkeys(("add", "add_any"), np.add),
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "square": np.square,
    "neg": np.negative,
    "abs": np.abs,
    "max": maximum,
    "min": minimum,
    "clamp": lambda low, x, high: minimum(maximum(x, low), high),
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    **dict.fromkeys(("lt", "lt_to"), np.less),
    **dict.fromkeys(("le", "le_to"), np.less_equal),
    "logistic": lambda x: 1 / (1 + functions.exp(-x)),
    "select_n": lambda which, *cases: np.choose(which.astype(int), cases, mode="clip"),
    "conj": lambda x: np.conjugate(_as_complex(x)),
    # c₀ + c₁ x + … + cₙ xⁿ by Horner's rule. JAX has this operation since version 0.12.
    "polynomial": lambda x, *coefficients: reduce(lambda total, c: total * x + c, reversed(coefficients)),
}
"""Functions of the operands alone."""

RULES: dict[str, Rule] = {
    **{name: _of_operands(function) for name, function in PLAIN.items()},
    **dict.fromkeys(("stop_gradient", "copy", "name", "reduce_precision", "optimization_barrier"), _unchanged),
    **dict.fromkeys(("sharding_constraint", "device_put", "pvary"), _unchanged),
    # A print is left out: the numbers here have more digits than those of the program.
    **dict.fromkeys(("debug_callback", "debug_print"), lambda equation, *operands: []),
    **dict.fromkeys(MOVED_BY_JAX, lambda equation, *arrays: _moved(equation, arrays, [])),
    **dict.fromkeys(("squeeze", "reshape"), _reshaped),
    **dict.fromkeys(SCATTERS, _scatter),
    **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"), _reduction),
    **dict.fromkeys(("argmax", "argmin"), _place_of_extreme),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _running),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window_reduction),
    **dict.fromkeys(("dynamic_slice", "dynamic_update_slice"), _dynamic_slice),
    "integer_pow": lambda equation, x: x ** equation.params["y"],
    "round": lambda equation, x: ROUNDED[int(equation.params["rounding_method"])](x),
    "transpose": lambda equation, x: np.transpose(x, (*equation.params["permutation"], x.ndim - 1)),
    "pow": _pow,
    "sign": _sign,
    "bitcast_convert_type": _bitcast_convert_type,
    "convert_element_type": _convert_element_type,
    "sort": _sort,
    "top_k": _top_k,
    "broadcast_in_dim": _broadcast_in_dim,
    "gather": _gather,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv_general_dilated,
    "fft": _fft,
}
"""The rules by the names of the primitives. ``decompositions`` adds its own."""
