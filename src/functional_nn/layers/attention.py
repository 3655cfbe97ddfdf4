"""Attention: multi-head attention, with and without a key-value cache, and scaled dot-product attention.

Below the layers: which keys a query sees, products for each head, rotary positions, projections to heads and back, and
the parts of an attention layer's input. With grouped heads, several neighboring query heads use the same key and value
head: of h query heads and g key heads, query head a uses key head ⌊a g / h⌋.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.activations.accurate_derivatives import softmax_product
from functional_nn.activations.smooth import tanh
from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.layer import Layer, backward_of
from functional_nn.core.masked import Masked, Value, check_mask, mask_of, values_of, with_mask_of, without_padding
from functional_nn.core.products import platform, summed_product
from functional_nn.core.scan import scan
from functional_nn.core.shapes import Shape, Shapes, is_shape, wide_type
from functional_nn.core.validation import (
    check_count,
    check_entries,
    check_flag,
    check_floating,
    check_input,
    check_key,
    check_number,
    is_array,
    is_concrete,
)
from functional_nn.layers.initializers import Initializer, weight_and_bias


def attention(
    heads: int,
    *,
    key_value_heads: int | None = None,
    head_size: int | None = None,
    out_size: int | None = None,
    causal: bool = False,
    window: int | None = None,
    rotary: bool = False,
    score_cap: float | None = None,
    bias: bool = True,
    initializer: Initializer = "glorot",
    name: str = "attention",
) -> Layer:
    """Multi-head attention of a sequence to itself (self-attention) or to another sequence (cross-attention).

    Math:
        q = x W_query + b_query, k = m W_key, v = m W_value + b_value, y = c W_output + b_output

        where m is the memory, the sequence that x attends to (x itself if no other is given), and
        c = ``dot_product_attention`` of q, k, v. A step of x that sees no step of m has y = 0. Keys have no bias: it
        would add the same number to all scores of a query, which does not change the softmax. (With a cap on scores it
        would, but keys have none there either.)

    Shapes:
        x (batch, time, in_size), or (x, m) with m (batch, memory_time, memory_size); either may be ``Masked``.
        query/weight (in_size, heads, head_size), key/weight and value/weight (memory_size, key_value_heads,
        head_size), query/bias (heads, head_size), value/bias (key_value_heads, head_size), output/weight (heads,
        head_size, out_size), output/bias (out_size,), y (batch, time, out_size)

        Arrays (batch, heads or 1, time, memory_time) may follow x or m, as in (x, mask) or (x, m, bias, mask): a
        floating-point array is added to the scores, and an array of booleans is True where a step sees a step of m.

    Gradient:
        The projections are ``dense`` layers, so with n over batch and time, and y_barₙ = 0 where step n sees nothing:

        weight_bar = Σₙ inputₙ output_barₙᵀ, bias_bar = Σₙ output_barₙ, input_bar = output_bar Wᵀ

        The output projection comes first, and its input_bar is c_bar. ``dot_product_attention`` computes q_bar, k_bar,
        v_bar, and the cotangent of an array that is added to the scores, from c_bar. Then the other projections give
        x_bar = q_bar W_queryᵀ and m_bar = k_bar W_keyᵀ + v_bar W_valueᵀ. If x is its own memory, the two are added.

    Args:
        heads: the number of heads. Each head computes its own attention weights, in its own subspace.
        key_value_heads: the number of heads of keys and values, a divisor of heads; by default heads. Each is used by
            heads / key_value_heads heads of queries. Fewer make the key-value cache of a language model smaller.
        head_size: the features of one head; by default in_size / heads.
        out_size: the number of outputs; by default in_size.
        causal: whether a step sees only steps up to itself; see ``dot_product_attention`` for a longer memory.
        window: the number of steps that a step sees, up to itself; by default all. It requires causal.
        rotary: whether queries and keys are rotated by their positions; see ``dot_product_attention``.
        score_cap: the largest absolute value of a score; see ``dot_product_attention``.
        bias: whether queries, values and outputs have biases.
        initializer: of each projection, as one matrix; see ``initializers``.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for shapes that do not fit together, and for an in_size that is not a multiple of heads.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.attention(2)
    >>> params, state = layer.init(jax.random.key(0), ((5, 6), (7, 3)))
    >>> y, _ = layer.apply(params, state, (jnp.ones((1, 5, 6)), jnp.ones((1, 7, 3))), train=False)
    >>> y.shape, params["query"]["weight"].shape, params["key"]["weight"].shape
    ((1, 5, 6), (6, 2, 3), (3, 2, 3))

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.2.2.
    """
    heads = check_count("heads", heads)
    key_value_heads = heads if key_value_heads is None else check_count("key_value_heads", key_value_heads)
    check("key_value_heads", key_value_heads, f"a divisor of the {heads} heads", heads % key_value_heads == 0)
    for argument, size in {"head_size": head_size, "out_size": out_size}.items():
        if size is not None:
            check_count(argument, size)
    bias = check_flag("bias", bias)
    attend = dot_product_attention(causal=causal, window=window, rotary=rotary, score_cap=score_cap)
    # The keys have no bias.
    entries = {part: ("weight", "bias") if bias and part != "key" else ("weight",) for part in PROJECTIONS}

    def init(key, in_shape):
        (_, in_size), (_, memory_size) = split_shapes(in_shape)
        divides, remedy = in_size % heads == 0, "Give head_size, or use another number of heads."
        check("heads", heads, f"a divisor of the {in_size} features", head_size or divides, remedy)
        size = head_size or in_size // heads
        # The shapes of each projection's inputs and outputs.
        of_memory = (memory_size,), (key_value_heads, size)
        shapes = ((in_size,), (heads, size)), of_memory, of_memory, ((heads, size), (out_size or in_size,))
        params = {}
        part_keys = jax.random.split(check_key(key), len(PROJECTIONS))
        for part, part_key, (inputs, outputs) in zip(PROJECTIONS, part_keys, shapes, strict=True):
            # A weight (*inputs, *outputs) is drawn like that of a dense layer with as many inputs and outputs.
            weight, bias_start = weight_and_bias(initializer, part_key, (math.prod(inputs), math.prod(outputs)))
            drawn = {"weight": weight.reshape(*inputs, *outputs), "bias": bias_start.reshape(outputs)}
            params[part] = {entry: drawn[entry] for entry in entries[part]}
        return params, {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, PROJECTIONS)
        for part in PROJECTIONS:
            check_entries(f"params/{part}", params[part], entries[part])

        # x alone is its own memory.
        source, memory, pairs = split_sequences(x)
        check_sequence("x", source, params["query"]["weight"].shape[0])
        has_memory = memory is not None
        if has_memory:
            check_sequence("memory", memory, params["key"]["weight"].shape[0])
        else:
            memory = source

        x_values, memory_values = without_padding(source), without_padding(memory)
        q = with_mask_of(source, project(params["query"], x_values))
        k = with_mask_of(memory, project(params["key"], memory_values))
        parts = (q, k, project(params["value"], memory_values), *pairs)
        c, _, attended = attend.forward({}, {}, parts, train=train)
        c = values_of(c)

        # A step that sees nothing has c = 0, but its output would be the bias. So its output is set to 0.
        mask = next((part for part in pairs if part.dtype == bool), None)
        places = query_places(x_values, memory_values) if causal else None
        visible = visible_keys(places, mask_of(source), mask_of(memory), mask, memory_values.shape[1], window)
        sees = None if visible is None else jnp.any(visible, axis=(1, 3))[:, :, None]
        y = with_mask_of(source, _where(sees, project(params["output"], c)))

        # Residuals are a pytree of arrays, so "it is so" is kept as () and "it is not" as None.
        is_tuple = () if isinstance(x, tuple) and not isinstance(x, Masked) else None
        weights = {part: params[part]["weight"] for part in PROJECTIONS}
        return y, state, (x_values, memory_values, c, attended, weights, sees, is_tuple, () if has_memory else None)

    def backward(residuals, y_bar):
        x, memory, c, attended, weights, sees, is_tuple, has_memory = residuals
        params_bar = {}

        def through_projection(part, inputs, outputs_bar):
            """Puts the cotangents of one projection's parameters into params_bar, and returns that of its inputs."""
            weight_bar, bias_bar, inputs_bar = project_backward(weights[part], inputs, values_of(outputs_bar))
            part_bar = {"weight": weight_bar, "bias": bias_bar}
            params_bar[part] = {entry: part_bar[entry] for entry in entries[part]}
            return inputs_bar

        c_bar = through_projection("output", c, _where(sees, values_of(y_bar)))
        _, (q_bar, k_bar, v_bar, *pairs_bar) = backward_of(attend)(attended, with_mask_of(y_bar, c_bar))
        x_bar = through_projection("query", x, q_bar)
        memory_bar = through_projection("key", memory, k_bar) + through_projection("value", memory, v_bar)
        # If x is its own memory, it is used in both places, so the two cotangents are added.
        if has_memory is None:
            x_bar = with_mask_of(y_bar, x_bar + memory_bar)
            return params_bar, x_bar if is_tuple is None else (x_bar, *pairs_bar)
        # Keys have a mask where the memory has one, so k_bar is ``Masked`` where the memory's cotangent must be.
        return params_bar, (with_mask_of(y_bar, x_bar), with_mask_of(k_bar, memory_bar), *pairs_bar)

    return Layer(name, init, forward, backward, takes_mask=True, faster_by_formula=True)


