"""Attention with a key-value cache, for generation one token after another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import check_entries
from functional_nn.layers.attention.dot_product import dot_product_attention
from functional_nn.layers.attention.inputs import check_sequence
from functional_nn.layers.attention.multi_head import attention
from functional_nn.layers.attention.projections import project
from functional_nn.layers.attention.rotary import rotated_from


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
        place, query_position = jnp.arange(places)[None, :], position + jnp.arange(time)[:, None]
        visible = place <= query_position
        if window is not None:
            visible = visible & (place > query_position - window)
        mask = jnp.broadcast_to(visible[None, None], (batch, 1, time, places))
        c, _, _ = attend.forward({}, {}, (q, keys, values, mask), train=train)

        y = project(params["output"], c)
        y = jnp.where(position + time <= places, y, jnp.nan)
        return y, {"key": keys, "value": values, "position": position + time}, ()

    return Layer(name, init, forward)


def _written(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """The cache with new keys or values from this position on."""
    # If they do not fit, XLA writes them over earlier steps. The output is NaN then.
    return lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), position, axis=1)
