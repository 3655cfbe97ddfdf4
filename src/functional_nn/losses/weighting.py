"""What counts how much: weights and masks, and NaN where a number means nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, check_mask


def nan_unless(valid, values):
    """Makes values, and with them their gradients, NaN where they mean nothing."""
    return values * jnp.where(valid, jnp.ones_like(values), jnp.full_like(values, jnp.nan))


def times(weight, values):
    """weight · values with 0 · ∞ = 0: what has no weight adds nothing."""
    return jnp.where(weight == 0, jnp.zeros_like(values), weight * values)


def ratio(total, weight):
    """total / weight, and 0 where the weight is 0."""
    nothing = weight == 0
    return jnp.where(nothing, jnp.zeros_like(total), total / jnp.where(nothing, jnp.ones_like(weight), weight))


def expand(weights: jax.Array, ndim: int) -> jax.Array:
    """Gives weights that rank; their axes are the first ones."""
    return jnp.expand_dims(weights, range(weights.ndim, ndim))


def combined_weights(weights: Any, mask: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """One weight for each value, of that shape; 0 where the mask, of the first axis, says so.

    Raises:
        InputError: for weights of another shape or below 0; under ``jit`` the latter become NaN.
    """
    if weights is None:
        weights = jnp.ones(shape, dtype)
    else:
        weights = jnp.asarray(weights).astype(dtype)
        if weights.shape != shape:
            raise InputError("weights", f"one weight per value, shape {shape}", f"shape {weights.shape}")
        if is_concrete(weights) and not bool(np.all(np.asarray(weights) >= 0)):
            raise InputError("weights", "weights not below 0", f"a smallest of {np.min(np.asarray(weights))}")
        weights = nan_unless(weights >= 0, weights)
    return weights if mask is None else jnp.where(expand(mask, weights.ndim), weights, 0)


def check_outputs(y: Any) -> None:
    """Refuses outputs that are no floating-point numbers, and an empty batch."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError("y", "floating-point outputs", f"{y.dtype} of shape {y.shape}")
    if y.size == 0:
        raise InputError("y", "at least one example", f"shape {y.shape}", "An empty batch has no mean.")


def check_steps(y: Masked, **arrays: Any) -> None:
    """Refuses a mask that does not fit its values, and labels or weights of other steps."""
    check_mask(y)
    steps = y.mask.shape
    for argument, array in arrays.items():
        if array is not None and array.shape[:2] != steps:
            expected = f"the axes (batch, time) = {steps} of the masked outputs first"
            raise InputError(argument, expected, f"shape {array.shape}")


def as_examples(steps: Any) -> Any:
    """(batch, time, …) as (batch · time, …): every step an example of its own."""
    return None if steps is None else steps.reshape(-1, *steps.shape[2:])


def real_steps(mask: Any, array: Any) -> Any:
    """An array for checks of its numbers: padding may hold anything, so the first real step stands in its place."""
    if not is_concrete(array):
        return array
    real, host = np.asarray(mask), np.asarray(array)
    first = np.unravel_index(np.argmax(real), real.shape)
    return np.where(real.reshape(*real.shape, *(1,) * (host.ndim - 2)), host, host[first])
