"""Rotary positions: rotation of queries and keys by angles that grow with their position."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def rotated(x: jax.Array, direction: int, *, first: int = 0) -> jax.Array:
    """Rᵢ xᵢ for every step i, or Rᵢᵀ xᵢ for the direction -1. The first step is at position ``first``."""
    time, size = x.shape[1], x.shape[3]
    cosine, sine = _cosines_and_sines(np.arange(first, first + time), size, direction)
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
