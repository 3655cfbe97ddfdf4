"""Numbers with many digits: arrays of them, their functions, and the rules that compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import gmpy2 as library
import mpmath
import numpy as np
from numpy.typing import ArrayLike

gmpy2: Any = library  # it does not tell type checkers what is in it

Values: TypeAlias = np.ndarray
"""Numbers of shape (\\*shape, points), or (\\*shape, 1) if they are the same at all points.

The points are the last axis. So NumPy can broadcast arrays of different rank, and arrays that are the same everywhere.
Floating-point and complex values are numbers of gmpy2 in arrays of objects, which add, subtract, multiply, divide and
compare like other arrays. Integers and booleans have NumPy's types.
"""

Rule: TypeAlias = Callable[..., Values | list[Values]]
"""``rule(equation, *operands)`` returns the result of an equation, or the list of its results."""


class Points(NamedTuple):
    """A value that depends on the inputs. Any other value is an ordinary array, computed by JAX itself."""

    values: Values


def together(*arrays: Values) -> list[Values]:
    """Broadcasts arrays to the same number of points."""
    points = max(array.shape[-1] for array in arrays)
    return [np.broadcast_to(array, (*array.shape[:-1], points)) for array in arrays]


def many_digits(count: int) -> AbstractContextManager[object]:
    """A context in which numbers have ``count`` decimal digits. In practice, exponents never overflow or underflow."""
    return gmpy2.context(precision=math.ceil(count * math.log2(10)))


def as_numbers(array: ArrayLike) -> np.ndarray:
    """Converts floating-point numbers, complex numbers, integers or booleans to numbers of many digits, exactly."""
    array = np.asarray(array)
    # Narrower types fit into float64 without rounding. As objects, the elements are plain numbers of Python.
    exact = array if array.dtype.kind in "iubc" else array.astype(np.float64)
    make = np.frompyfunc(gmpy2.mpc if array.dtype.kind == "c" else gmpy2.mpfr, 1, 1)
    return np.asarray(make(exact.astype(object)), object)


Number: TypeAlias = Any
"""A number of gmpy2 or mpmath."""
Function: TypeAlias = Callable[..., Any]

EXPONENTIAL = ("exp", "exp2", "expm1", "log", "log1p", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
TRIGONOMETRIC = ("sin", "cos", "tan", "asin", "acos", "atan")
OTHERS = ("sqrt", "cbrt", "erf", "erfc", "digamma")
SPARE_BITS = 33
"""The number of additional bits with which mpmath computes."""


def _once(function: Function) -> Function:
    """Makes an elementwise function. It computes equal numbers once: most numbers are the same at many points."""

    def of_arrays(*arrays: Values) -> Values:
        operands = np.broadcast(*arrays)
        known = {numbers: function(*numbers) for numbers in set(operands)}
        operands.reset()
        return np.fromiter((known[numbers] for numbers in operands), object, operands.size).reshape(operands.shape)

    return of_arrays


def _by_mpmath(function: Function) -> Function:
    """Makes an elementwise function from one of mpmath."""

    def value(*operands: Number) -> Number:
        with mpmath.workprec(gmpy2.get_context().precision + SPARE_BITS):
            given = list(map(_to_mpmath, operands))
            try:
                result = function(*given) if all(map(mpmath.isfinite, given)) else mpmath.nan
                return _from_mpmath(mpmath.nan if isinstance(result, mpmath.mpc) else result)
            # A pole, a point outside of the domain, or an exponent that is too large for gmpy2, as that of exp(-1e30).
            except (ArithmeticError, ValueError, RecursionError, mpmath.mp.NoConvergence):
                return gmpy2.nan()

    return _once(value)


def of_matrix(decompose: Function, matrix: np.ndarray) -> list[np.ndarray]:
    """The matrices that a function of mpmath makes of a matrix (rows, columns)."""
    with mpmath.workprec(gmpy2.get_context().precision + SPARE_BITS):
        parts = decompose(mpmath.matrix([[_to_mpmath(x) for x in row] for row in matrix]))
        return [np.array([[_from_mpmath(x) for x in row] for row in part.tolist()], object) for part in parts]


def _to_mpmath(x: Number) -> Number:
    """Converts a number of gmpy2 to mpmath, which has more digits."""
    if not gmpy2.is_finite(x):
        return mpmath.mpf(float(x))
    return mpmath.mpf(tuple(map(int, x.as_mantissa_exp())))


def _from_mpmath(x: Number) -> Number:
    """Converts a number of mpmath to gmpy2, rounded to the current precision."""
    sign, mantissa, exponent, _ = x._mpf_
    if not mantissa:  # 0, an infinity or NaN
        return gmpy2.mpfr(float(x))
    shift = gmpy2.mul_2exp if exponent > 0 else gmpy2.div_2exp
    return shift(gmpy2.mpfr(-int(mantissa) if sign else int(mantissa)), abs(int(exponent)))


functions = SimpleNamespace(
    **{name: _once(getattr(gmpy2, name)) for name in (*EXPONENTIAL, *TRIGONOMETRIC, *OTHERS)},
    # ``floor`` and ``ceil`` of gmpy2 give integers, which cannot be NaN or infinite.
    **{name: np.frompyfunc(getattr(gmpy2, f"rint_{name}"), 1, 1) for name in ("floor", "ceil")},
    **{name: np.frompyfunc(getattr(gmpy2, of_two), 2, 1) for name, of_two in (("atan2", "atan2"), ("rem", "fmod"))},
    rsqrt=np.frompyfunc(gmpy2.rec_sqrt, 1, 1),
    # gmpy2 returns log|Γ(x)| and the sign of Γ(x).
    lgamma=_once(lambda x: gmpy2.lgamma(x)[0]),
    is_finite=lambda x: np.frompyfunc(gmpy2.is_finite, 1, 1)(x).astype(bool),
    real=np.frompyfunc(lambda z: z.real, 1, 1),
    imag=np.frompyfunc(lambda z: z.imag, 1, 1),
    complex=np.frompyfunc(gmpy2.mpc, 2, 1),
    bessel_i0e=_by_mpmath(lambda x: mpmath.besseli(0, x) * mpmath.exp(-abs(x))),
    bessel_i1e=_by_mpmath(lambda x: mpmath.besseli(1, x) * mpmath.exp(-abs(x))),
    erf_inv=_by_mpmath(mpmath.erfinv),
    polygamma=_by_mpmath(lambda n, x: mpmath.psi(int(n), x)),
    # mpmath continues the functions below beyond their domains, where JAX's NaN is right.
    igamma=_by_mpmath(lambda a, x: mpmath.gammainc(a, 0, x, regularized=True) if a > 0 and x >= 0 else mpmath.nan),
    igammac=_by_mpmath(
        lambda a, x: mpmath.gammainc(a, x, mpmath.inf, regularized=True) if a > 0 and x >= 0 else mpmath.nan
    ),
    regularized_incomplete_beta=_by_mpmath(
        lambda a, b, x: mpmath.betainc(a, b, 0, x, regularized=True) if 0 <= x <= 1 else mpmath.nan
    ),
    zeta=_by_mpmath(lambda x, q: mpmath.zeta(x, q) if x > 1 else mpmath.nan),
)
"""Elementwise functions of arrays of numbers, by the names of JAX's primitives, and some under gmpy2's names."""
