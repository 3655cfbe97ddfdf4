"""Which keys a query sees: causal order, local windows and masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.masked import Masked, Value, mask_of, values_of


def visible_keys(
    queries: Value, keys: Value, mask: jax.Array | None, *, causal: bool, window: int | None
) -> jax.Array | None:
    """Whether each query (axis 2) sees each key (axis 3); None if every query sees every key.

    Args:
        queries: (batch, time, …), may be ``Masked``. A query that is padding sees nothing.
        keys: (batch, keys, …), may be ``Masked``. Padding is not seen.
        mask: (batch, heads or 1, time, keys), or None.
        causal: whether query i of n sees key j of m only if j ≤ i + (m - n).
        window: w, if also j > i + (m - n) - w; otherwise None.
    """
    visible = None
    if causal:
        time, keys_time = values_of(queries).shape[1], values_of(keys).shape[1]
        earlier = keys_time - time
        visible = jnp.tri(time, keys_time, earlier, dtype=bool)[None, None]
        if window is not None:
            # Keys j ≤ i + (m - n) - w are before the window.
            visible = visible & ~jnp.tri(time, keys_time, earlier - window, dtype=bool)[None, None]
    for real, axes in ((mask_of(queries), (1, 3)), (mask_of(keys), (1, 2))):
        if real is not None:
            real = jnp.expand_dims(real, axes)
            visible = real if visible is None else visible & real
    if mask is not None:
        visible = mask if visible is None else visible & mask
    return visible


def without_padding(x: Value) -> jax.Array:
    """The values of a sequence, with 0 in place of padding. Padding may hold NaN, and 0 · NaN is not 0."""
    if not isinstance(x, Masked):
        return x
    return jnp.where(jnp.expand_dims(x.mask, range(2, x.values.ndim)), x.values, 0)
