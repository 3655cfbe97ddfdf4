"""Numbers of as many digits as asked for: MPFR's where gmpy2 is installed, some ten times as fast, else mpmath's."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

NAMES = [
    *("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh"),
    *("tanh", "asinh", "acosh", "atanh", "erf", "erfc", "digamma", "floor", "ceil"),
]


class Digits:
    """An arithmetic of ``digits`` decimal digits, and an exponent that neither overflows nor underflows in practice.

    Args:
        digits: of every number.
        library: ``"gmpy2"`` or ``"mpmath"``; None for the faster of those installed.
    """

    def __init__(self, digits: int, library: str | None = None):
        make = {"gmpy2": _mpfr, "mpmath": _mpmath}[library or _fastest()]
        self.precision, self._number, self._functions = make(digits)

    def numbers(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        exact = array if array.dtype.kind in "iub" else array.astype(np.float64)
        return np.asarray(_elementwise(self._number)(exact.astype(object)), object)

    def function(self, name: str) -> Callable[..., np.ndarray]:
        return self._functions[name]

    def compare(self, relation: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(relation(a, b), bool)

    def order(self, values: np.ndarray) -> np.ndarray:
        return values

    def rounded(self, values: np.ndarray) -> np.ndarray:
        return values


def _fastest() -> str:
    try:
        import gmpy2  # noqa: F401
    except ImportError:
        return "mpmath"
    return "gmpy2"


def _elementwise(function: Callable[..., Any], operands: int = 1) -> Callable[..., Any]:
    return np.frompyfunc(function, operands, 1)


def _mpfr(digits: int) -> tuple[Callable[[], Any], Callable[..., Any], dict[str, Callable[..., Any]]]:
    import gmpy2

    numbers: Any = gmpy2
    functions = {name: _elementwise(getattr(numbers, name), 2 if name == "atan2" else 1) for name in NAMES}
    functions |= {"divide": np.true_divide, "power": np.power, "is_finite": _elementwise(numbers.is_finite)}
    functions["lgamma"] = _elementwise(lambda x: numbers.lgamma(x)[0])
    return partial(numbers.context, precision=math.ceil(digits * math.log2(10))), numbers.mpfr, functions


def _mpmath(digits: int) -> tuple[Callable[[], Any], Callable[..., Any], dict[str, Callable[..., Any]]]:
    import mpmath

    numbers: Any = mpmath.MPContext()
    numbers.dps = digits

    def real(function: Callable[..., Any]) -> Callable[..., Any]:
        """Not a number outside of the domain, where mpmath goes on with complex numbers."""

        def value(*operands: Any) -> Any:
            result = function(*operands)
            return numbers.nan if isinstance(result, numbers.mpc) else result

        return value

    def divide(a: Any, b: Any) -> Any:
        return a / b if b else a * numbers.inf

    def power(a: Any, b: Any) -> Any:
        return divide(numbers.one, a) if not a and b < 0 else numbers.power(a, b)

    functions = {name: _elementwise(real(getattr(numbers, name)), 2 if name == "atan2" else 1) for name in NAMES}
    functions |= {"divide": _elementwise(divide, 2), "power": _elementwise(real(power), 2)}
    functions["lgamma"] = _elementwise(lambda x: numbers.loggamma(x).real)
    functions["is_finite"] = _elementwise(numbers.isfinite)
    return nullcontext, numbers.mpf, functions
