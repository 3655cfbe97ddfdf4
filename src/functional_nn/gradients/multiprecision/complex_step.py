"""Complex numbers of double precision whose imaginary part carries a derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

EPSILON = float(np.finfo(np.float64).eps)

Complex: TypeAlias = Any
"""An array of complex128."""


class ComplexStep:
    """NumPy's complex128: of f(x + ih) the imaginary part is h f'(x), for an analytic f and a tiny h.

    Comparisons, maxima, roundings and the like follow the real part; where that is a tie which the imaginary part
    would break, f may have a kink, and ``doubtful`` says at which points.

    Args:
        points: how many there are.
        noise: a generator. Every operation then sees its operands with real and imaginary parts wrong at random by up
            to half a unit in the last place each, so that several runs show what rounding does to the result.

    References:
        Martins, Sturdza, Alonso 2003, "The complex-step derivative approximation".
        Parker 1997, "Monte Carlo arithmetic".
    """

    def __init__(self, points: int, noise: np.random.Generator | None = None):
        self.doubtful = np.zeros(points, bool)
        self._noise = noise

    def numbers(self, array: Any) -> Complex:
        return np.asarray(array).astype(np.complex128)

    def function(self, name: str) -> Callable[..., Complex]:
        return FUNCTIONS[name] if name in FUNCTIONS else lambda z: self._stepped(getattr(np, name), z)

    def compare(self, relation: Callable[..., Any], a: Complex, b: Complex) -> Complex:
        ties = (a.real == b.real) & (a.imag != b.imag)
        self.doubtful |= np.any(ties, axis=tuple(range(ties.ndim - 1)))
        return relation(a.real, b.real)

    def _stepped(self, function: Callable[[Complex], Complex], z: Complex) -> Complex:
        """``np.floor`` and ``np.ceil``, constant between whole numbers and not continuous there."""
        stepped = self.numbers(function(z.real))
        self.compare(np.equal, z, stepped)
        return stepped

    def order(self, values: Complex) -> Complex:
        return values.real

    def rounded(self, values: Complex) -> Complex:
        if self._noise is None or not np.iscomplexobj(values):
            return values
        off = self._noise.uniform(-EPSILON / 2, EPSILON / 2, (2, *values.shape))
        return _complex(values.real * (1 + off[0]), values.imag * (1 + off[1]))


def _complex(real: Complex, imag: Complex) -> Complex:
    result = np.empty(np.broadcast(real, imag).shape, np.complex128)
    result.real, result.imag = real, imag
    return result


def _expm1(z: Complex) -> Complex:
    """e^x cos y - 1 = (e^x - 1) cos y - 2 sin²(y/2), without the cancellation near 0."""
    real = np.expm1(z.real) * np.cos(z.imag) - 2 * np.square(np.sin(z.imag / 2))
    return _complex(real, np.exp(z.real) * np.sin(z.imag))


def _log1p(z: Complex) -> Complex:
    """log |1 + z| = log1p(x (2 + x) + y²) / 2."""
    real = np.log1p(z.real * (2 + z.real) + np.square(z.imag)) / 2
    return _where(z.real >= -1, _complex(real, np.arctan2(z.imag, 1 + z.real)))


def _power(a: Complex, b: Complex) -> Complex:
    """a^b = e^{b log a}; of a negative number (-1)^b |a|^b where b is whole."""
    below = a.real < 0
    whole = (b.imag == 0) & (b.real == np.round(b.real))
    sign = np.where(below & (np.mod(b.real, 2) == 1), -1.0, 1.0)
    magnitude = np.where(below, -a, a)
    general = np.where(magnitude == 0, np.where(b.real == 0, 1, 0), np.exp(b * np.log(magnitude)))
    return _where(~below | whole, sign * general)


def _atan2(y: Complex, x: Complex) -> Complex:
    """The real part knows the quadrant; the imaginary part is that of the better conditioned arc tangent."""
    steep = np.abs(y.real) > np.abs(x.real)
    ratio = np.arctan(np.where(steep, x, y) / np.where(steep, y, x))
    return _complex(np.arctan2(y.real, x.real), np.where(steep, -ratio.imag, ratio.imag))


def _where(inside: Complex, values: Complex) -> Complex:
    """Not a number outside of the domain, where complex functions go on."""
    return np.where(inside, values, np.nan)


def _special(name: str) -> Callable[[Complex], Complex]:
    def function(z: Complex) -> Complex:
        from scipy import special

        return getattr(special, name)(z)

    return function


FUNCTIONS: dict[str, Callable[..., Complex]] = {
    **{name: getattr(np, name) for name in ("exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "divide")},
    **{"atan": np.arctan, "asinh": np.arcsinh, "is_finite": np.isfinite},
    **{"expm1": _expm1, "log1p": _log1p, "power": _power, "atan2": _atan2},
    "log": lambda z: _where(z.real >= 0, np.log(z)),
    "sqrt": lambda z: _where(z.real >= 0, np.sqrt(z)),
    "asin": lambda z: _where(np.abs(z.real) <= 1, np.arcsin(z)),
    "acos": lambda z: _where(np.abs(z.real) <= 1, np.arccos(z)),
    "acosh": lambda z: _where(z.real >= 1, np.arccosh(z)),
    "atanh": lambda z: _where(np.abs(z.real) <= 1, np.arctanh(z)),
    **{name: _special(name) for name in ("erf", "erfc", "digamma")},
    "lgamma": _special("loggamma"),
}
