"""Complex numbers of many digits, as pairs of real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from functional_nn.gradients.multiprecision.rules import Values


class Complex:
    """A complex number whose real and imaginary part are numbers of many digits.

    Arrays of such numbers add, subtract, multiply and compare like other arrays.
    """

    __slots__ = ("imag", "real")

    def __init__(self, real: Any, imag: Any):
        self.real = real
        self.imag = imag

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    def __neg__(self) -> Complex:
        return Complex(-self.real, -self.imag)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Complex) and bool(self.real == other.real and self.imag == other.imag)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def complex_numbers(real: Values, imag: Values) -> Values:
    """Makes complex numbers from their parts."""
    return np.asarray(np.frompyfunc(Complex, 2, 1)(real, imag), object)


def real_part(x: Values) -> Values:
    return np.asarray(np.frompyfunc(lambda z: z.real, 1, 1)(x), object)


def imaginary_part(x: Values) -> Values:
    return np.asarray(np.frompyfunc(lambda z: z.imag, 1, 1)(x), object)
