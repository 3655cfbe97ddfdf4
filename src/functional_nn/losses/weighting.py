"""Weights and masks of examples in a loss, and NaN for invalid values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, Value, check_mask
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import as_array


def nan_unless(valid: jax.Array | np.ndarray, values: jax.Array | np.ndarray) -> jax.Array:
    """``values``, with NaN where they are not valid. Their gradients are NaN there too."""
    return jnp.asarray(values) * jnp.where(valid, jnp.ones_like(values), jnp.full_like(values, jnp.nan))


def times(weight: jax.Array, values: jax.Array) -> jax.Array:
    """weight · values, where 0 · ∞ = 0: a value with the weight 0 adds nothing."""
    return jnp.where(weight == 0, jnp.zeros_like(values), weight * values)


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """total / weight, and 0 if the weight is 0."""
    is_zero = weight == 0
    return jnp.where(is_zero, jnp.zeros_like(total), total / jnp.where(is_zero, jnp.ones_like(weight), weight))


def expand(weights: jax.Array, ndim: int) -> jax.Array:
    """The weights with axes of size 1 appended, up to ``ndim`` axes."""
    return jnp.expand_dims(weights, range(weights.ndim, ndim))


def combined_weights(weights: jax.Array | None, mask: jax.Array | None, shape: Shape, dtype: DTypeLike) -> jax.Array:
    """One weight for each value, in the shape of the values. The weight is 0 where the mask of the first axis is False.

    Raises:
        InputError: for weights of another shape, and for negative weights. Under ``jit`` negative weights become NaN.
    """
    given = jnp.ones(shape, dtype) if weights is None else jnp.asarray(weights).astype(dtype)
    if given.shape != shape:
        raise InputError("weights", f"one weight per value, shape {shape}", f"shape {given.shape}")
    # Weights at padding may be anything.
    kept = given if mask is None else jnp.where(expand(mask, given.ndim), given, 0)
    if weights is None:
        return kept
    if is_concrete(kept) and not bool(np.all(np.asarray(kept) >= 0)):
        raise InputError("weights", "weights not below 0", f"a smallest of {np.min(np.asarray(kept))}")
    return nan_unless(kept >= 0, kept)


def as_outputs(y: Value) -> Value:
    """The outputs, and the mask if they are ``Masked``, as JAX arrays."""
    if isinstance(y, Masked):
        return Masked(as_array("y", y.values), as_array("mask", y.mask))
    return as_array("y", y)


def check_outputs(y: jax.Array) -> None:
    """Requires floating-point outputs of at least one example."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError("y", "floating-point outputs", f"{y.dtype} of shape {y.shape}")
    if y.size == 0:
        raise InputError("y", "at least one example", f"shape {y.shape}", "An empty batch has no mean.")


def check_steps(y: Masked, **arrays: jax.Array | None) -> None:
    """Requires a mask that fits its values, and labels and weights for the same steps."""
    check_mask(y)
    steps = y.mask.shape
    for argument, array in arrays.items():
        if array is not None and array.shape[:2] != steps:
            expected = f"the axes (batch, time) = {steps} of the masked outputs first"
            raise InputError(argument, expected, f"shape {array.shape}")


def as_examples(
    y: Value, labels: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Outputs, labels, weights and mask of examples. Every step of ``Masked`` outputs is an example."""

    def joined(steps: jax.Array) -> jax.Array:
        return steps.reshape(-1, *steps.shape[2:])

    if not isinstance(y, Masked):
        return y, labels, weights, None
    return joined(y.values), joined(labels), None if weights is None else joined(weights), joined(y.mask)


def real_steps(mask: jax.Array, array: jax.Array) -> jax.Array | np.ndarray:
    """The array with its first real step in place of padding, so that a check of numbers does not see the padding."""
    if not is_concrete(array):
        return array
    real, host = np.asarray(mask), np.asarray(array)
    first = np.unravel_index(np.argmax(real), real.shape)
    real = real.reshape(*real.shape, *(1,) * (host.ndim - 2))
    return np.where(real, host, host[first])
