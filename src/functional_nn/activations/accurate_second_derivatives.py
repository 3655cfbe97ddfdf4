"""Second derivatives of gelu, gelu_tanh, silu and mish, accurate in the tails.

All but that of mish are even functions, so their formulas are for x ≤ 0. The exponentials are computed as in
``accurate_derivatives``. Near a zero of f'', the relative error grows with the condition number of f''.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from functional_nn.activations.accurate_derivatives import (
    GELU_TANH_B,
    GELU_TANH_C,
    exponential,
    gelu_tanh_exponential,
    halves,
    in_wide_type,
)


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
