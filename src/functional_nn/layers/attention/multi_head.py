"""Multi-head attention: dot-product attention between projections of sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, backward_of
from functional_nn.core.layer_checks import check_entries, check_key
from functional_nn.core.masked import Masked, values_of, with_mask_of
from functional_nn.core.validation import check_count, check_flag
from functional_nn.layers.attention.dot_product import dot_product_attention
from functional_nn.layers.attention.inputs import check_sequence, mask_among, split_sequences, split_shapes
from functional_nn.layers.attention.projections import (
    PROJECTIONS,
    draw_projection,
    project,
    project_backward,
    projection_entries,
    projection_shapes,
)
from functional_nn.layers.attention.visible import visible_keys, without_padding
from functional_nn.layers.initializers import Initializer


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

    >>> layer = attention(2)
    >>> params, state = layer.init(jax.random.key(0), ((5, 6), (7, 3)))
    >>> y, _ = layer.apply(params, state, (jnp.ones((1, 5, 6)), jnp.ones((1, 7, 3))), train=False)
    >>> y.shape, params["query"]["weight"].shape, params["key"]["weight"].shape
    ((1, 5, 6), (6, 2, 3), (3, 2, 3))

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.2.2.
    """
    heads = check_count("heads", heads)
    key_value_heads = check_key_value_heads(key_value_heads, heads)
    for argument, size in {"head_size": head_size, "out_size": out_size}.items():
        if size is not None:
            check_count(argument, size)
    bias = check_flag("bias", bias)
    attend = dot_product_attention(causal=causal, window=window, rotary=rotary, score_cap=score_cap)
    entries = projection_entries(bias)

    def init(key, in_shape):
        (_, in_size), (_, memory_size) = split_shapes(in_shape)
        shapes = projection_shapes(
            in_size,
            memory_size,
            heads=heads,
            key_value_heads=key_value_heads,
            head_size=head_size,
            out_size=out_size,
        )
        params = {}
        keys = jax.random.split(check_key(key), len(PROJECTIONS))
        for part, part_key in zip(PROJECTIONS, keys, strict=True):
            drawn = draw_projection(initializer, part_key, *shapes[part])
            params[part] = {entry: drawn[entry] for entry in entries[part]}
        return params, {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, PROJECTIONS)
        for part in PROJECTIONS:
            check_entries(f"params/{part}", params[part], entries[part])

        # x alone is its own memory.
        source, memory, pairs = split_sequences(x)
        check_sequence("x", source, params["query"]["weight"].shape[0])
        if memory is not None:
            check_sequence("memory", memory, params["key"]["weight"].shape[0])
        has_memory = memory is not None
        memory = source if memory is None else memory

        x_values, memory_values = without_padding(source), without_padding(memory)
        q = with_mask_of(source, project(params["query"], x_values))
        k = with_mask_of(memory, project(params["key"], memory_values))
        parts = (q, k, project(params["value"], memory_values), *pairs)
        c, _, attended = attend.forward({}, {}, parts, train=train)
        c = values_of(c)

        # A step that sees nothing has c = 0, but its output would be the bias. So its output is set to 0.
        visible = visible_keys(q, k, mask_among(pairs), causal=causal, window=window)
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

    return Layer(name, init, forward, backward, takes_mask=True)


def check_key_value_heads(key_value_heads: int | None, heads: int) -> int:
    """The number of heads of keys and values: a divisor of the number of heads, and by default the same."""
    if key_value_heads is None:
        return heads
    key_value_heads = check_count("key_value_heads", key_value_heads)
    if heads % key_value_heads:
        raise InputError("key_value_heads", f"a divisor of the {heads} heads", key_value_heads)
    return key_value_heads


def _where(sees: jax.Array | None, y: jax.Array) -> jax.Array:
    """y, with 0 for steps that see nothing."""
    return y if sees is None else jnp.where(sees, y, 0)
