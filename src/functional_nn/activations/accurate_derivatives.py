"""First and second derivatives of gelu, gelu_tanh, silu and mish, accurate to the last digits.

Each of these activations is x times a gate: a function that rises from 0 to 1. If its derivative f' is computed by the
textbook formula, digits are lost where terms cancel, and in the tails, where numbers underflow. Three methods keep the
digits:

- *The zero of f'.* Near the point where f' is 0, its terms cancel. So f' is written as a positive factor times k, and
  only k is 0 there. Let n be the floating-point number nearest to this zero. Then k(x) = k(n) + (k(x) - k(n)). The
  first part is a tiny constant. Each term of the second part is a multiple of d = x - n and has the sign of d, so
  these terms do not cancel.
- *Symmetry.* Every gate but mish's has gate(-x) = 1 - gate(x). Then f'(x) = 1 - f'(-x), so a formula for x ≤ 0 is
  enough.
- *Exact products.* An error in v becomes a relative error of the same size in e^v. So v is computed as a sum of two
  numbers. For this, x is split into two halves, x = high + low. Each half has half of the digits, so the product of
  two halves is exact.

The second derivatives of all but mish are even functions, so their formulas are for x ≤ 0. Near a zero of f'', the
relative error grows with the condition number of f''.

At the end are rules by which JAX differentiates hand-derived derivatives: second derivatives, and the derivative of
softmax. JAX differentiates a formula operation by operation, and can lose digits that the formula kept. For example, it
computes the derivative of σ(x) as σ(x) (1 - σ(x)), which is 0 for large x. These rules do not apply to layers,
activations and losses themselves: JAX or their formula differentiates them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.shapes import wide_type


def in_wide_type(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Makes a function compute 16-bit numbers in float32 and round once. Integers become floating-point numbers."""

    @wraps(function)
    def computed_wide(x, *parameters):
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        return function(x.astype(wide_type(x.dtype)), *parameters).astype(x.dtype)

    return computed_wide


