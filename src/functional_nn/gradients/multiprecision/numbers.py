"""Arithmetic in many digits: by MPFR if gmpy2 is installed, which is about ten times as fast, else by mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Number: TypeAlias = Any
"""A number of one of the two libraries."""
Function: TypeAlias = Callable[..., Any]
"""A function of numbers, or an elementwise function of arrays of them."""

ALGEBRAIC = ("sqrt", "floor", "ceil")
EXPONENTIAL = ("exp", "expm1", "log", "log1p", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
TRIGONOMETRIC = ("sin", "cos", "tan", "asin", "acos", "atan", "atan2")
SPECIAL = ("erf", "erfc", "digamma")
NAMES = ALGEBRAIC + EXPONENTIAL + TRIGONOMETRIC + SPECIAL
"""Functions that both libraries have under these names."""


class Arithmetic:
    """Numbers of ``digits`` decimal digits, with an exponent that neither overflows nor underflows in practice.

    Arrays of them are NumPy arrays of objects, which add, subtract, multiply and compare as other arrays do.

    Args:
        digits: of every number.
        library: ``"gmpy2"`` or ``"mpmath"``; None for the faster of those installed.
    """

    def __init__(self, digits: int, library: str | None = None):
        make = {"gmpy2": _mpfr, "mpmath": _mpmath}[library or _fastest()]
        made = make(digits)
        self.precision = made.precision
        self._number = made.number
        self._functions = made.functions

    def numbers(self, array: ArrayLike) -> np.ndarray:
        """The exact values of floating-point numbers, integers or booleans."""
        array = np.asarray(array)
        exact = array if array.dtype.kind in "iub" else array.astype(np.float64)
        return np.asarray(_elementwise(self._number)(exact.astype(object)), object)

    def function(self, name: str) -> Function:
        """An elementwise function: one of ``NAMES``, ``"divide"``, ``"power"``, ``"lgamma"`` or ``"is_finite"``."""
        return self._functions[name]


class _Library(NamedTuple):
    """What an arithmetic takes from a library.

    Args:
        precision: makes the context in which numbers are computed with the right count of digits.
        number: makes a number of a Python number.
        functions: by name.
    """

    precision: Callable[[], AbstractContextManager[Any]]
    number: Function
    functions: dict[str, Function]


def _fastest() -> str:
    try:
        import gmpy2  # noqa: F401
    except ImportError:
        return "mpmath"
    return "gmpy2"


def _elementwise(function: Function, operands: int = 1) -> Function:
    return np.frompyfunc(function, operands, 1)


def _mpfr(digits: int) -> _Library:
    import gmpy2

    numbers: Any = gmpy2
    functions = {name: _elementwise(getattr(numbers, name), 2 if name == "atan2" else 1) for name in NAMES}
    functions |= {"divide": np.true_divide, "power": np.power, "is_finite": _elementwise(numbers.is_finite)}
    functions["lgamma"] = _elementwise(lambda x: numbers.lgamma(x)[0])
    precision = partial(numbers.context, precision=math.ceil(digits * math.log2(10)))
    return _Library(precision, numbers.mpfr, functions)


def _mpmath(digits: int) -> _Library:
    import mpmath

    numbers: Any = mpmath.MPContext()
    numbers.dps = digits

    def real(function: Function) -> Function:
        """The function with NaN outside of its domain, where mpmath goes on with complex numbers."""

        def value(*operands: Number) -> Number:
            result = function(*operands)
            return numbers.nan if isinstance(result, numbers.mpc) else result

        return value

    def divide(a: Number, b: Number) -> Number:
        return a / b if b else a * numbers.inf

    def power(a: Number, b: Number) -> Number:
        return divide(numbers.one, a) if not a and b < 0 else numbers.power(a, b)

    functions = {name: _elementwise(real(getattr(numbers, name)), 2 if name == "atan2" else 1) for name in NAMES}
    functions |= {"divide": _elementwise(divide, 2), "power": _elementwise(real(power), 2)}
    functions["lgamma"] = _elementwise(lambda x: numbers.loggamma(x).real)
    functions["is_finite"] = _elementwise(numbers.isfinite)
    return _Library(nullcontext, numbers.mpf, functions)
