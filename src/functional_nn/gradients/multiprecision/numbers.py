"""Arithmetic with many digits: by MPFR if gmpy2 is installed, else by mpmath, which is about ten times slower."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Number: TypeAlias = Any
"""A number from gmpy2 or mpmath."""
Function: TypeAlias = Callable[..., Number]
"""A function of such numbers, or an elementwise function of arrays of such numbers."""

ALGEBRAIC = ("sqrt", "floor", "ceil")
EXPONENTIAL = ("exp", "expm1", "log", "log1p", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
TRIGONOMETRIC = ("sin", "cos", "tan", "asin", "acos", "atan", "atan2")
SPECIAL = ("erf", "erfc", "digamma")
NAMES = ALGEBRAIC + EXPONENTIAL + TRIGONOMETRIC + SPECIAL
"""Functions that both libraries have under these names."""


class Arithmetic:
    """Arithmetic with ``digits`` decimal digits. In practice its exponents neither overflow nor underflow.

    Its arrays are NumPy arrays of objects. They add, subtract, multiply and compare like other arrays.

    Args:
        digits: the number of decimal digits of every number.
        library: ``"gmpy2"`` or ``"mpmath"``; with None, the faster library that is installed.
    """

    def __init__(self, digits: int, library: str | None = None):
        make = {"gmpy2": _mpfr, "mpmath": _mpmath}[library or _fastest()]
        made = make(digits)
        self.precision = made.precision
        self._number = made.number
        self._functions = made.functions

    def numbers(self, array: ArrayLike) -> np.ndarray:
        """Converts floating-point numbers, integers or booleans without rounding."""
        array = np.asarray(array)
        exact = array if array.dtype.kind in "iub" else array.astype(np.float64)
        return np.asarray(_elementwise(self._number)(exact.astype(object)), object)

    def function(self, name: str) -> Function:
        """An elementwise function: one of ``NAMES``, ``"divide"``, ``"power"``, ``"lgamma"`` or ``"is_finite"``."""
        return self._functions[name]


class _Library(NamedTuple):
    """The parts of a library that an arithmetic uses.

    Args:
        precision: makes the context manager that sets the number of digits.
        number: converts a Python number.
        functions: the elementwise functions by name.
    """

    precision: Callable[[], AbstractContextManager[object]]
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
        """Makes a function return NaN outside of its domain, where mpmath would return complex numbers."""

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
