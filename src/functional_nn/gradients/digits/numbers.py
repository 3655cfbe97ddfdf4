"""Numbers with many digits: their arithmetic, arrays of them, and rules that compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

Values: TypeAlias = np.ndarray
"""Numbers of shape (\\*shape, points), or (\\*shape, 1) if they are the same at all points.

The points are the last axis. So NumPy can broadcast arrays of different rank, and arrays that are the same everywhere.
Floating-point and complex values are numbers of many digits in arrays of objects. Integers and booleans have NumPy's
types.
"""

Rule: TypeAlias = Callable[..., Values | list[Values]]
"""``rule(arithmetic, equation, *operands)`` returns the result of an equation, or the list of its results."""

AnyRule = TypeVar("AnyRule", bound=Rule)


class Points(NamedTuple):
    """A value that depends on the inputs. Any other value is an ordinary array, computed by JAX itself."""

    values: Values


class Rules(dict[str, Rule]):
    """A dictionary of rules by the name of the primitive."""

    def of(self, *names: str) -> Callable[[AnyRule], AnyRule]:
        """A decorator that registers a rule for the primitives with these names."""

        def register(rule: AnyRule) -> AnyRule:
            self.update(dict.fromkeys(names, rule))
            return rule

        return register


def together(*arrays: Values) -> list[Values]:
    """Broadcasts arrays to the same number of points."""
    points = max(array.shape[-1] for array in arrays)
    return [np.broadcast_to(array, (*array.shape[:-1], points)) for array in arrays]


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

SPECIAL_BY_MPMATH: dict[str, Callable[..., Number]] = {
    "bessel_i0e": lambda mp, x: mp.besseli(0, x) * mp.exp(-abs(x)),
    "bessel_i1e": lambda mp, x: mp.besseli(1, x) * mp.exp(-abs(x)),
    "erf_inv": lambda mp, x: mp.erfinv(x),
    # mpmath continues the functions below beyond their domains, where JAX's NaN is right.
    "igamma": lambda mp, a, x: mp.gammainc(a, 0, x, regularized=True) if a > 0 and x >= 0 else mp.nan,
    "igammac": lambda mp, a, x: mp.gammainc(a, x, mp.inf, regularized=True) if a > 0 and x >= 0 else mp.nan,
    "polygamma": lambda mp, n, x: mp.psi(int(n), x),
    "regularized_incomplete_beta": lambda mp, a, b, x: (
        mp.betainc(a, b, 0, x, regularized=True) if 0 <= x <= 1 else mp.nan
    ),
    "zeta": lambda mp, x, q: mp.zeta(x, q) if x > 1 else mp.nan,
}
"""Functions that mpmath always computes, under their names in JAX."""
SPARE_DIGITS = 10
"""The number of additional digits with which mpmath computes special functions."""


class Arithmetic:
    """Arithmetic with ``digits`` decimal digits. In practice its exponents neither overflow nor underflow.

    Its arrays are NumPy arrays of objects. They add, subtract, multiply and compare like other arrays.

    Args:
        digits: the number of decimal digits of every number.
        library: ``"gmpy2"`` or ``"mpmath"``; with None, the faster library that is installed.
    """

    def __init__(self, digits: int, library: str | None = None):
        make = {"gmpy2": _mpfr, "mpmath": _mpmath}[library or _fastest()]
        self.digits = digits
        self.precision, self._functions = make(digits)

    def numbers(self, array: ArrayLike) -> np.ndarray:
        """Converts floating-point numbers, complex numbers, integers or booleans without rounding."""
        array = np.asarray(array)
        # Narrower types fit into float64 without rounding. As objects, the elements are plain numbers of Python.
        exact = array if array.dtype.kind in "iubc" else array.astype(np.float64)
        make = self._functions["complex_number" if array.dtype.kind == "c" else "number"]
        return np.asarray(make(exact.astype(object)), object)

    def function(self, name: str) -> Function:
        """An elementwise function: one of ``NAMES`` or ``SPECIAL_BY_MPMATH``, or one of ``"divide"``, ``"power"``,
        ``"lgamma"`` and ``"is_finite"``; ``"complex"`` of two parts; ``"real"`` and ``"imag"``.
        """
        return self._functions[name]

    def of_matrix(self, decompose: Function, matrix: np.ndarray) -> list[np.ndarray]:
        """The matrices that a function of mpmath, ``decompose(mp, matrix)``, makes of a matrix (rows, columns)."""
        return self._functions["of_matrix"](decompose, matrix)


Library: TypeAlias = tuple[Callable[[], AbstractContextManager[object]], dict[str, Function]]
"""What an arithmetic uses of a library: what makes the context manager that sets the digits, and elementwise functions
by name. Two of them make numbers of Python's: ``"number"`` and ``"complex_number"``."""


def _fastest() -> str:
    try:
        import gmpy2  # noqa: F401
    except ImportError:
        return "mpmath"
    return "gmpy2"


def _elementwise(function: Function, operands: int = 1) -> Function:
    return np.frompyfunc(function, operands, 1)


