"""Rules for operations on complex numbers, and for Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.digits import operations
from functional_nn.gradients.digits.numbers import Arithmetic, Rules, Values, complex_numbers, imaginary_part, real_part
from functional_nn.gradients.digits.operations import gives_floating
from functional_nn.jaxprs.walk import array_type

Parts = tuple[Values, Values]
"""The real and the imaginary part."""

SAME_RULES = ("add", "add_any", "sub", "mul", "neg", "square", "eq", "ne", "select_n", "copy", "name", "device_put")
"""Elementwise operations whose rules only add, subtract, multiply, compare or choose."""
SAME_REDUCTIONS = ("reduce_sum", "reduce_prod", "cumsum", "cumprod")
RULES = Rules({name: operations.RULES[name] for name in (*SAME_RULES, *SAME_REDUCTIONS)})
RULES |= operations.MOVING


def is_complex(equation: JaxprEqn) -> bool:
    """Whether an operand or a result of an equation is complex."""
    variables = (*equation.invars, *equation.outvars)
    return any(jnp.issubdtype(array_type(variable).dtype, jnp.complexfloating) for variable in variables)


def _parts(x: Values) -> Parts:
    return real_part(x), imaginary_part(x)


@RULES.of("complex")
def _complex(arithmetic: Arithmetic, equation: JaxprEqn, real: Values, imag: Values) -> Values:
    return complex_numbers(real, imag)


@RULES.of("real")
def _real(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return real_part(x)


@RULES.of("imag")
def _imag(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return imaginary_part(x)


@RULES.of("conj")
def _conj(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    if not jnp.issubdtype(array_type(equation.invars[0]).dtype, jnp.complexfloating):
        return complex_numbers(x, x * 0)
    real, imag = _parts(x)
    return complex_numbers(real, -imag)


@RULES.of("convert_element_type")
def _convert_element_type(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """Converts real numbers to complex ones, or complex ones to real ones by taking the real part."""
    given = array_type(equation.invars[0]).dtype
    if jnp.issubdtype(given, jnp.complexfloating):
        return real_part(x) if gives_floating(equation) else x
    real = x if jnp.issubdtype(given, jnp.floating) else arithmetic.numbers(x)
    return complex_numbers(real, arithmetic.numbers(0.0))


def _size(arithmetic: Arithmetic, x: Values) -> Values:
    """|z| = √(Re² + Im²)."""
    real, imag = _parts(x)
    return arithmetic.function("sqrt")(real * real + imag * imag)


@RULES.of("abs")
def _abs(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return _size(arithmetic, x)


@RULES.of("sign")
def _sign(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """z / |z|, and 0 at 0."""
    size = _size(arithmetic, x)
    size = np.where(size == 0, arithmetic.numbers(1.0), size)
    divide = arithmetic.function("divide")
    return complex_numbers(divide(real_part(x), size), divide(imaginary_part(x), size))


@RULES.of("div")
def _div(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    """a / b = a b* / |b|²."""
    real, imag = _parts(b)
    square = real * real + imag * imag
    product = a * complex_numbers(real, -imag)
    divide = arithmetic.function("divide")
    return complex_numbers(divide(real_part(product), square), divide(imaginary_part(product), square))


@RULES.of("integer_pow")
def _integer_pow(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    one = complex_numbers(arithmetic.numbers(1.0), arithmetic.numbers(0.0))
    result = np.broadcast_to(one, x.shape)
    for _ in range(abs(equation.params["y"])):
        result = result * x
    return result if equation.params["y"] >= 0 else _div(arithmetic, equation, one, result)


def _exponential(arithmetic: Arithmetic, x: Values) -> Values:
    """e^z = e^Re (cos Im + i sin Im)."""
    real, imag = _parts(x)
    size = arithmetic.function("exp")(real)
    return complex_numbers(size * arithmetic.function("cos")(imag), size * arithmetic.function("sin")(imag))


def _logarithm(arithmetic: Arithmetic, x: Values) -> Values:
    """log z = log|z| + i atan2(Im, Re)."""
    real, imag = _parts(x)
    return complex_numbers(arithmetic.function("log")(_size(arithmetic, x)), arithmetic.function("atan2")(imag, real))


def _times(x: Values, factor: Values) -> Values:
    """The product with a real factor."""
    return complex_numbers(real_part(x) * factor, imaginary_part(x) * factor)


def _root(arithmetic: Arithmetic, x: Values) -> Values:
    """√z = e^{log z / 2}, and 0 at 0."""
    root = _exponential(arithmetic, _times(_logarithm(arithmetic, x), arithmetic.numbers(0.5)))
    return np.where(_size(arithmetic, x) == 0, x, root)


def _of_exponentials(arithmetic: Arithmetic, x: Values, sign: int) -> Values:
    """(e^z ± e^{-z}) / 2: the hyperbolic cosine or sine."""
    ahead, behind = _exponential(arithmetic, x), _exponential(arithmetic, -x)
    return _times(ahead + behind if sign > 0 else ahead - behind, arithmetic.numbers(0.5))


def _turned(x: Values) -> Values:
    """i z."""
    real, imag = _parts(x)
    return complex_numbers(-imag, real)


def _sine(arithmetic: Arithmetic, x: Values) -> Values:
    """sin z = -i sinh(i z)."""
    return -_turned(_of_exponentials(arithmetic, _turned(x), -1))


def _cosine(arithmetic: Arithmetic, x: Values) -> Values:
    """cos z = cosh(i z)."""
    return _of_exponentials(arithmetic, _turned(x), 1)


FUNCTIONS: dict[str, Callable[[Arithmetic, Values], Values]] = {
    "exp": _exponential,
    "log": _logarithm,
    "sqrt": _root,
    "sin": _sine,
    "cos": _cosine,
    "sinh": lambda arithmetic, x: _of_exponentials(arithmetic, x, -1),
    "cosh": lambda arithmetic, x: _of_exponentials(arithmetic, x, 1),
}
for _name, _function in FUNCTIONS.items():
    RULES[_name] = lambda arithmetic, equation, x, function=_function: function(arithmetic, x)


@RULES.of("tanh")
def _tanh(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return _div(arithmetic, equation, _of_exponentials(arithmetic, x, -1), _of_exponentials(arithmetic, x, 1))


@RULES.of("pow")
def _pow(arithmetic: Arithmetic, equation: JaxprEqn, a: Values, b: Values) -> Values:
    """a^b = e^{b log a}."""
    if not jnp.issubdtype(array_type(equation.invars[1]).dtype, jnp.complexfloating):
        b = complex_numbers(arithmetic.numbers(b) if b.dtype != object else b, arithmetic.numbers(0.0))
    return _exponential(arithmetic, _logarithm(arithmetic, a) * b)


@RULES.of("fft")
def _fft(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    """Fourier transforms over the last axes, one axis after the other, as products with roots of unity."""
    kind, lengths = equation.params["fft_type"].name, equation.params["fft_lengths"]
    axes = list(range(x.ndim - 1 - len(lengths), x.ndim - 1))
    # For real numbers, only the first half of the last axis of the spectrum is stored. The rest is its conjugate.
    # The axis that is real on one side goes first if the input is real, and last if the result is real.
    last = axes.pop() if kind in ("RFFT", "IRFFT") else 0
    if kind == "RFFT":
        whole = _along(arithmetic, complex_numbers(x, arithmetic.numbers(0.0)), last, inverse=False)
        x = np.take(whole, np.arange(lengths[-1] // 2 + 1), last)
    for axis in axes:
        x = _along(arithmetic, x, axis, inverse=kind in ("IFFT", "IRFFT"))
    if kind == "IRFFT":
        x = real_part(_along(arithmetic, _completed(x, last, lengths[-1]), last, inverse=True))
    return x


def _completed(x: Values, axis: int, length: int) -> Values:
    """Completes the spectrum of real numbers from its first half: the element at -k is the conjugate of that at k.

    Elements that are their own conjugates are real.
    """
    half = np.moveaxis(x, axis, 0)
    real, imag = _parts(half)
    rows = []
    for k in range(length):
        source = min(k, length - k)
        is_own_conjugate = 2 * k % length == 0
        sign = 1 if k == source else -1
        if is_own_conjugate:
            sign = 0
        rows.append(complex_numbers(real[source], imag[source] * sign))
    return np.moveaxis(np.stack(rows), 0, axis)


def _along(arithmetic: Arithmetic, x: Values, axis: int, *, inverse: bool) -> Values:
    """Σ_j x_j e^{∓2πi jk/n} along an axis, divided by n for the inverse."""
    n = x.shape[axis]
    # 8 atan(1) = 2π, with all digits.
    angles = arithmetic.numbers(np.arange(n)) * arithmetic.function("atan")(arithmetic.numbers(1.0)) * 8
    angles = arithmetic.function("divide")(angles, arithmetic.numbers(float(n)))
    sines = arithmetic.function("sin")(angles)
    roots = complex_numbers(arithmetic.function("cos")(angles), sines if inverse else -sines)
    # e^{2πi jk/n} depends only on jk mod n, so n roots are enough.
    powers = roots[np.outer(np.arange(n), np.arange(n)) % n]
    result = np.moveaxis(np.tensordot(powers, np.moveaxis(x, axis, 0), 1), 0, axis)
    if inverse:
        return _times(result, arithmetic.function("divide")(arithmetic.numbers(1.0), arithmetic.numbers(float(n))))
    return result