def _where(sees: jax.Array | None, y: jax.Array) -> jax.Array:
    """y, with 0 for steps that see nothing."""
    return y if sees is None else jnp.where(sees, y, 0)


def cached_attention(
    heads: int,
    *,
    length: int,
    key_value_heads: int | None = None,
    window: int | None = None,
    rotary: bool = False,
    score_cap: float | None = None,
    name: str = "attention",
) -> Layer:
    """Causal ``attention`` of new steps to themselves and to all earlier ones, whose keys and values are in the state.

    The parameters are those of ``attention(heads, causal=True, …)`` with the same options, and so is the output for the
    new steps. The layer is for generation: it has no backward pass.

    Math:
        With n new steps at the positions t to t + n - 1, the new keys and values are written to the places t to
        t + n - 1 of the cache. Query i of the new ones sees the places j ≤ t + i (and j > t + i - window). If the cache
        is full, that is t + n > length, the output is NaN, since under ``jit`` it cannot raise an error.

    Shapes:
        x and y (batch, n, features); state: key and value (batch, length, key_value_heads, head_size), position (). The
        state from ``init`` is empty and has a batch of 1.

    Args:
        heads: the number of heads.
        length: the number of steps that the cache has places for.
        key_value_heads: see ``attention``, as for the other arguments.
        window: the number of steps that a step sees.
        rotary: whether queries and keys are rotated by their positions. Keys are rotated before they are kept.
        score_cap: the largest absolute value of a score.
        name: used in parameter trees and in error messages.
    """
    full_pass = attention(
        heads, key_value_heads=key_value_heads, causal=True, window=window, rotary=rotary, score_cap=score_cap
    )
    # Not causal=True, which would put the last query at the last place of the cache. The mask below sets the order.
    attend = dot_product_attention(score_cap=score_cap)

    def init(key, in_shape):
        params, _ = full_pass.init(key, in_shape)
        _, groups, head_size = params["key"]["weight"].shape
        empty = jnp.zeros((1, length, groups, head_size), params["key"]["weight"].dtype)
        return params, {"key": empty, "value": empty, "position": jnp.zeros((), jnp.int32)}

    def forward(params, state, x, *, train, key=None):
        check_entries("state", state, ("key", "value", "position"))
        check_sequence("x", x, params["query"]["weight"].shape[0])
        position, (batch, time, _), places = state["position"], x.shape, state["key"].shape[1]
        q, k, v = (project(params[part], x) for part in ("query", "key", "value"))
        if rotary:
            q, k = rotated_from(q, position, places), rotated_from(k, position, places)
        keys = _written(state["key"], k, position)
        values = _written(state["value"], v, position)

        # A query at position t + i sees the places up to its own, and no place that is still empty.
        visible = earlier_keys(position + jnp.arange(time), places, window)
        mask = jnp.broadcast_to(visible, (batch, 1, time, places))
        c, _, _ = attend.forward({}, {}, (q, keys, values, mask), train=train)

        y = project(params["output"], c)
        y = jnp.where(position + time <= places, y, jnp.nan)
        return y, {"key": keys, "value": values, "position": position + time}, ()

    return Layer(name, init, forward)


