"""Scaled dot-product attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.activations.accurate_derivatives import softmax_product
from functional_nn.activations.smooth import tanh
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, values_of, with_mask_of
from functional_nn.core.validation import check_count, check_flag, check_number
from functional_nn.layers.attention.head_products import scores, sum_over_keys, sum_over_queries
from functional_nn.layers.attention.inputs import split_parts
from functional_nn.layers.attention.rotary import rotated
from functional_nn.layers.attention.visible import visible_keys, without_padding


def dot_product_attention(
    *,
    causal: bool = False,
    window: int | None = None,
    rotary: bool = False,
    scale: float | None = None,
    score_cap: float | None = None,
    name: str = "dot_product_attention",
) -> Layer:
    """Scaled dot-product attention: for each query, the mean of the values, weighted by its similarity to their keys.

    Math:
        For each example and head, with d = head_size and j over the keys that query i sees:

        sᵢⱼ = qᵢ · kⱼ / √d, pᵢⱼ = exp sᵢⱼ / Σⱼ exp sᵢⱼ, cᵢ = Σⱼ pᵢⱼ vⱼ

        A query sees the real keys and, with causal, only those up to its own step. A query that sees no key has p = 0
        and c = 0. This is so if no key is real, and for a query that is padding.

        With causal, the last of n queries is at the place of the last of m keys: query i sees key j if
        j ≤ i + (m - n). With a window w, it sees only the last w of these keys: j > i + (m - n) - w.

        With rotary positions q and k are rotated first: qᵢ ← Rᵢ qᵢ, kⱼ ← Rⱼ kⱼ. Rᵢ rotates features n and n + d/2 in
        their plane by the angle i ωₙ, ωₙ = 10000^(-2n/d). As Rᵢᵀ Rⱼ = Rⱼ₋ᵢ, scores depend on distances only. With
        causal, query i is rotated by R of its place i + (m - n).

        A scale a replaces 1 / √d. A cap C keeps scores between -C and C: sᵢⱼ ← C tanh(sᵢⱼ / C). Then a bias is added,
        sᵢⱼ ← sᵢⱼ + bᵢⱼ. A mask hides the keys where it is False.

        With fewer heads of keys than of queries (grouped heads), h and g, query head a uses key and value head
        ⌊a g / h⌋.

    Shapes:
        x = (q, k, v): q (batch, time, heads, head_size), k (batch, keys, heads, head_size), v (batch, keys, heads,
        any size), c (batch, time, heads, the size of v). q and k may be ``Masked``; c is ``Masked`` if q is. The heads
        of k and v may be a divisor of those of q.

        x = (q, k, v, pairs) or (q, k, v, pairs, pairs), with pairs (batch, heads or 1, time, keys): a floating-point
        array is the bias, and an array of booleans is the mask, True where a query sees a key.

    Gradient:
        From c to p: v_barⱼ = Σᵢ pᵢⱼ c_barᵢ, p_barᵢⱼ = c_barᵢ · vⱼ. Through the softmax, whose derivative is
        ∂pᵢⱼ/∂sᵢₗ = pᵢⱼ (δⱼₗ - pᵢₗ):

        s_barᵢₗ = Σⱼ p_barᵢⱼ pᵢⱼ (δⱼₗ - pᵢₗ) = pᵢₗ (p_barᵢₗ - Σⱼ pᵢⱼ p_barᵢⱼ), which is 0 where i does not see l

        Where one pᵢₗ is nearly 1, this difference would lose its digits, so it is computed as pᵢₗ Σⱼ pᵢⱼ (p_barᵢₗ -
        p_barᵢⱼ), as in ``softmax``.

        The bias is added, so b_barᵢⱼ = s_barᵢⱼ, summed over the heads if b has one for all. A mask has no cotangent.
        Through the cap, with d(C tanh(s / C))/ds = tanh'(s / C): s_barᵢⱼ ← tanh'(sᵢⱼ / C) s_barᵢⱼ.

        From s: q_barᵢ = Σⱼ s_barᵢⱼ kⱼ / √d, k_barⱼ = Σᵢ s_barᵢⱼ qᵢ / √d, or times a in place of 1 / √d. A rotation is
        undone by its transpose: q_barᵢ ← Rᵢᵀ q_barᵢ, k_barⱼ ← Rⱼᵀ k_barⱼ. A key head of a group gets the sum over the
        query heads that use it, and so does a value head.

    The largest score is subtracted before exp. For 16-bit inputs scores and softmax are computed in float32.

    Args:
        causal: whether a query sees only keys up to its own step. There must be at least as many keys as queries.
        window: the number of keys that a query sees, up to its own step; by default all. It requires causal.
        rotary: whether q and k are rotated by their positions. head_size must then be even.
        scale: the factor of the scores, in place of 1 / √head_size.
        score_cap: the largest absolute value of a score before the bias is added; by default there is none.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for shapes that do not fit together.

    >>> q = k = jnp.zeros((1, 2, 1, 3))
    >>> v = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    >>> print(dot_product_attention(causal=True).apply({}, {}, (q, k, v), train=False)[0].ravel())
    [2. 3.]
    >>> mask = jnp.array([[False, True], [False, False]])[None, None]
    >>> print(dot_product_attention().apply({}, {}, (q, k, v, mask), train=False)[0].ravel())
    [4. 0.]

    References:
        Vaswani et al. 2017, "Attention is all you need", equation 1; Su et al. 2021, "RoFormer", equation 34 (there
        neighboring features form a plane; here, as in most implementations, features that are half a head apart);
        Ainslie et al. 2023, "GQA" (grouped heads); Beltagy et al. 2020, "Longformer", section 3.1 (windows); Gemma
        team 2024, "Gemma 2", section 2 (capped scores).
    """
    causal = check_flag("causal", causal)
    rotary = check_flag("rotary", rotary)
    window = check_window(window, causal)
    if scale is not None:
        scale = _fixed_number("scale", scale, positive=False)
    if score_cap is not None:
        score_cap = _fixed_number("score_cap", score_cap, positive=True)

    def scaled(s, head_size):
        return s / math.sqrt(head_size) if scale is None else s * scale

    def place_of_first_query(queries_time, keys_time):
        return keys_time - queries_time if causal else 0

    def forward(params, state, x, *, train, key=None):
        queries, keys, values, bias, mask = split_parts(x, causal=causal, rotary=rotary)
        # Values have no mask of their own: they are padding where their keys are.
        q, k, v = without_padding(queries), without_padding(keys), without_padding(with_mask_of(keys, values))
        if rotary:
            q, k = rotated(q, 1, first=place_of_first_query(q.shape[1], k.shape[1])), rotated(k, 1)
        s = scaled(scores(q, k), q.shape[-1])
        in_cap = None
        if score_cap is not None:
            in_cap = s / score_cap
            s = score_cap * tanh(in_cap)
        if bias is not None:
            s = s + bias.astype(s.dtype)
        p = _softmax(s, visible_keys(queries, keys, mask, causal=causal, window=window))
        c = sum_over_keys(p.astype(v.dtype), v)
        # Residuals are a pytree of arrays, so "keys are masked" is kept as () and "they are not" as None.
        keys_are_masked = () if isinstance(keys, Masked) else None
        # For each part after the values: () for a mask, and an empty array with the heads and type of a bias.
        pairs = tuple(() if part is mask else jnp.zeros((part.shape[1], 0), part.dtype) for part in x[3:])
        return with_mask_of(queries, c), state, (q, k, v, p, in_cap, pairs, keys_are_masked)

    def backward(residuals, y_bar):
        q, k, v, p, in_cap, pairs, keys_are_masked = residuals
        c_bar = values_of(y_bar)
        # c = p v: the cotangents of its two factors. p_barᵢⱼ = c_barᵢ · vⱼ has the form of a score.
        v_bar = sum_over_queries(p.astype(v.dtype), c_bar, v.shape[2])
        p_bar = scores(c_bar, v)
        # The softmax. Where i does not see j, p is 0 and so is s_bar.
        s_bar = softmax_product(p, p_bar)
        # The bias was added after the cap and the scale, so it takes its cotangent before they change s_bar.
        pairs_bar = tuple(None if isinstance(part, tuple) else _bias_bar(s_bar, part) for part in pairs)
        if in_cap is not None:
            s_bar = tanh.pullback(in_cap, s_bar)
        s_bar = scaled(s_bar, q.shape[-1])
        # The scores q · k.
        q_bar = sum_over_keys(s_bar.astype(q.dtype), k)
        k_bar = sum_over_queries(s_bar.astype(q.dtype), q, k.shape[2])
        if rotary:
            q_bar = rotated(q_bar, -1, first=place_of_first_query(q.shape[1], k.shape[1]))
            k_bar = rotated(k_bar, -1)
        if keys_are_masked is not None:
            k_bar = Masked(k_bar, None)
        return {}, (with_mask_of(y_bar, q_bar), k_bar, v_bar, *pairs_bar)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward, takes_mask=True)


def check_window(window: int | None, causal: bool) -> int | None:
    """Requires a positive window, or None. A window needs causal order."""
    if window is None:
        return None
    window = check_count("window", window)
    if not causal:
        raise InputError("window", "causal=True with it", window, "A query sees the last keys up to its own step.")
    return window


def _fixed_number(argument: str, value: float, *, positive: bool) -> float:
    """Requires a finite number that is not traced, since the backward pass uses it too."""
    kind = "a positive number" if positive else "a finite number"
    if not is_concrete(value):
        raise InputError(argument, kind, "a traced number", "It is fixed when the layer is made.")

    def holds(number: float) -> bool:
        return math.isfinite(number) and (number > 0 or not positive)

    return float(check_number(argument, value, kind, holds))


def _softmax(s: jax.Array, visible: jax.Array | None) -> jax.Array:
    """exp s / Σ exp s over the visible keys, and 0 for all others."""
    if visible is not None:
        s = jnp.where(visible, s, -jnp.inf)
    # If a query sees no key, its largest score is -∞ and the sum is 0. They are replaced by 0 and 1: otherwise
    # -∞ - (-∞) and 0 / 0 would make the result and its derivative NaN.
    largest = lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
    exponentials = jnp.exp(s - jnp.where(largest == -jnp.inf, 0, largest))
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1, total)


def _bias_bar(s_bar: jax.Array, bias: jax.Array) -> jax.Array:
    """The cotangent of a bias. If it has one head for all heads of the scores, they are summed."""
    if bias.shape[0] != s_bar.shape[1]:
        s_bar = jnp.sum(s_bar, axis=1, keepdims=True)
    return s_bar.astype(bias.dtype)
