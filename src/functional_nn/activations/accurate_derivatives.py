"""The derivatives of gelu, gelu_tanh, silu and mish, to the last digits, in the tails and where they cross 0.

All are x times a gate g that goes from 0 to 1. What is done for the digits:

- Where f' crosses 0 its terms cancel. So its factor k that does is written as k(n) + (k(x) - k(n)), where n is the
  number nearest to the zero: k(n) is a tiny constant, and the rest is, term by term, a multiple of d = x - n with the
  sign of d.
- g(-x) = 1 - g(x), which holds for all but mish, gives f'(x) = 1 - f'(-x): the formula for x ≤ 0 is enough.
- e^v loses the digits that v lacks: v is added up from halves, h + l = x, whose products are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.shapes import wide_type


def wide(derivative: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Has numbers of 16 bits computed in 32, and rounded once; integers are taken for floating-point numbers."""

    @wraps(derivative)
    def computed_wide(x, *parameters):
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        return derivative(x.astype(wide_type(x.dtype)), *parameters).astype(x.dtype)

    return computed_wide


class Exponential(NamedTuple):
    """e^v = (1 + rest) · scale · scale_too, with powers of 2 as scales.

    So a factor is multiplied in with one rounding (to factor + factor · rest), and before there is an underflow.
    """

    rest: jax.Array
    scale: jax.Array
    scale_too: jax.Array

    def times(self, factor: Any) -> jax.Array:
        """factor · e^v."""
        return (factor + factor * self.rest) * self.scale * self.scale_too

    def over_1_and(self, s: jax.Array) -> Exponential:
        """e^v / (1 + s) for 0 ≤ s ≤ 3. The power of 2 beside 1 / (1 + s), which is a, goes to the scale.

        So the new rest, (1 + rest - a (1 + s)) / (a (1 + s)), is small, and the errors of 1 + s and of the division are
        a small share of a product with a factor.
        """
        a = jnp.where(s < 0.4, 1, jnp.where(s < 1.8, 0.5, 0.25)).astype(s.dtype)
        return Exponential((((1 - a) - a * s) + self.rest) / (a + a * s), self.scale * a, self.scale_too)


def exponential(v: jax.Array, v_low: Any = 0) -> Exponential:
    """e^{v + v_low} for v ≤ 0, with a small v_low for the digits that v has no room for.

    e^v = 2^n e^r with r = v - n log 2, |r| < 0.35, and e^r - 1 by its series.
    """
    kind = jnp.finfo(v.dtype)
    v = jnp.maximum(v, -(kind.maxexp + kind.nmant + 2) * math.log(2))
    n = jnp.round(v * (1 / math.log(2)))
    log_2, log_2_low = _constant_halves(math.log(2), 2.3190468138462996e-17, 15 if v.dtype == jnp.float32 else 40)
    r, r_low = v - n * log_2, v_low - n * log_2_low
    half = jnp.floor(n / 2)
    return Exponential(_exp_less_1(r, r_low), _power_of_2(half), _power_of_2(n - half))


def _exp_less_1(high, low=0.0):
    """e^r - 1 for r = high + low, |r| < 0.5, by the exponential series; XLA's expm1 is wrong by 5 ULP."""
    r = high + low
    series = jnp.zeros_like(r)
    for j in range(8 if r.dtype == jnp.float32 else 14, 1, -1):
        series = (1 + series) * (r * (1 / j))
    return high + (low + r * series)


def _power_of_2(n):
    """2^n, exactly, by its bits."""
    kind = jnp.finfo(n.dtype)
    exponent = n.astype(f"int{kind.bits}") + (kind.maxexp - 1)
    return jax.lax.bitcast_convert_type(exponent << kind.nmant, n.dtype)


