"""Rules for elementwise operations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision.numbers import NAMES, SPECIAL_BY_MPMATH, Arithmetic
from functional_nn.gradients.multiprecision.rules import Rule, Rules, Values
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import array_type

RULES = Rules()
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
