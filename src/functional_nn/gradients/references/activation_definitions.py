"""Activations and their derivatives in mpmath, written from the definitions.

They are independent of ``functional_nn.activations``: plain formulas, evaluated in more digits than are needed. Speed
does not matter here. All functions take and return ``mpmath.mpf`` numbers, in mpmath's current precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import mpmath as mp

Number: TypeAlias = Any
"""An ``mpmath.mpf``; mpmath has no types."""


class Formula(NamedTuple):
    """A function and its derivative.

    Args:
        function: f.
        derivative: f', with the declared value at kinks. Both take the activation's parameters after x.
        kinks: the points where f' jumps.
        zeros: the points, roughly, where f' crosses 0.
    """

    function: Callable[..., Number]
    derivative: Callable[..., Number]
    kinks: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()


def _sigma(x: Number) -> Number:
    return 1 / (1 + mp.exp(-x))


def _cumulative(x: Number) -> Number:
    """Φ(x). Huge x are clipped, since mpmath fails for them; there Φ is 0 or 1 to a billion digits."""
    return mp.ncdf(_clip(x, -(10**6), 10**6))


def _gelu_tanh_argument(x: Number) -> tuple[Number, Number]:
    """The argument u of tanh, and its derivative u'."""
    c, a = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
    return c * (x + a * x**3), c * (1 + 3 * a * x**2)


def _gelu_tanh(x: Number) -> Number:
    u, _ = _gelu_tanh_argument(x)
    # (1 + tanh u) / 2 = σ(2u), without the cancellation where tanh u is nearly -1.
    return x * _sigma(2 * u)


def _gelu_tanh_derivative(x: Number) -> Number:
    u, slope = _gelu_tanh_argument(x)
    return _sigma(2 * u) + x * slope * mp.sech(u) ** 2 / 2


def _mish_derivative(x: Number) -> Number:
    s = mp.log1p(mp.exp(x))  # its derivative is σ(x)
    return mp.tanh(s) + x * mp.sech(s) ** 2 * _sigma(x)


def _selu_constants() -> tuple[Number, Number]:
    """α and λ, with the digits in common use. They keep the mean 0 and the variance 1 of a normal variable."""
    return mp.mpf("1.6732632423543772848170429916717"), mp.mpf("1.0507009873554804934193349852946")


def _selu(x: Number) -> Number:
    alpha, scale = _selu_constants()
    return scale * (x if x > 0 else alpha * mp.expm1(x))


def _selu_derivative(x: Number) -> Number:
    alpha, scale = _selu_constants()
    return scale * (1 if x > 0 else alpha * mp.exp(x))


def _clip(x: Number, low: int, high: int) -> Number:
    return max(mp.mpf(low), min(mp.mpf(high), x))


def _hard_sigmoid(x: Number) -> Number:
    return _clip(x + 3, 0, 6) / 6


FORMULAS: dict[str, Formula] = {
    "identity": Formula(lambda x: x, lambda x: mp.mpf(1)),
    "sigmoid": Formula(_sigma, lambda x: mp.exp(-x) / (1 + mp.exp(-x)) ** 2),
    "tanh": Formula(mp.tanh, lambda x: mp.sech(x) ** 2),
    "softsign": Formula(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "softplus": Formula(lambda x: mp.log1p(mp.exp(x)), _sigma),
    "log_sigmoid": Formula(lambda x: -mp.log1p(mp.exp(-x)), lambda x: _sigma(-x)),
    "relu": Formula(lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(x > 0), (0.0,)),
    "leaky_relu": Formula(
        lambda x, slope: x if x >= 0 else slope * x, lambda x, slope: mp.mpf(1 if x >= 0 else slope), (0.0,)
    ),
    "elu": Formula(
        lambda x, alpha: x if x > 0 else alpha * mp.expm1(x),
        lambda x, alpha: mp.mpf(1) if x > 0 else alpha * mp.exp(x),
        (0.0,),
    ),
    "selu": Formula(_selu, _selu_derivative, (0.0,)),
    "gelu": Formula(
        lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * mp.npdf(x), (), (-0.7517915246935645,)
    ),
    "gelu_tanh": Formula(_gelu_tanh, _gelu_tanh_derivative, (), (-0.7524614220710163,)),
    "silu": Formula(lambda x: x * _sigma(x), lambda x: _sigma(x) * (1 + x * _sigma(-x)), (), (-1.2784645427610737,)),
    "mish": Formula(lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), _mish_derivative, (), (-1.1924312145154952,)),
    "relu6": Formula(lambda x: _clip(x, 0, 6), lambda x: mp.mpf(0 < x < 6), (0.0, 6.0)),
    "hard_tanh": Formula(lambda x: _clip(x, -1, 1), lambda x: mp.mpf(-1 <= x <= 1), (-1.0, 1.0)),
    "hard_sigmoid": Formula(_hard_sigmoid, lambda x: mp.mpf(-3 < x < 3) / 6, (-3.0, 3.0)),
    "hard_silu": Formula(
        lambda x: x * _hard_sigmoid(x),
        lambda x: (2 * x + 3) / 6 if -3 < x < 3 else mp.mpf(x > 0),
        (-3.0, 3.0),
        (-1.5,),
    ),
}
"""Every activation that acts on single elements, by its name in ``functional_nn.activations.ACTIVATIONS``."""