def _halves(x):
    """x = h + l, where h has half of the digits, so that the product of two such numbers is exact."""
    kind = jnp.finfo(x.dtype)
    high = jax.lax.reduce_precision(x, exponent_bits=kind.nexp, mantissa_bits=(kind.nmant - 1) // 2)
    return high, x - high


def _constant_halves(value, rest, bits):
    """The constant ``value + rest`` as one of so many bits, and what is left."""
    scale = 2.0 ** (bits - math.frexp(value)[1])
    high = round(value * scale) / scale
    return high, (value - high) + rest


def _beside(root, rest, slope, dtype):
    """The number n of that type nearest to a function's zero ``root + rest``, and the function's value at n."""
    n = float(np.asarray(root, dtype))
    return n, ((n - root) - rest) * slope


def _exp_difference(p, p_n, d):
    """p - p_n = p_n (e^d - 1), by the latter where d is small."""
    return jnp.where(jnp.abs(d) < 0.3, p_n * _exp_less_1(d), p - p_n)


def _both_sides(x, left):
    """f'(x) of f'(-|x|)."""
    return jnp.where(x > 0, 1 - left, left)


_GELU_SERIES = (
    *(0.49595474370069426, -0.12545248682662027, 0.03490510198467443, -0.007524010441293161, 0.0011560284436263372),
    *(-9.36772720640145e-05, -5.6597012302996885e-06, 2.3677309066664844e-06, -8.107593380313914e-08),
    *(-5.1877747208246695e-08, 4.570057475859399e-09, 1.365617100370196e-09, -1.602660258606792e-10),
    *(-4.555152315040624e-11, 4.92768477171383e-12, 1.828653400261278e-12, -1.166767494573978e-13),
    *(-8.041463817134733e-14, -1.8590888190635316e-16, 3.5183502280906947e-15, 3.0491112181259736e-16),
    *(-1.367841210303818e-16, -2.8875126980827283e-17),
)


@wide
def gelu_derivative(x):
    """(x Φ(x))' = Φ(x) + x φ(x), with the normal distribution's Φ and its density φ = Φ' = e^{-x²/2} / √(2π).

    For x ≤ 0 it is e^{-x²/2} k(x), k(x) = (x - r) G(x), where r = -0.7518 is its zero and
    G(x) = (x + Φ(x) / φ(x)) / ((x - r) √(2π)) goes slowly from 0.67 at 0 to 0.40, as the Chebyshev series Σ c_j T_j(t),
    t = (-x - 4) / (-x + 4), does. The exponent is -h²/2 - l (x + h) / 2.
    """
    root = -0.7517915246935645
    n, k_n = _beside(root, 1.4956759177009883e-17, (2 - root * root) / math.sqrt(2 * math.pi), x.dtype)
    x_left = -jnp.minimum(jnp.abs(x), 40)
    t = (-x_left - 4) / (4 - x_left)
    coefficients = np.polynomial.chebyshev.cheb2poly(_GELU_SERIES[: 10 if x.dtype == jnp.float32 else None])
    series = jnp.zeros_like(t)
    for coefficient in reversed(coefficients.tolist()):
        series = coefficient + t * series
    k = (x_left - n) * series + k_n

    high, low = _halves(x_left)
    e = exponential(-jnp.square(high) / 2, -low * (x_left + high) / 2)
    return _both_sides(x, e.times(k))


@wide
def gelu_tanh_derivative(x):
    """(x σ(v))' = σ(v) (1 + x v' σ(-v)) with v = 2u = b x + c x³, b = 2 √(2/π), c = 0.044715 b, v' = b + 3 c x².

    It is σ(v) σ(-v) k with k = 1 + e^v + x v', which is 0 at -0.7525. By x³ - n³ = d (3 n² + d (d + 3n)):
    k - k(n) = e^{v(n)} (e^{v - v(n)} - 1) + d (b + 9 c n² + 3 c d (d + 3n)), v - v(n) = d (b + 3 c n² + c d (d + 3n)).
    There b + 9 c n² is almost 2, and 2 d is exact. Below -1.4 it is x v' = 3 v - 2 b x that is added up from halves.
    And σ(v) σ(-v) = e^v / (1 + e^v)².
    """
    b, b_rest, c, c_rest = 1.5957691216057308, -9.96930880911092e-17, 0.07135481627260025, -6.175149918155315e-19
    root, p_root = -0.7524614220710163, 0.29195521191476714
    slope = (1 + p_root) * (b + 3 * c * root**2) + 6 * c * root**2
    n, k_n = _beside(root, 3.635560509207687e-17, slope, x.dtype)
    x_left = -jnp.minimum(jnp.abs(x), 40)
    high, low = _halves(x_left)
    square, _ = _halves(high * high)
    square_low = (high * high - square) + low * (x_left + high)
    bits = (jnp.finfo(x.dtype).nmant + 1) // 2
    b_high, b_low = _constant_halves(b, b_rest, bits)
    c_high, c_low = _constant_halves(c, c_rest, bits)
    sum_high, _ = _halves(b_high + c_high * square)
    sum_low = (c_high * square - sum_high + b_high) + (b_low + c_low * square + c * square_low)
    v_low = low * sum_high + x_left * sum_low
    e = exponential(high * sum_high, v_low)
    p = e.times(1)

    d = x_left - n
    bend = c * d * (d + 3 * n)
    rise = _exp_difference(p, math.exp(b * n + c * n**3), d * (b + 3 * c * n * n + bend))
    beside_zero = 2 * d + (d * (b + 9 * c * n * n - 2 + 3 * bend) + (rise + k_n))
    rest = 1 + (p + (3 * v_low - 2 * (b_high * low + b_low * x_left)))
    k = jnp.where(x_left < -1.4, high * (3 * sum_high - 2 * b_high) + rest, beside_zero)
    return _both_sides(x, e.over_1_and(2 * p + p * p).times(k))


@wide
def silu_derivative(x):
    """(x σ(x))' = σ(x) (1 + x σ(-x)) = σ(x) σ(-x) k with k = 1 + x + e^x, which is 0 at -1.278.

    k - k(n) = d + e^n (e^d - 1). Below 2n d is rounded, 1 + x is not. And σ(x) σ(-x) = e^x / (1 + e^x)².
    """
    root = -1.2784645427610737
    n, k_n = _beside(root, -1.0946994183093437e-16, 1 + math.exp(root), x.dtype)
    x_left = -jnp.minimum(jnp.abs(x), 800)
    e = exponential(x_left)
    p = e.times(1)
    d = x_left - n
    beside_zero = d + (_exp_difference(p, math.exp(n), d) + k_n)
    k = jnp.where(x_left < 2 * n, (1 + x_left) + p, beside_zero)
    return _both_sides(x, e.over_1_and(2 * p + p * p).times(k))


@wide
def mish_derivative(x):
    """(x tanh s)' = tanh s + x σ(x) / cosh² s with s = log(1 + e^x), s' = σ(x).

    With p = e^x and w = 2 + 2p + p², tanh s = 1 - 2 / w and 1 / cosh² s = 4 (1 + p)² / w², so with g = 4 (p + p²) / w²
    the derivative is 1 - 2 / w + x g. Each side of it is summed up from where it lies near:

    - x > 0, from 1: 1 - (2w - x g w²) / w², both divided by p⁴, for q = e^{-x} in place of p.
    - x ≥ -1/2, from 1/2: 1/2 + ((w - 4) / 2 + x g w) / w.
    - x < -1/2, from its zero: p k / (w / 2)² with k = (x + 1) + (x + 3/2) p + p² + p³ / 4, which is 0 at -1.192. With
      p_n = e^n, p - p_n = p_n (e^d - 1):
      k - k(n) = d (1 + p_n) + (p - p_n) (d + n + 3/2 + p + p_n + (p² + p p_n + p_n²) / 4). Below 2n, as for silu, it
      is k itself.
    """
    root, p_root = -1.1924312145154952, 0.3034825352815289
    slope = 1 + p_root * (root + 2.5 + p_root * (2 + 0.75 * p_root))
    n, k_n = _beside(root, -4.8484829848031044e-17, slope, x.dtype)
    p_n = math.exp(n)
    x_left, x_right = jnp.clip(x, -800, 0), jnp.clip(x, 0, 800)
    e = exponential(x_left - x_right)
    p = q = e.times(1)
    d = x_left - n
    t = p * (1 + p / 4)
    factor = d + ((n + 1.5 + p_n + p_n * p_n / 4) + p * (1 + (p + p_n) / 4))
    k_beside = d + (d * p_n + (_exp_difference(p, p_n, d) * factor + k_n))
    k = jnp.where(x < 2 * n, (1 + x_left) + p * (x_left + 1.5 + t), k_beside)
    from_zero = e.over_1_and(p * (2 + p * (2 + t))).times(k)

    w = 2 + p * (2 + p)
    above_half = ((p - 1) + p * p / 2) * w + 4 * x_left * (p + p * p)
    below_one = q * q * (4 * x_right - 2 - 4 * q * (1 - x_right + q))
    numerator = jnp.where(x > 0, below_one, above_half)
    denominator = jnp.where(x > 0, 1 + 2 * q * (1 + q), w)
    from_number = jnp.where(x > 0, 1, jnp.full_like(x, 0.5)) + numerator / jnp.square(denominator)
    return jnp.where(x < -0.5, from_zero, from_number)