def _common(numbers: Any, number: Function, function: Callable[[Function], Function]) -> dict[str, Function]:
    """The functions that are made alike for both libraries; ``function`` adapts a library's own."""
    made = {name: _elementwise(function(getattr(numbers, name)), 2 if name == "atan2" else 1) for name in NAMES}
    made |= {"number": _elementwise(number), "complex_number": _elementwise(numbers.mpc)}
    parts = {"real": lambda z: z.real, "imag": lambda z: z.imag}
    return made | {name: _elementwise(part) for name, part in parts.items()} | {"complex": _elementwise(numbers.mpc, 2)}


@cache  # making it takes some milliseconds
def _mpfr(digits: int) -> Library:
    import gmpy2

    numbers: Any = gmpy2
    functions = _common(numbers, numbers.mpfr, lambda function: function)
    functions |= {"divide": np.true_divide, "power": np.power, "is_finite": _elementwise(numbers.is_finite)}
    # ``floor`` and ``ceil`` of gmpy2 give integers, which cannot be NaN or infinite.
    functions |= {name: _elementwise(getattr(numbers, f"rint_{name}")) for name in ("floor", "ceil")}
    # gmpy2 returns log|Γ(x)| and the sign of Γ(x).
    functions["lgamma"] = _elementwise(lambda x: numbers.lgamma(x)[0])
    functions |= _by_mpmath(digits, _to_mpmath, _from_mpmath)
    return partial(numbers.context, precision=math.ceil(digits * math.log2(10))), functions


@cache
def _mpmath(digits: int) -> Library:
    import mpmath

    numbers: Any = mpmath.MPContext()
    numbers.dps = digits

    def real(function: Function) -> Function:
        """Makes a function return NaN outside of its domain, where mpmath would return complex numbers."""

        def value(*operands: Number) -> Number:
            result = function(*operands)
            is_outside = isinstance(result, numbers.mpc) and not any(isinstance(x, numbers.mpc) for x in operands)
            return numbers.nan if is_outside else result

        return value

    # Like MPFR, these two give ±∞ or NaN where mpmath would raise an error.
    def divide(a: Number, b: Number) -> Number:
        return a / b if b else a * numbers.inf

    def power(a: Number, b: Number) -> Number:
        return divide(numbers.one, a) if not a and numbers.re(b) < 0 else numbers.power(a, b)

    functions = _common(numbers, numbers.mpf, real)
    functions |= {"divide": _elementwise(divide, 2), "power": _elementwise(real(power), 2)}
    # For x < 0, log Γ(x) is complex. Its real part is log|Γ(x)|.
    functions["lgamma"] = _elementwise(lambda x: numbers.loggamma(x).real)
    functions["is_finite"] = _elementwise(numbers.isfinite)
    functions |= _by_mpmath(digits, lambda mp, x: mp.mpf(x), lambda x: numbers.mpf(x))
    # The numbers know their own context and its precision, so there is nothing to set.
    return nullcontext, functions


def _by_mpmath(digits: int, to: Function, back: Function) -> dict[str, Function]:
    """The functions that mpmath computes, for numbers that ``to`` converts to mpmath and ``back`` converts back."""

    @cache  # making it takes 20 ms, and few functions need it
    def made() -> Any:
        import mpmath

        context = mpmath.MPContext()
        context.dps = digits + SPARE_DIGITS
        return context

    def converted(function: Function) -> Function:
        def value(*operands: Number) -> Number:
            context = made()
            given = [to(context, operand) for operand in operands]
            try:
                result = function(context, *given) if all(map(context.isfinite, given)) else context.nan
                return back(context.nan if isinstance(result, context.mpc) else result)
            # A pole, a point outside of the domain, or an exponent that is too large for gmpy2, as that of exp(-1e30).
            except (ArithmeticError, ValueError, RecursionError, context.NoConvergence):
                return back(context.nan)

        return lambda *arrays: _elementwise(value, len(arrays))(*arrays)

    def of_matrix(decompose: Function, matrix: np.ndarray) -> list[np.ndarray]:
        parts = decompose(made(), made().matrix([[to(made(), x) for x in row] for row in matrix]))
        return [np.array([[back(x) for x in row] for row in one.tolist()], object) for one in parts]

    return {name: converted(function) for name, function in SPECIAL_BY_MPMATH.items()} | {"of_matrix": of_matrix}


def _to_mpmath(context: Any, x: Number) -> Number:
    """Converts a number of gmpy2 to mpmath, which has more digits."""
    import gmpy2

    numbers: Any = gmpy2
    if not numbers.is_finite(x):
        return context.mpf(float(x))
    mantissa, exponent = x.as_mantissa_exp()
    return context.mpf((int(mantissa), int(exponent)))


def _from_mpmath(x: Number) -> Number:
    """Converts a number of mpmath to gmpy2, rounded to the current precision."""
    import gmpy2

    numbers: Any = gmpy2
    sign, mantissa, exponent, _ = x._mpf_
    if not mantissa:  # 0, an infinity or NaN
        return numbers.mpfr(float(x))
    shift = numbers.mul_2exp if exponent > 0 else numbers.div_2exp
    return shift(numbers.mpfr(-int(mantissa) if sign else int(mantissa)), abs(int(exponent)))