def _written(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """The cache with new keys or values from this position on."""
    # If they do not fit, XLA writes them over earlier steps. The output is NaN then.
    return lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), position, axis=1)


def dot_product_attention(
    *,
    causal: bool = False,
    window: int | None = None,
    rotary: bool = False,
    scale: float | None = None,
    score_cap: float | None = None,
    queries_at_once: int | None = None,
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
        queries_at_once: the number of queries that are computed at once; by default all, and 64 if a CPU computes 256
            or more. The backward pass computes p of each block again, so only the scores of one block are stored.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for shapes that do not fit together.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> q = k = jnp.zeros((1, 2, 1, 3))
    >>> v = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    >>> print(fnn.dot_product_attention(causal=True).apply({}, {}, (q, k, v), train=False)[0].ravel())
    [2. 3.]
    >>> mask = jnp.array([[False, True], [False, False]])[None, None]
    >>> print(fnn.dot_product_attention().apply({}, {}, (q, k, v, mask), train=False)[0].ravel())
    [4. 0.]

    References:
        Vaswani et al. 2017, "Attention is all you need", equation 1; Su et al. 2021, "RoFormer", equation 34 (there
        neighboring features form a plane; here, as in most implementations, features that are half a head apart);
        Ainslie et al. 2023, "GQA" (grouped heads); Beltagy et al. 2020, "Longformer", section 3.1 (windows); Gemma
        team 2024, "Gemma 2", section 2 (capped scores).
    """
    causal = check_flag("causal", causal)
    rotary = check_flag("rotary", rotary)
    if window is not None:
        window = check_count("window", window)
        check("window", window, "causal=True with it", causal, "A query sees the last keys up to its own step.")
    if scale is not None:
        scale = _fixed_number("scale", scale, positive=False)
    if score_cap is not None:
        score_cap = _fixed_number("score_cap", score_cap, positive=True)
    if queries_at_once is not None:
        queries_at_once = check_count("queries_at_once", queries_at_once)

    def scaled(s, head_size):
        return s / math.sqrt(head_size) if scale is None else s * scale

    def attended(queries, memory):
        """c of some queries, and what the backward pass needs besides."""
        (k, v, real_keys), q = memory, queries.q
        s = scaled(scores(q, k), q.shape[-1])
        in_cap = None
        if score_cap is not None:
            in_cap = s / score_cap
            s = score_cap * tanh(in_cap)
        if queries.bias is not None:
            s = s + queries.bias.astype(s.dtype)
        p = _softmax(s, visible_keys(queries.places, queries.real, real_keys, queries.mask, k.shape[1], window))
        return sum_over_keys(p.astype(v.dtype), v), (p, in_cap)

    def attended_backward(queries, memory, saved, c_bar):
        """The cotangents of k and v; and those of the queries and of their bias."""
        (k, v, _), q, (p, in_cap) = memory, queries.q, saved
        # c = p v: the cotangents of its two factors. p_barᵢⱼ = c_barᵢ · vⱼ has the form of a score.
        v_bar = sum_over_queries(p.astype(v.dtype), c_bar, v.shape[2])
        p_bar = scores(c_bar, v)
        # The softmax. Where i does not see j, p is 0 and so is s_bar.
        s_bar = softmax_product(p, p_bar)
        # The bias was added after the cap and the scale, so it takes its cotangent before they change s_bar.
        bias_bar = None if queries.bias is None else _bias_bar(s_bar, queries.bias)
        if in_cap is not None:
            s_bar = tanh.pullback(in_cap, s_bar)
        s_bar = scaled(s_bar, q.shape[-1])
        # The scores q · k.
        q_bar = sum_over_keys(s_bar.astype(q.dtype), k)
        return (sum_over_queries(s_bar.astype(q.dtype), q, k.shape[2]), v_bar), (q_bar, bias_bar)

    def forward(params, state, x, *, train, key=None):
        queries, keys, values, bias, mask = split_parts(x, causal=causal, rotary=rotary)
        # Values have no mask of their own: they are padding where their keys are.
        q, k, v = without_padding(queries), without_padding(keys), without_padding(with_mask_of(keys, values))
        places = query_places(q, k) if causal else None
        if rotary:
            q, k = rotated(q, 1, places), rotated(k, 1)
        every, memory = Queries(q, places, mask_of(queries), bias, mask), (k, v, mask_of(keys))
        if queries_at_once or (q.shape[1] >= LONG and platform() == "cpu"):
            blocks = every.in_blocks(queries_at_once or QUERIES_AT_ONCE)
            _, of_blocks = scan(lambda _, some: (None, attended(some, memory)[0]), None, blocks)
            c, saved = _joined(of_blocks, 1, q.shape[1]), None
        else:
            c, saved = attended(every, memory)
        # Residuals are a pytree of arrays, so "keys are masked" is kept as () and "they are not" as None.
        keys_are_masked = () if isinstance(keys, Masked) else None
        return with_mask_of(queries, c), state, (every, memory, saved, x[3:], keys_are_masked)

    def backward(residuals, y_bar):
        every, memory, saved, pairs, keys_are_masked = residuals
        c_bar, (k, v, _), time = values_of(y_bar), memory, every.q.shape[1]
        if saved is not None:
            (k_bar, v_bar), (q_bar, bias_bar) = attended_backward(every, memory, saved, c_bar)
        else:

            def add(sums, some):
                queries, some_c_bar = some
                _, saved = attended(queries, memory)
                memory_bar, queries_bar = attended_backward(queries, memory, saved, some_c_bar)
                return jax.tree.map(lambda total, bar: total + bar.astype(total.dtype), sums, memory_bar), queries_bar

            size = queries_at_once or QUERIES_AT_ONCE
            zeros = tuple(jnp.zeros(part.shape, wide_type(part.dtype)) for part in (k, v))
            sums, (q_bar, bias_bar) = scan(add, zeros, (every.in_blocks(size), _blocks(c_bar, 1, size)))
            k_bar, v_bar = (total.astype(part.dtype) for total, part in zip(sums, (k, v), strict=True))
            q_bar = _joined(q_bar, 1, time)
            bias_bar = None if bias_bar is None else _joined(bias_bar, 2, time)
        if rotary:
            q_bar = rotated(q_bar, -1, query_places(every.q, k) if causal else None)
            k_bar = rotated(k_bar, -1)
        if keys_are_masked is not None:
            k_bar = Masked(k_bar, None)
        pairs_bar = (None if pair.dtype == bool else bias_bar for pair in pairs)
        return {}, (with_mask_of(y_bar, q_bar), k_bar, v_bar, *pairs_bar)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward, takes_mask=True, faster_by_formula=True)


LONG = 256
"""From this number of queries on, a CPU computes them in blocks. The scores of a block stay in its cache."""

QUERIES_AT_ONCE = 64
"""The number of queries in a block."""


class Queries(NamedTuple):
    """Queries, and what differs from query to query: axis 0 of places, 1 of q and real, 2 of bias and mask.

    Args:
        q: (batch, time, heads, head_size).
        places: (time,), the place of each query among the keys, if the attention is causal.
        real: (batch, time), where a query is not padding.
        bias, mask: (batch, heads or 1, time, keys).
    """

    q: jax.Array
    places: jax.Array | np.ndarray | None = None
    real: jax.Array | None = None
    bias: jax.Array | None = None
    mask: jax.Array | None = None

    def in_blocks(self, size: int) -> Queries:
        """Blocks of this number of queries, along a new first axis."""
        axes = (1, 0, 1, 2, 2)
        parts = zip(self, axes, strict=True)
        return Queries._make(None if part is None else _blocks(part, axis, size) for part, axis in parts)


def _blocks(x: jax.Array | np.ndarray, axis: int, size: int) -> jax.Array:
    """x in blocks along a new first axis. The last one is filled with zeros, whose cotangents are zeros, too."""
    count = -(-x.shape[axis] // size)
    widths = [(0, count * size - x.shape[axis] if place == axis else 0) for place in range(x.ndim)]
    return jnp.moveaxis(jnp.pad(x, widths).reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)


def _joined(blocks: jax.Array, axis: int, length: int) -> jax.Array:
    """Undoes ``_blocks``."""
    x = jnp.moveaxis(blocks, 0, axis)
    return lax.slice_in_dim(x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), 0, length, axis=axis)


def _fixed_number(argument: str, value: float, *, positive: bool) -> float:
    """Requires a finite number that is not traced, since the backward pass uses it too."""
    kind = "a positive number" if positive else "a finite number"
    check(argument, value, kind, is_concrete(value), "It is fixed when the layer is made.")
    return float(
        check_number(argument, value, kind, lambda number: math.isfinite(number) and (number > 0 or not positive))
    )


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
    if bias.shape[1] != s_bar.shape[1]:
        s_bar = jnp.sum(s_bar, axis=1, keepdims=True)
    return s_bar.astype(bias.dtype)


def query_places(q: jax.Array, k: jax.Array) -> np.ndarray:
    """The place of each query among the keys. The last query is at the last key."""
    return np.arange(k.shape[1] - q.shape[1], k.shape[1])


def earlier_keys(places: jax.Array | np.ndarray, keys_time: int, window: int | None) -> jax.Array:
    """(1, 1, time, keys): whether each key is one of the last ``window`` keys up to the place of each query."""
    place, last = jnp.arange(keys_time)[None, :], places[:, None]
    return (place <= last if window is None else (place <= last) & (place > last - window))[None, None]


def visible_keys(
    places: jax.Array | np.ndarray | None,
    real_queries: jax.Array | None,
    real_keys: jax.Array | None,
    mask: jax.Array | None,
    keys_time: int,
    window: int | None,
) -> jax.Array | None:
    """Whether each query (axis 2) sees each key (axis 3); None if every query sees every key.

    Args:
        places: (time,), if a query sees only keys up to its place.
        real_queries: (batch, time), if queries can be padding, which sees nothing.
        real_keys: (batch, keys), if keys can be padding, which is not seen.
        mask: (batch, heads or 1, time, keys).
        keys_time: the number of keys.
        window: the number of keys up to its place that a query sees.
    """
    visible = mask
    if places is not None:
        earlier = earlier_keys(places, keys_time, window)
        visible = earlier if visible is None else visible & earlier
    for real, axes in ((real_queries, (1, 3)), (real_keys, (1, 2))):
        if real is not None:
            real = jnp.expand_dims(real, axes)
            visible = real if visible is None else visible & real
    return visible


def scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """qᵢ · kⱼ for each query head, (batch, heads, time, keys), in float32 or wider."""
    dtype = wide_type(q.dtype)
    # Here and below: b is an example, i a query, j a key, h a head, d a feature; g is a group, r a head of the group.
    if q.shape[2] == k.shape[2]:
        return jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=dtype)
    s = jnp.einsum("bigrd,bjgd->bgrij", _in_groups(q, k.shape[2]), k, preferred_element_type=dtype)
    return s.reshape(s.shape[0], q.shape[2], *s.shape[3:])


def sum_over_keys(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Σⱼ weightsᵢⱼ xⱼ for each query head, (batch, time, heads, size). x has a vector for each key head."""
    heads, groups = weights.shape[1], x.shape[2]
    if heads == groups:
        return jnp.einsum("bhij,bjhd->bihd", weights, x)
    y = jnp.einsum("bgrij,bjgd->bigrd", _rows_in_groups(weights, groups), x)
    return y.reshape(*y.shape[:2], heads, x.shape[3])


def sum_over_queries(weights: jax.Array, x: jax.Array, groups: int) -> jax.Array:
    """Σᵢ weightsᵢⱼ xᵢ for each key head, (batch, keys, groups, size), summed over the query heads of each group."""
    if x.shape[2] == groups:
        return jnp.einsum("bhij,bihd->bjhd", weights, x)
    return jnp.einsum("bgrij,bigrd->bjgd", _rows_in_groups(weights, groups), _in_groups(x, groups))


def _in_groups(x: jax.Array, groups: int) -> jax.Array:
    """(batch, time, heads, size) as (batch, time, groups, heads of a group, size)."""
    return x.reshape(*x.shape[:2], groups, x.shape[2] // groups, x.shape[3])


def _rows_in_groups(weights: jax.Array, groups: int) -> jax.Array:
    """(batch, heads, time, keys) as (batch, groups, heads of a group, time, keys)."""
    return weights.reshape(weights.shape[0], groups, weights.shape[1] // groups, *weights.shape[2:])


def rotated(x: jax.Array, direction: int, places: np.ndarray | None = None) -> jax.Array:
    """Rᵢ xᵢ for every step, or Rᵢᵀ xᵢ for the direction -1. i is its place, by default 0, 1, ..."""
    cosine, sine = _cosines_and_sines(np.arange(x.shape[1]) if places is None else places, x.shape[3], direction)
    return _turned(x, jnp.asarray(cosine, x.dtype), jnp.asarray(sine, x.dtype))


def rotated_from(x: jax.Array, position: jax.Array, length: int) -> jax.Array:
    """Rᵢ xᵢ for steps whose first position is traced. No position is ``length`` or larger."""
    time, size = x.shape[1], x.shape[3]
    tables = _cosines_and_sines(np.arange(length), size, 1)
    cosine, sine = (lax.dynamic_slice_in_dim(jnp.asarray(table, x.dtype), position, time) for table in tables)
    return _turned(x, cosine, sine)


def _cosines_and_sines(positions: np.ndarray, size: int, direction: int) -> tuple[np.ndarray, np.ndarray]:
    """cos i ωₙ and sin i ωₙ for each position i and pair n of features."""
    # NumPy computes in float64. In float32 the angle of a late position would lose the digits that its sine needs.
    angles = direction * np.outer(positions, 10_000.0 ** (-2 * np.arange(size // 2) / size))
    return np.cos(angles), np.sin(angles)


def _turned(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotates features n and n + size / 2 of each step (axis 1) in their plane."""
    cosine, sine = cosine[None, :, None], sine[None, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([cosine * first - sine * second, sine * first + cosine * second], axis=-1)


PROJECTIONS = ("query", "key", "value", "output")


def project(entries: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """x W + b. The product sums over all axes of x after batch and time."""
    y = jnp.tensordot(x, entries["weight"], axes=x.ndim - 2)
    if "bias" in entries:
        y = y + entries["bias"][None, None]
    return y


def project_backward(weight: jax.Array, x: jax.Array, y_bar: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of W, b and x, for y = x W + b."""
    inputs, outputs = (part.reshape(*part.shape[:2], math.prod(part.shape[2:])) for part in (x, y_bar))
    weight_bar = summed_product(inputs, outputs).reshape(weight.shape)
    bias_bar = jnp.sum(y_bar, axis=(0, 1))
    # y's axes after batch and time are the last axes of the weight; x_bar is summed over them.
    out_axes = tuple(range(2, y_bar.ndim)), tuple(range(x.ndim - 2, weight.ndim))
    return weight_bar, bias_bar, jnp.tensordot(y_bar, weight, axes=out_axes)


PAIRS_RANK = 4
"""The axes of an array with an entry for each pair of a query and a key: (batch, heads or 1, time, keys)."""


def split_parts(
    x: Value, *, causal: bool, rotary: bool
) -> tuple[Value, Value, jax.Array, jax.Array | None, jax.Array | None]:
    """Queries, keys, values, bias and mask from the input of dot-product attention, with shapes that fit together."""
    if not isinstance(x, tuple) or isinstance(x, Masked) or len(x) < 3 or isinstance(x[2], Masked):
        expected = "(queries, keys, values); a bias and a mask may follow, and only queries and keys may be Masked"
        raise InputError("x", expected, shown(x))
    check_mask(x[0])
    check_mask(x[1])
    q, k, v = (values_of(part) for part in x[:3])
    for part in (q, k, v):
        check_floating(part)
    _check_part_shapes(q, k, v, causal, rotary)
    bias, mask = _bias_and_mask(x[3:], q, k)
    return *x[:3], bias, mask


def split_sequences(x: Value) -> tuple[Value, Value | None, tuple[jax.Array, ...]]:
    """The input of multi-head attention: a sequence, its memory if it has one, and arrays for pairs of their steps."""
    source, *others = x if isinstance(x, tuple) and not isinstance(x, Masked) else (x,)
    # A memory has three axes, or is ``Masked``, which is a tuple. Arrays for pairs have four axes.
    memory = None
    if others and (not is_array(others[0]) or others[0].ndim != PAIRS_RANK):
        memory, *others = others
    return source, memory, tuple(others)


def split_shapes(in_shape: Shapes) -> tuple[Shape, Shape]:
    """The shapes of x and of its memory, from the ``in_shape`` of multi-head attention."""
    shapes = [in_shape] if is_shape(in_shape) else in_shape
    if isinstance(shapes, tuple | list) and shapes and all(is_shape(shape) for shape in shapes):
        sequences = [shape for shape in shapes if len(shape) == 2]
        pairs = [shape for shape in shapes if len(shape) == PAIRS_RANK - 1]
        if 1 <= len(sequences) <= 2 and [*shapes] == [*sequences, *pairs]:
            return sequences[0], sequences[-1]
    expected = "a shape (time, in_size), or a pair of such shapes: of x and of the memory"
    remedy = "It leaves out the batch axis. Shapes (heads, time, keys) of a bias or mask may follow."
    raise InputError("in_shape", expected, shown(in_shape), remedy)


def check_sequence(argument: str, x: Value, features: int) -> None:
    """Requires sequences with this number of features."""
    check_mask(x)
    remedy = "For attention to another sequence, give (x, memory)."
    check_input(values_of(x), "(batch, time, features)", features, remedy=remedy, argument=argument)


def _check_part_shapes(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, rotary: bool) -> None:
    parts = q, k, v
    have_four_axes = q.ndim == k.ndim == v.ndim == 4
    have_one_batch = have_four_axes and (k.shape[0], k.shape[3]) == (q.shape[0], q.shape[3])
    check("x", parts, "queries and keys (batch, time, heads, head_size) of one batch and head_size", have_one_batch)
    check("x", parts, "a value for every key, (batch, time, heads, …)", v.shape[:3] == k.shape[:3])
    check("x", parts, "at least one key", k.shape[1])
    expected = f"keys and values whose heads divide the {q.shape[2]} heads of the queries"
    check("x", parts, expected, k.shape[2] and q.shape[2] % k.shape[2] == 0)
    expected, remedy = "at least as many keys as queries, since causal=True", "The last query is at the last key."
    check("x", parts, expected, not causal or q.shape[1] <= k.shape[1], remedy)
    expected = "an even head_size, since features are rotated in pairs"
    check("rotary", parts, expected, not rotary or q.shape[3] % 2 == 0)


def _bias_and_mask(
    pairs: tuple[jax.Array, ...], q: jax.Array, k: jax.Array
) -> tuple[jax.Array | None, jax.Array | None]:
    """A floating-point array is the bias, and one of booleans the mask."""
    (batch, time, heads, _), keys_time = q.shape, k.shape[1]
    bias = mask = None
    for part in pairs:
        expected = f"a bias or a mask of shape {(batch, heads, time, keys_time)}, or with 1 in place of {heads} heads"
        fits = is_array(part) and part.shape in ((batch, heads, time, keys_time), (batch, 1, time, keys_time))
        check("x", part, expected, fits, "Write jnp.broadcast_to(mask, shape).")
        if part.dtype == bool and mask is None:
            mask = part
        elif jnp.issubdtype(part.dtype, jnp.floating) and bias is None:
            bias = part
        else:
            expected = "at most one bias of floating-point numbers and one mask of booleans"
            raise InputError("x", expected, shown(pairs))
    return bias, mask
