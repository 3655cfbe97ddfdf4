"""Losses for real-valued labels: squared and absolute error, Huber, and cosine distance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.errors import check
from functional_nn.core.validation import check_number
from functional_nn.losses.loss import Loss, check_same_shape, example_mean, per_element


def _squared_errors(y, labels):
    return example_mean(jnp.square(y - labels.astype(y.dtype)))


def _squared_error_gradients(y, labels):
    """∂/∂yⱼ (1/d) Σⱼ (yⱼ - tⱼ)² = (2/d) (yⱼ - tⱼ)."""
    return 2 * per_element(y) * (y - labels.astype(y.dtype))


def _absolute_errors(y, labels):
    error = y - labels.astype(y.dtype)
    return example_mean(error * jnp.sign(error))


def _absolute_error_gradients(y, labels):
    """∂/∂yⱼ (1/d) Σⱼ |yⱼ - tⱼ| = sign(yⱼ - tⱼ) / d; at the kink 0 the value is 0.

    |e| is computed as e sign(e), since ``jax.grad`` of ``jnp.abs`` gives 1 there.
    """
    return per_element(y) * jnp.sign(y - labels.astype(y.dtype))


def huber_with(delta: float) -> Loss:
    """Huber's loss: quadratic for errors up to δ, linear beyond; the mean over an example's elements.

    Math:
        e = y - t, ℓ = e²/2 if |e| ≤ δ else δ (|e| - δ/2)

    Gradient:
        e inside, δ sign(e) outside, equal at ±δ; over the d elements of an example ∂ℓ/∂y = min(max(e, -δ), δ) / d

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.losses.huber_with(1.0)(jnp.array([[3.0]]), jnp.array([[0.0]])))
    2.5

    References:
        Huber 1964, "Robust estimation of a location parameter".
    """
    check_number("delta", delta, "a number above 0", lambda delta: delta > 0)

    def values(y, labels):
        error = jnp.abs(y - labels.astype(y.dtype))
        limit = jnp.asarray(delta, y.dtype)
        is_beyond = error > limit
        # For an infinite δ, this has neither ∞ - ∞ nor, in ``jax.grad``, 0 · ∞.
        limited = jnp.where(is_beyond, limit, error)
        beyond = jnp.where(is_beyond, error - limited, 0)
        return example_mean(limited * (beyond + limited / 2))

    def gradients(y, labels):
        limit = jnp.asarray(delta, y.dtype)
        return per_element(y) * jnp.clip(y - labels.astype(y.dtype), -limit, limit)

    return Loss("huber", check_same_shape, values, gradients, formula=huber_with.__doc__ or "")


def _directions(v):
    """v / |v| and |v|. For a vector of zeros they are 0 and 1.

    v is first divided by its largest element, so that no square overflows or underflows.
    """
    # The scale cancels in both results, so it is a constant for differentiation.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True))
    # XLA multiplies by 1 / scale, which must not be a subnormal number: those become 0.
    scale = jnp.where(largest == 0, 1, jnp.minimum(largest, 1 / jnp.finfo(v.dtype).tiny))
    scaled = v / scale
    norm = jnp.sqrt(jnp.where(largest == 0, 1, jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)))
    return jnp.where(largest == 0, 0, scaled / norm), scale * norm


def _check_vectors(y, labels):
    check_same_shape(y, labels)
    check("y", y, "vectors, (…, features)", y.ndim >= 2)


def _cosine_distances(y, labels):
    """With u = y/|y| and v = t/|t|: 1 - u · v = |u - v|²/2, which keeps its digits if u is near v. 1 for y or t = 0."""
    t = labels.astype(y.dtype)
    distances = jnp.sum(jnp.square(_directions(y)[0] - _directions(t)[0]), axis=-1) / 2
    return jnp.where(jnp.any(y != 0, axis=-1) & jnp.any(t != 0, axis=-1), distances, 1)


def _cosine_distance_gradients(y, labels):
    """With u = y/|y| and v = t/|t|: ∂u/∂y = (I - u uᵀ) / |y|, so ∂/∂y (1 - u · v) = -(I - u uᵀ) v / |y|.

    This is ((u · v) u - v) / |y|. If y or t is 0, the loss is constant and the gradient is 0.
    """
    t = labels.astype(y.dtype)
    u, norm = _directions(y)
    v = _directions(t)[0]
    # I - u uᵀ removes all multiples of u. Taking u or -u away first leaves a small w where v is nearly parallel to u,
    # and subtracting it is exact there.
    w = v - jnp.where(jnp.sum(u * v, axis=-1, keepdims=True) < 0, -u, u)
    # What rounding leaves along u is removed in a second step. Without it, large elements of u keep few digits.
    for _ in range(2):
        w = w - jnp.sum(u * w, axis=-1, keepdims=True) * u
    gradients = -w / norm
    both = jnp.any(y != 0, axis=-1, keepdims=True) & jnp.any(t != 0, axis=-1, keepdims=True)
    return jnp.where(both, gradients, 0)


mean_squared_error = Loss(
    "mean_squared_error",
    check_same_shape,
    _squared_errors,
    _squared_error_gradients,
    formula="ℓ = (1/d) Σⱼ (yⱼ - tⱼ)² over an example's d elements; labels in the shape of y. ∂ℓ/∂y = (2/d) (y - t).",
)

mean_absolute_error = Loss(
    "mean_absolute_error",
    check_same_shape,
    _absolute_errors,
    _absolute_error_gradients,
    formula="ℓ = (1/d) Σⱼ |yⱼ - tⱼ| over an example's d elements; labels in the shape of y. "
    "∂ℓ/∂y = sign(y - t) / d, 0 at the kink.",
)

huber = huber_with(1.0)

cosine_distance = Loss(
    "cosine_distance",
    _check_vectors,
    _cosine_distances,
    _cosine_distance_gradients,
    formula="ℓ = 1 - u · v with u = y/|y| and v = t/|t| over the last axis; labels in the shape of y. "
    "It is computed as |u - v|²/2, which is the same. ∂ℓ/∂y = ((u · v) u - v) / |y|. For a vector of zeros ℓ = 1 and "
    "the gradient is 0.",
)
