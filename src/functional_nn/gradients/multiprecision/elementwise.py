"""Rules for what acts on every element alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.multiprecision.rules import Arithmetic, Rules, Values

COMPUTING = Rules()
"""What rounds its result."""

CHOOSING = Rules()
"""What gives one of its operands as it is, perhaps with another sign, or no floating-point number at all."""


def is_floating(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, np.floating)


def maximum(arithmetic: Arithmetic, a: Values, b: Values) -> Values:
    """The larger; not a number where one is none."""
    return np.where(arithmetic.compare(np.greater, a, b) | (a != a), a, b)


def minimum(arithmetic: Arithmetic, a: Values, b: Values) -> Values:
    return np.where(arithmetic.compare(np.less, a, b) | (a != a), a, b)


def absolute(arithmetic: Arithmetic, x: Values) -> Values:
    return np.where(arithmetic.compare(np.less, x, np.zeros((), int)), -x, x)


def _constant(arithmetic: Arithmetic, value: Any) -> Values:
    return arithmetic.numbers(np.asarray(value))


def _ufunc(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda arithmetic, equation, *operands: function(*operands)


def _function(name: str) -> Callable[..., Any]:
    return lambda arithmetic, equation, *operands: arithmetic.function(name)(*operands)


def _comparison(relation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda arithmetic, equation, a, b: arithmetic.compare(relation, a, b)


for names, ufunc in {("add", "add_any"): np.add, ("sub",): np.subtract, ("mul",): np.multiply}.items():
    COMPUTING.of(*names)(_ufunc(ufunc))
for name in (
    *("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "digamma"),
):
    COMPUTING.of(name)(_function(name))
for name in ("floor", "ceil"):
    CHOOSING.of(name)(_function(name))
for name, ufunc in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "neg": np.negative}.items():
    CHOOSING.of(name)(_ufunc(ufunc))
for name, relation in {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal},
    **{"gt": np.greater, "ge": np.greater_equal},
}.items():
    CHOOSING.of(name)(_comparison(relation))
CHOOSING.of("not")(_ufunc(np.invert))


@COMPUTING.of("div")
def _div(arithmetic, equation, a, b):
    if is_floating(equation.outvars[0].aval):
        return arithmetic.function("divide")(a, b)
    quotient = np.abs(a) // np.abs(np.where(b == 0, 1, b))
    return np.where((a < 0) != (b < 0), -quotient, quotient)


@COMPUTING.of("rem")
def _rem(arithmetic, equation, a, b):
    """a - b trunc(a / b), with the sign of a."""
    if not is_floating(equation.outvars[0].aval):
        return np.fmod(a, b)
    return a - b * _truncated(arithmetic, arithmetic.function("divide")(a, b))


def _truncated(arithmetic: Arithmetic, x: Values) -> Values:
    below = arithmetic.compare(np.less, x, np.zeros((), int))
    return np.where(below, arithmetic.function("ceil")(x), arithmetic.function("floor")(x))


@COMPUTING.of("square")
def _square(arithmetic, equation, x):
    return x * x


@COMPUTING.of("integer_pow")
def _integer_pow(arithmetic, equation, x):
    exponent = equation.params["y"]
    result = np.ones_like(x)
    for bit in f"{abs(exponent):b}":
        result = result * result * x if bit == "1" else result * result
    return result if exponent >= 0 else arithmetic.function("divide")(_constant(arithmetic, 1), result)


@COMPUTING.of("pow")
def _pow(arithmetic, equation, a, b):
    return arithmetic.function("power")(a, b if is_floating(equation.invars[1].aval) else arithmetic.numbers(b))


@COMPUTING.of("rsqrt")
def _rsqrt(arithmetic, equation, x):
    return arithmetic.function("divide")(_constant(arithmetic, 1), arithmetic.function("sqrt")(x))


@COMPUTING.of("cbrt")
def _cbrt(arithmetic, equation, x):
    """±e^{log|x| / 3}, and 0 at 0."""
    size = absolute(arithmetic, x)
    root = arithmetic.function("exp")(arithmetic.function("log")(size) / 3)
    return np.where(size == 0, x, np.where(arithmetic.compare(np.less, x, np.zeros((), int)), -root, root))


@COMPUTING.of("exp2")
def _exp2(arithmetic, equation, x):
    return arithmetic.function("exp")(x * arithmetic.function("log")(_constant(arithmetic, 2)))


@COMPUTING.of("logistic")
def _logistic(arithmetic, equation, x):
    one = _constant(arithmetic, 1)
    return arithmetic.function("divide")(one, one + arithmetic.function("exp")(-x))


@CHOOSING.of("abs")
def _abs(arithmetic, equation, x):
    return absolute(arithmetic, x)


@CHOOSING.of("max")
def _max(arithmetic, equation, a, b):
    return maximum(arithmetic, a, b)


@CHOOSING.of("min")
def _min(arithmetic, equation, a, b):
    return minimum(arithmetic, a, b)


@CHOOSING.of("clamp")
def _clamp(arithmetic, equation, low, x, high):
    return minimum(arithmetic, maximum(arithmetic, x, low), high)


@CHOOSING.of("sign")
def _sign(arithmetic, equation, x):
    zero = np.zeros((), int)
    sign = arithmetic.compare(np.greater, x, zero).astype(int) - arithmetic.compare(np.less, x, zero)
    if not is_floating(equation.outvars[0].aval):
        return sign
    return np.where(x != x, x, arithmetic.numbers(sign))


@CHOOSING.of("round")
def _round(arithmetic, equation, x):
    """Halves away from zero, or to the even neighbor."""
    floor, half = arithmetic.function("floor"), _constant(arithmetic, 0.5)
    size = absolute(arithmetic, x)
    nearest = floor(size + half)
    if int(equation.params["rounding_method"]) == 1:
        odd = nearest - 2 * floor(nearest * half) == 1
        nearest = np.where((size + half == nearest) & odd, nearest - 1, nearest)
    return np.where(arithmetic.compare(np.less, x, np.zeros((), int)), -nearest, nearest)


@CHOOSING.of("is_finite")
def _is_finite(arithmetic, equation, x):
    return arithmetic.function("is_finite")(x).astype(bool)


@CHOOSING.of("select_n")
def _select_n(arithmetic, equation, which, *cases):
    chosen = cases[0]
    for number, case in enumerate(cases[1:], 1):
        chosen = np.where(which == number, case, chosen)
    return chosen


@CHOOSING.of("convert_element_type")
def _convert_element_type(arithmetic, equation, x):
    """Between floating-point types nothing is lost; to integers the fraction is."""
    was, becomes = is_floating(equation.invars[0].aval), is_floating(equation.outvars[0].aval)
    if becomes:
        return x if was else arithmetic.numbers(x)
    dtype = equation.outvars[0].aval.dtype
    if not was:
        return x.astype(dtype)
    if np.issubdtype(dtype, bool):
        return arithmetic.compare(np.not_equal, x, np.zeros((), int))
    return arithmetic.order(_truncated(arithmetic, x)).astype(dtype)


@CHOOSING.of("stop_gradient", "copy", "name", "reduce_precision", "optimization_barrier")
@CHOOSING.of("sharding_constraint", "device_put", "pvary")
def _identity(arithmetic, equation, *operands):
    """As it is: no rounding to fewer bits, and no gradient is stopped, since none is computed."""
    return list(operands)