def exp_and_scale(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """e and s with e^x = e s, for x ≤ 0. A factor times e, then times s, has its digits even if e^x underflows to 0."""
    small = x < -32
    return jnp.exp(jnp.where(small, x + 32, x)), jnp.where(small, math.exp(-32), jnp.ones_like(x))


_GELU_SERIES = (
    0.49595474370069426,
    -0.12545248682662027,
    0.03490510198467443,
    -0.007524010441293161,
    0.0011560284436263372,
    -9.36772720640145e-05,
    -5.6597012302996885e-06,
    2.3677309066664844e-06,
    -8.107593380313914e-08,
    -5.1877747208246695e-08,
    4.570057475859399e-09,
    1.365617100370196e-09,
    -1.602660258606792e-10,
    -4.555152315040624e-11,
    4.92768477171383e-12,
    1.828653400261278e-12,
    -1.166767494573978e-13,
    -8.041463817134733e-14,
    -1.8590888190635316e-16,
    3.5183502280906947e-15,
    3.0491112181259736e-16,
    -1.367841210303818e-16,
    -2.8875126980827283e-17,
)
"""The coefficients c_j of the Chebyshev series of G in ``gelu_derivative``. The first 10 are enough for float32."""


@in_wide_type
def gelu_derivative(x):
    """(x Φ(x))' = Φ(x) + x φ(x), with the normal distribution's Φ and its density φ = Φ' = e^{-x²/2} / √(2π).

    For x ≤ 0 it is e^{-x²/2} k(x) with k(x) = (x - r) G(x). Here r = -0.7518 is the zero, and
    G(x) = (x + Φ(x) / φ(x)) / ((x - r) √(2π)). G changes slowly, from 0.67 at x = 0 to 0.40 far to the left, so a
    short Chebyshev series Σ c_j T_j(t) in t = (-x - 4) / (-x + 4) gives it to the last digits.
    """
    root = -0.7517915246935645
    # k' = (2 + x Φ / φ) / √(2π) by φ' = -x φ, and Φ / φ = -x at the zero.
    slope = (2 - root * root) / math.sqrt(2 * math.pi)
    n, k_n = _nearest_to_zero(root, 1.4956759177009883e-17, slope, x.dtype)
    # Beyond 40 the result is 0 or 1 in every type. The bound keeps infinite x out of the formulas.
    x_left = -jnp.minimum(jnp.abs(x), 40)

    # G(x): the Chebyshev series, written as a polynomial in t and evaluated by Horner's rule.
    t = (-x_left - 4) / (4 - x_left)
    coefficients = np.polynomial.chebyshev.cheb2poly(_GELU_SERIES[: 10 if x.dtype == jnp.float32 else None])
    series = jnp.zeros_like(t)
    for coefficient in reversed(coefficients.tolist()):
        series = coefficient + t * series
    # k(x) = (x - n) G(x) + (n - r) G(x). In the tiny second term G(n) is as good as G(x), so the term is k(n).
    k = (x_left - n) * series + k_n

    # The exponent: -x²/2 = -high²/2 - low (x + high) / 2. The square of the half ``high`` is exact.
    high, low = halves(x_left)
    e = exponential(-jnp.square(high) / 2, -low * (x_left + high) / 2)
    return _both_sides(x, e.times(k))


@in_wide_type
def gelu_tanh_derivative(x):
    """(x σ(v))' = σ(v) (1 + x v' σ(-v)) with v = 2u = b x + c x³, b = 2 √(2/π), c = 0.044715 b, v' = b + 3 c x².

    It is σ(v) σ(-v) k with k = 1 + e^v + x v', which is 0 at -0.7525, and σ(v) σ(-v) = e^v / (1 + e^v)². By
    x³ - n³ = d (3 n² + d (d + 3n)):

    v - v(n) = d (b + 3 c n² + c d (d + 3n)),
    k - k(n) = e^{v(n)} (e^{v - v(n)} - 1) + d (b + 9 c n² + 3 c d (d + 3n))

    Below -1.4, far from the zero, k itself is computed, with x v' = 3 v - 2 b x from halves.
    """
    (b, b_rest), (c, _) = GELU_TANH_B, GELU_TANH_C
    root, p_root = -0.7524614220710163, 0.29195521191476714
    # k' = e^v v' + v' + x v'' with e^v = p and x v'' = 6 c x².
    slope = (1 + p_root) * (b + 3 * c * root**2) + 6 * c * root**2
    n, k_n = _nearest_to_zero(root, 3.635560509207687e-17, slope, x.dtype)
    x_left = -jnp.minimum(jnp.abs(x), 40)

    e, high, low, sum_high, v_low = gelu_tanh_exponential(x_left)
    p = e.times(1)

    # k near its zero. b + 9 c n² is almost 2, so 2 d, which is exact, is added last.
    d = x_left - n
    cubic_part = c * d * (d + 3 * n)
    p_difference = _exp_difference(p, math.exp(b * n + c * n**3), d * (b + 3 * c * n * n + cubic_part))
    k_near_zero = 2 * d + (d * (b + 9 * c * n * n - 2 + 3 * cubic_part) + (p_difference + k_n))

    # k below -1.4: 1 + p + 3 v - 2 b x. The product high · (3 sum_high - 2 b_high) is the largest term and is added
    # last. It comes from v = high · sum_high + v_low and b x = b_high · high + (b_high · low + b_low · x).
    b_high, b_low = _constant_halves(b, b_rest, _half_digits(x.dtype))
    small_terms = 1 + (p + (3 * v_low - 2 * (b_high * low + b_low * x_left)))
    k = jnp.where(x_left < -1.4, high * (3 * sum_high - 2 * b_high) + small_terms, k_near_zero)
    return _both_sides(x, e.divided_by_1_plus(2 * p + p * p).times(k))


GELU_TANH_B = 1.5957691216057308, -9.96930880911092e-17
GELU_TANH_C = 0.07135481627260025, -6.175149918155315e-19
"""The constants b and c in ``gelu_tanh_derivative``, each as a rounded number and the remainder of the rounding."""


def gelu_tanh_exponential(x_left: jax.Array) -> tuple[Exponential, jax.Array, jax.Array, jax.Array, jax.Array]:
    """e^v for v = x (b + c x²) and x ≤ 0, and the parts of x and of b + c x² from which v is computed.

    With x = high + low, the result is (e^v, high, low, sum_high, v_low), where v = high · sum_high + v_low.
    """
    (b, b_rest), (c, c_rest) = GELU_TANH_B, GELU_TANH_C

    # x² = square + square_low, where ``square`` has half of the digits.
    high, low = halves(x_left)
    square, _ = halves(high * high)
    square_low = (high * high - square) + low * (x_left + high)

    # b + c x² = sum_high + sum_low, where ``sum_high`` has half of the digits.
    bits = _half_digits(x_left.dtype)
    b_high, b_low = _constant_halves(b, b_rest, bits)
    c_high, c_low = _constant_halves(c, c_rest, bits)
    sum_high, _ = halves(b_high + c_high * square)
    sum_low = (c_high * square - sum_high + b_high) + (b_low + c_low * square + c * square_low)

    # v = x (b + c x²) = high · sum_high + v_low, where the product is exact.
    v_low = low * sum_high + x_left * sum_low
    return exponential(high * sum_high, v_low), high, low, sum_high, v_low


@in_wide_type
def silu_derivative(x):
    """(x σ(x))' = σ(x) (1 + x σ(-x)) = σ(x) σ(-x) k with k = 1 + x + e^x, which is 0 at -1.278.

    k - k(n) = d + e^n (e^d - 1), and σ(x) σ(-x) = e^x / (1 + e^x)².
    """
    root = -1.2784645427610737
    n, k_n = _nearest_to_zero(root, -1.0946994183093437e-16, 1 + math.exp(root), x.dtype)
    # e^-800 is 0 in every type. The bound keeps infinite x out of the formulas.
    x_left = -jnp.minimum(jnp.abs(x), 800)
    e = exponential(x_left)
    p = e.times(1)

    d = x_left - n
    k_near_zero = d + (_exp_difference(p, math.exp(n), d) + k_n)
    # Below 2n the difference d is rounded, but 1 + x is exact. So k itself is computed there.
    k = jnp.where(x_left < 2 * n, (1 + x_left) + p, k_near_zero)
    return _both_sides(x, e.divided_by_1_plus(2 * p + p * p).times(k))


@in_wide_type
def mish_derivative(x):
    """(x tanh s)' = tanh s + x σ(x) / cosh² s with s = log(1 + e^x), s' = σ(x).

    With p = e^x and w = 2 + 2p + p², tanh s = 1 - 2 / w and 1 / cosh² s = 4 (1 + p)² / w². So with g = 4 (p + p²) / w²
    the derivative is 1 - 2 / w + x g. In each of three ranges, it is a constant (1, 1/2 or 0) plus a computed distance:

    - x > 0, the distance from 1: 1 - (2w - x g w²) / w². Numerator and denominator are divided by p⁴, so that they
      contain q = e^{-x} and not p, which would overflow.
    - -1/2 ≤ x ≤ 0, the distance from 1/2: 1/2 + ((w - 4) / 2 + x g w) / w.
    - x < -1/2, near the zero: p k / (w / 2)² with k = (x + 1) + (x + 3/2) p + p² + p³ / 4, which is 0 at -1.192. With
      p_n = e^n and p - p_n = p_n (e^d - 1):
      k - k(n) = d (1 + p_n) + (p - p_n) (d + n + 3/2 + p + p_n + (p² + p p_n + p_n²) / 4). Below 2n k itself is
      computed, as for silu.
    """
    root, p_root = -1.1924312145154952, 0.3034825352815289
    # k' = 1 + p + (x + 3/2) p + 2 p² + 3 p³ / 4, since p' = p.
    slope = 1 + p_root * (root + 2.5 + p_root * (2 + 0.75 * p_root))
    n, k_n = _nearest_to_zero(root, -4.8484829848031044e-17, slope, x.dtype)
    p_n = math.exp(n)

    # x_left + x_right = x, and one of them is 0. One exponential serves both sides: p = e^x on the left, q = e^{-x} on
    # the right.
    x_left = jnp.clip(x, -800, 0)
    x_right = jnp.clip(x, 0, 800)
    e = exponential(x_left - x_right)
    p = q = e.times(1)

    # x < -1/2: p k / (w / 2)², where (w / 2)² = 1 + p (2 + p (2 + t)) with t = p + p²/4.
    d = x_left - n
    t = p * (1 + p / 4)
    factor = d + ((n + 1.5 + p_n + p_n * p_n / 4) + p * (1 + (p + p_n) / 4))
    k_near_zero = d + (d * p_n + (_exp_difference(p, p_n, d) * factor + k_n))
    k = jnp.where(x < 2 * n, (1 + x_left) + p * (x_left + 1.5 + t), k_near_zero)
    from_zero = e.divided_by_1_plus(p * (2 + p * (2 + t))).times(k)

    # The other two ranges: 1/2 or 1 plus a quotient with the denominator w², or w² / p⁴ for x > 0. The numerators
    # have no quotients, by (w - 4) / 2 = p - 1 + p² / 2 and x g w² = 4 x (p + p²).
    w = 2 + p * (2 + p)
    above_half = ((p - 1) + p * p / 2) * w + 4 * x_left * (p + p * p)
    below_one = q * q * (4 * x_right - 2 - 4 * q * (1 - x_right + q))
    numerator = jnp.where(x > 0, below_one, above_half)
    denominator = jnp.where(x > 0, 1 + 2 * q * (1 + q), w)
    from_number = jnp.where(x > 0, 1, jnp.full_like(x, 0.5)) + numerator / jnp.square(denominator)
    return jnp.where(x < -0.5, from_zero, from_number)


class Exponential(NamedTuple):
    """e^v as a product, (1 + rest) · scale · second_scale, in which both scales are powers of 2.

    A product with a factor then has one rounding error, that of factor + factor · rest. The scales are multiplied in
    last, so the result underflows only if the product itself is too small. One power of 2 is not enough for the
    smallest numbers, so there are two.
    """

    rest: jax.Array
    scale: jax.Array
    second_scale: jax.Array

    def times(self, factor: jax.Array | float) -> jax.Array:
        """factor · e^v."""
        return (factor + factor * self.rest) * self.scale * self.second_scale

    def divided_by_1_plus(self, s: jax.Array) -> Exponential:
        """e^v / (1 + s) for 0 ≤ s ≤ 6.

        Let a be a power of 2 near 1 / (1 + s). The scale is multiplied by a, which is exact. The new rest,
        (1 + rest - a (1 + s)) / (a (1 + s)), is then small, so its rounding errors are small in a product.
        """
        a = jnp.where(s < 0.4, 1, jnp.where(s < 1.8, 0.5, 0.25)).astype(s.dtype)
        return Exponential((((1 - a) - a * s) + self.rest) / (a + a * s), self.scale * a, self.second_scale)


def exponential(v: jax.Array, v_low: jax.Array | float = 0) -> Exponential:
    """e^{v + v_low} for v ≤ 0. The small v_low holds the digits that v has no room for.

    e^v = 2^n e^r with r = v - n log 2, |r| < 0.35, and e^r - 1 by its series.
    """
    kind = jnp.finfo(v.dtype)
    # Below this bound e^v is 0, and 2^n could not be built from its bits.
    v = jnp.maximum(v, -(kind.maxexp + kind.nmant + 2) * math.log(2))
    n = jnp.round(v * (1 / math.log(2)))

    # log 2 as two numbers: the first has so few bits that its product with the integer n is exact.
    bits = 15 if v.dtype == jnp.float32 else 40
    log_2, log_2_low = _constant_halves(math.log(2), 2.3190468138462996e-17, bits)
    r, r_low = v - n * log_2, v_low - n * log_2_low
    # 2^n itself may be below the smallest normal number. Its two factors are not.
    half = jnp.floor(n / 2)
    return Exponential(_exp_minus_1(r, r_low), _power_of_2(half), _power_of_2(n - half))


def _exp_minus_1(high: jax.Array, low: jax.Array | float = 0.0) -> jax.Array:
    """e^r - 1 for r = high + low, |r| < 0.5, by the exponential series. XLA's expm1 has errors of up to 5 ULP."""
    r = high + low
    # The series Σ r^{j-1} / j! over j ≥ 2, from its last term: r/2 (1 + r/3 (1 + …)).
    series = jnp.zeros_like(r)
    for j in range(8 if r.dtype == jnp.float32 else 14, 1, -1):
        series = (1 + series) * (r * (1 / j))
    # The largest part is added last, so only this addition rounds at its size.
    return high + (low + r * series)


def _power_of_2(n: jax.Array) -> jax.Array:
    """2^n, exactly: n is written into the bits of the exponent."""
    kind = jnp.finfo(n.dtype)
    # The exponent is stored with the offset maxexp - 1, above the nmant bits of the fraction.
    exponent = n.astype(f"int{kind.bits}") + (kind.maxexp - 1)
    return jax.lax.bitcast_convert_type(exponent << kind.nmant, n.dtype)


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits x = high + low. ``high`` has half of the digits, so the product of two such numbers is exact."""
    kind = jnp.finfo(x.dtype)
    # With the leading bit, which is not stored, high has 12 of 24 bits in float32, and 26 of 53 in float64.
    high = jax.lax.reduce_precision(x, exponent_bits=kind.nexp, mantissa_bits=(kind.nmant - 1) // 2)
    return high, x - high


def _half_digits(dtype: DTypeLike) -> int:
    """Half of the binary digits of a type."""
    return (jnp.finfo(dtype).nmant + 1) // 2


def _constant_halves(value: float, rest: float, bits: int) -> tuple[float, float]:
    """Splits the constant value + rest into a number of at most ``bits`` bits and the remainder."""
    scale = 2.0 ** (bits - math.frexp(value)[1])
    high = round(value * scale) / scale
    return high, (value - high) + rest


def _nearest_to_zero(root: float, rest: float, slope: float, dtype: DTypeLike) -> tuple[float, float]:
    """The number n of this type nearest to the zero root + rest of a function, and the function's value at n.

    So close to the zero the value is the slope times the distance.
    """
    n = float(np.asarray(root, dtype))
    return n, ((n - root) - rest) * slope


def _exp_difference(p: jax.Array, p_n: float, d: jax.Array) -> jax.Array:
    """p - p_n for p = p_n e^d. Where d is small, it is computed as p_n (e^d - 1), which does not cancel."""
    return jnp.where(jnp.abs(d) < 0.3, p_n * _exp_minus_1(d), p - p_n)


def _both_sides(x: jax.Array, left: jax.Array) -> jax.Array:
    """f'(x) from its value on the left, f'(-|x|), by f'(x) = 1 - f'(-x)."""
    return jnp.where(x > 0, 1 - left, left)


@in_wide_type
def gelu_second_derivative(x):
    """(Φ + x φ)' = φ + φ - x² φ = φ(x) (2 - x²), since φ' = -x φ. And 2 - x² = (√2 - |x|) (√2 + |x|)."""
    x_left = -jnp.minimum(jnp.abs(x), 40)
    high, low = halves(x_left)
    e = exponential(-jnp.square(high) / 2, -low * (x_left + high) / 2)
    return e.times((math.sqrt(2) + x_left) * (math.sqrt(2) - x_left) / math.sqrt(2 * math.pi))


@in_wide_type
def gelu_tanh_second_derivative(x):
    """(x σ(v))'' = 2 σ'(v) v' + x (σ'(v) v'' + σ''(v) v'²) with v = b x + c x³, v' = b + 3 c x², v'' = 6 c x.

    By σ'' = -σ' tanh(v / 2), it is σ'(v) k with k = 2 v' + x v'' - x v'² tanh(v / 2). For x ≤ 0 and p = e^v ≤ 1,
    tanh(v / 2) = -(1 - p) / (1 + p), and σ'(v) = p / (1 + p)².
    """
    (b, _), (c, _) = GELU_TANH_B, GELU_TANH_C
    x_left = -jnp.minimum(jnp.abs(x), 40)
    e, *_ = gelu_tanh_exponential(x_left)
    p = e.times(1)
    square = c * x_left * x_left
    # 2 v' + x v'' = 2 b + 12 c x², and -tanh(v / 2) = (1 - p) / (1 + p).
    k = 2 * b + 12 * square + x_left * jnp.square(b + 3 * square) * ((1 - p) / (1 + p))
    return e.divided_by_1_plus(2 * p + p * p).times(k)


@in_wide_type
def silu_second_derivative(x):
    """(x σ(x))'' = 2 σ' + x σ'' = σ'(x) (2 - x tanh(x / 2)), by σ'' = -σ' tanh(x / 2)."""
    x_left = -jnp.minimum(jnp.abs(x), 800)
    e = exponential(x_left)
    p = e.times(1)
    return e.divided_by_1_plus(2 * p + p * p).times(2 - x_left * jnp.tanh(x_left / 2))


@in_wide_type
def mish_second_derivative(x):
    """(x T)'' = 2 T' + x T'' with T = tanh s = 1 - 2 / w, w = 2 + 2p + p², p = e^x.

    T' = 4 (p + p²) / w², and by p' = p, w' = 2p + 2p²: T'' = 4 (p + 2p²) / w² - 8 (p + p²) w' / w³. With p taken out,

    x ≤ 0: f'' = 4 p / w² (2 (1 + p) + x (1 - 2 p² (2 + p) / w))

    For x > 0, numerator and denominator are divided by powers of p, with q = e^{-x} and u = 1 + 2q + 2q²:
    f'' = 4 q² / u² (2 (1 + q) + x (q - 2 (1 + 2q) / u))
    """
    # At exactly 0, the slope of ``jnp.clip`` is 1/2. The derivative of this function needs 1.
    x_left = jnp.where(x > 0, 0, jnp.maximum(x, -800))
    left = exponential(x_left)
    p = left.times(1)
    w = 2 + p * (2 + p)
    # 4 p / w² = p / (1 + s), where 1 + s = (w / 2)².
    s = p * (2 + p * (2 + p * (1 + p / 4)))
    # The factor of x is 1 + 2p - 2 (1 + p) w' / w. By (1 + p)² = w - 1 it is 1 - 2 p² (2 + p) / w.
    on_left = left.divided_by_1_plus(s).times(2 * (1 + p) + x_left * (1 - 2 * p * p * (2 + p) / w))

    x_right = jnp.where(x > 0, jnp.minimum(x, 800), 0)
    q = exponential(-x_right).times(1)
    u = 1 + 2 * q * (1 + q)
    k = 2 * (1 + q) + x_right * (q - 2 * (1 + 2 * q) / u)
    # q² as an exponential of its own is rounded once, and does not underflow before the product does.
    on_right = exponential(-2 * x_right).times(4 * k / jnp.square(u))
    return jnp.where(x > 0, on_right, on_left)


Derivative: TypeAlias = Callable[..., jax.Array]


def with_second_derivative(second: Derivative) -> Callable[[Derivative], Derivative]:
    """Makes JAX use the hand-derived ``second`` where it differentiates a derivative f' of one number: (f')' = f''.

    Further arguments of f' are functions of x that were computed before, such as σ(x). f'' includes their change
    with x.
    """

    def decorate(derivative: Derivative) -> Derivative:
        function = jax.custom_jvp(derivative)

        def tangent(primals, tangents):
            return function(*primals), second(primals[0]) * tangents[0]

        function.defjvp(tangent)
        return function

    return decorate


@jax.custom_jvp
def softmax_of(x: jax.Array) -> jax.Array:
    """The softmax p over the last axis. JAX differentiates it by ``softmax_product``: ṗ = J ẋ."""
    return jax.nn.softmax(x)


def softmax_product(p: jax.Array, v: jax.Array) -> jax.Array:
    """J v with the Jacobian of a softmax p over the last axis, Jⱼₖ = pⱼ (δⱼₖ - pₖ): (J v)ⱼ = pⱼ Σₖ pₖ (vⱼ - vₖ).

    If one pₜ is above 1/2, the textbook's form pⱼ (vⱼ - Σₖ pₖ vₖ) loses digits for j = t. It is even 0 if pₜ rounds to
    1. So vₜ is subtracted from all elements first, uⱼ = vⱼ - vₜ, which does not change J v. As uₜ is 0 then, pₜ is no
    longer in the sum Σₖ pₖ uₖ, and (J v)ₜ is -pₜ times it. If no p is above 1/2, the textbook's form keeps its digits.
    """
    u = v - jnp.sum(jnp.where(p > 0.5, v, 0), axis=-1, keepdims=True)
    return p * (u - jnp.sum(p * u, axis=-1, keepdims=True))


@softmax_of.defjvp
def _softmax_tangent(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    p = softmax_of(x)
    return p, softmax_product(p, x_dot)
