"""Products of queries, keys and values for each head, also for grouped heads.

With grouped heads, several neighboring query heads use the same key and value head: of h query heads and g key heads,
query head a uses key head ⌊a g / h⌋.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.shapes import wide_type


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
