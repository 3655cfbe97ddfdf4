"""Losses, each with its hand-derived gradient beside it. No loss broadcasts.

A loss is the weighted mean L = Σᵢ wᵢ ℓᵢ / Σᵢ wᵢ of one value ℓᵢ per example (per label, where an example has several).
Its gradient with respect to the network's output y is therefore ∂L/∂yᵢ = (wᵢ / Σw) ∂ℓᵢ/∂yᵢ.
With all weights 0 both are 0.

What can be checked without running the numbers (shapes and dtypes) is checked always; values (labels, probabilities,
weights) are checked where they are concrete. Under ``jit`` they cannot raise: there a bad label, probability or weight
makes the value and the gradient NaN, which training reports, and never a plausible number.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.errors import InputError
from functional_nn.layer import is_concrete
from functional_nn.loss import Loss, nan_unless, times

PROBABILITY_TOLERANCE = 1e-2


def _same_shape(y, labels):
    if y.shape != labels.shape:
        remedy = "Losses do not broadcast: reshape one of them."
        raise InputError("labels", f"the shape of y, {y.shape}", f"shape {labels.shape}", remedy)


def _example_mean(elements):
    return jnp.mean(elements, axis=tuple(range(1, elements.ndim)))


def _per_element(y):
    """1/d for the mean over an example's d elements."""
    return 1 / math.prod(y.shape[1:])


# Regression


def _squared_errors(y, labels):
    return _example_mean(jnp.square(y - labels.astype(y.dtype)))


def _squared_error_gradients(y, labels):
    """∂/∂yⱼ (1/d) Σⱼ (yⱼ - tⱼ)² = (2/d) (yⱼ - tⱼ)."""
    return 2 * _per_element(y) * (y - labels.astype(y.dtype))


def _absolute_errors(y, labels):
    error = y - labels.astype(y.dtype)
    return _example_mean(error * jnp.sign(error))


def _absolute_error_gradients(y, labels):
    """∂/∂yⱼ (1/d) Σⱼ |yⱼ - tⱼ| = sign(yⱼ - tⱼ) / d; at the kink 0 the value is 0 (|e| is written e sign(e), since
    ``jax.grad`` of ``jnp.abs`` gives 1 there)."""
    return _per_element(y) * jnp.sign(y - labels.astype(y.dtype))


def huber_with(delta: float) -> Loss:
    """Huber's loss: quadratic up to an error of δ, linear beyond; the mean over an example's elements.

    Math:
        e = y - t, ℓ = e²/2 if |e| ≤ δ else δ (|e| - δ/2)

    Gradient:
        e inside, δ sign(e) outside, equal at ±δ: ∂ℓ/∂y = min(max(e, -δ), δ)

    >>> print(huber_with(1.0)(jnp.array([[3.0]]), jnp.array([[0.0]])))
    2.5

    References:
        Huber 1964, "Robust estimation of a location parameter".
    """
    if is_concrete(delta) and not delta > 0:
        raise InputError("delta", "a number above 0", delta)

    def values(y, labels):
        error = jnp.abs(y - labels.astype(y.dtype))
        return _example_mean(jnp.where(error <= delta, jnp.square(error) / 2, delta * (error - delta / 2)))

    def gradients(y, labels):
        return _per_element(y) * jnp.clip(y - labels.astype(y.dtype), -delta, delta)

    return Loss("huber", _same_shape, values, gradients, formula=huber_with.__doc__ or "")


mean_squared_error = Loss(
    "mean_squared_error",
    _same_shape,
    _squared_errors,
    _squared_error_gradients,
    formula="ℓ = (1/d) Σⱼ (yⱼ - tⱼ)² over an example's d elements; labels in the shape of y. ∂ℓ/∂y = (2/d) (y - t).",
)

mean_absolute_error = Loss(
    "mean_absolute_error",
    _same_shape,
    _absolute_errors,
    _absolute_error_gradients,
    formula="ℓ = (1/d) Σⱼ |yⱼ - tⱼ| over an example's d elements; labels in the shape of y. "
    "∂ℓ/∂y = sign(y - t) / d, 0 at the kink.",
)

huber = huber_with(1.0)


# Two classes


def _check_binary(y, labels):
    _same_shape(y, labels)
    if is_concrete(labels):
        host = np.asarray(labels)
        if not np.all((host >= 0) & (host <= 1)):
            raise InputError("labels", "values in [0, 1]", f"values from {host.min()} to {host.max()}")


def _check_probabilities(y, labels):
    _check_binary(y, labels)
    if is_concrete(y):
        host = np.asarray(y)
        if not np.all((host >= 0) & (host <= 1)):
            remedy = "For logits use binary_cross_entropy."
            raise InputError("y", "probabilities in [0, 1]", f"values from {host.min()} to {host.max()}", remedy)


def _binary_targets(y, labels):
    """t, NaN where it is no probability."""
    t = labels.astype(y.dtype)
    return nan_unless((t >= 0) & (t <= 1), t)


def _binary_values(y, labels):
    t = _binary_targets(y, labels)
    return _example_mean(times(t, jax.nn.softplus(-y)) + times(1 - t, jax.nn.softplus(y)))


def _binary_gradients(y, labels):
    """With p = σ(y): ∂/∂y (t log(1 + e^{-y}) + (1 - t) log(1 + e^y)) = -t σ(-y) + (1 - t) σ(y) = p - t."""
    t = _binary_targets(y, labels)
    return _per_element(y) * ((1 - t) * jax.nn.sigmoid(y) - t * jax.nn.sigmoid(-y))


def _probability_values(y, labels):
    """Where a logarithm has no weight its argument is made 1, so that ``jax.grad`` meets no 0 · ∞."""
    t = _binary_targets(y, labels)
    values = -t * jnp.log(jnp.where(t == 0, 1, y)) - (1 - t) * jnp.log1p(-jnp.where(t == 1, 0, y))
    return _example_mean(nan_unless((y >= 0) & (y <= 1), values))


def _probability_gradients(y, labels):
    """∂/∂p (-t log p - (1 - t) log(1 - p)) = (1 - t) / (1 - p) - t / p."""
    t = _binary_targets(y, labels)
    return _per_element(y) * nan_unless((y >= 0) & (y <= 1), times(1 - t, 1 / (1 - y)) - times(t, 1 / y))


binary_cross_entropy = Loss(
    "binary_cross_entropy",
    _check_binary,
    _binary_values,
    _binary_gradients,
    formula="From logits: ℓ = -t log σ(y) - (1 - t) log σ(-y), the mean over an example's elements; "
    "labels t in [0, 1]. ∂ℓ/∂y = (σ(y) - t) / d.",
)

binary_cross_entropy_from_probabilities = Loss(
    "binary_cross_entropy_from_probabilities",
    _check_probabilities,
    _probability_values,
    _probability_gradients,
    formula="From probabilities p: ℓ = -t log p - (1 - t) log(1 - p). Prefer logits: they keep "
    "digits where p is near 0 or 1. ∂ℓ/∂p = ((1 - t) / (1 - p) - t / p) / d.",
)


# Many classes


def cross_entropy_with(*, label_smoothing: float = 0.0, ignore_index: int | None = None) -> Loss:
    """Cross-entropy of logits y (…, classes) with integer labels (…) or with probabilities (…, classes).

    Math:
        p = softmax(y), ℓ = -Σₖ tₖ log pₖ, with t the label's one-hot vector or the given probabilities, mixed with the
        uniform distribution by smoothing: t ← (1 - ε) t + ε / classes

    Gradient:
        log pₖ = yₖ - log Σ e^y, so ∂ log pₖ / ∂yⱼ = δₖⱼ - pⱼ, hence

        ∂ℓ/∂yⱼ = -Σₖ tₖ (δₖⱼ - pⱼ) = pⱼ Σₖ tₖ - tⱼ, which is p - t where t sums to 1

    Args:
        label_smoothing: ε, in [0, 1).
        ignore_index: an integer label that does not count: value 0, gradient 0, and out of the mean.

    >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4), jnp.log(4.0).round(4))
    1.3863 1.3863

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 6.2.2.3; Szegedy et al. 2016 for smoothing.
    """
    if is_concrete(label_smoothing) and not 0 <= label_smoothing < 1:
        raise InputError("label_smoothing", "a number in [0, 1)", label_smoothing)
    smooth = not is_concrete(label_smoothing) or label_smoothing > 0

    def check(y, labels):
        _check_classes(y, labels, ignore_index)

    def targets(y, labels):
        """t in the shape of y, NaN for a label that is no class or no probabilities; and which are ignored."""
        classes = y.shape[-1]
        if labels.ndim == y.ndim:
            ignored = jnp.zeros((1,) * y.ndim, bool)
            t = nan_unless(jnp.expand_dims(_are_probabilities(labels), -1), labels.astype(y.dtype))
        else:
            labels = jnp.expand_dims(labels, -1)
            numbers = jnp.expand_dims(jnp.arange(classes, dtype=labels.dtype), range(y.ndim - 1))
            is_class = (labels >= 0) & (labels < classes)
            ignored = jnp.zeros_like(is_class) if ignore_index is None else labels == ignore_index
            t = jnp.where(is_class | ignored, (labels == numbers).astype(y.dtype), jnp.nan)
        return (1 - label_smoothing) * t + label_smoothing / classes if smooth else t, ignored

    def values(y, labels):
        t, ignored = targets(y, labels)
        log_p = jax.nn.log_softmax(jnp.where(ignored, 0, y))
        return -jnp.sum(jnp.where(ignored, 0, times(t, log_p)), axis=-1)

    def gradients(y, labels):
        t, ignored = targets(y, labels)
        return jnp.where(ignored, 0, jax.nn.softmax(y) * jnp.sum(t, axis=-1, keepdims=True) - t)

    def counted(labels):
        if jnp.issubdtype(labels.dtype, jnp.floating):
            return jnp.ones(labels.shape[:-1])
        return labels != ignore_index

    return Loss(
        "cross_entropy",
        check,
        values,
        gradients,
        None if ignore_index is None else counted,
        formula=cross_entropy_with.__doc__ or "",
    )


def _check_classes(y, labels, ignore_index):
    classes = y.shape[-1] if y.ndim else 0
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    expected = f"integer labels of shape {y.shape[:-1]} or probabilities of shape {y.shape}"
    if y.ndim < 1 or not ((integers and labels.shape == y.shape[:-1]) or (floats and labels.shape == y.shape)):
        remedy = "Give a one-hot array as floating-point numbers." if integers and labels.shape == y.shape else ""
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels", f"{expected}, for y of shape {y.shape}", given, remedy)
    if not is_concrete(labels):
        return
    host = np.asarray(labels)
    if integers:
        bad = (host < 0) | (host >= classes)
        if ignore_index is not None:
            bad &= host != ignore_index
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            known = f"labels from 0 to {classes - 1}" + (f" or {ignore_index}" if ignore_index is not None else "")
            remedy = "" if ignore_index is not None else "To leave labels out, use cross_entropy_with(ignore_index=…)."
            raise InputError("labels", f"{known}, for {classes} classes", f"{host[where]} at index {where}", remedy)
    elif not (good := _are_probabilities(host.astype(np.float32))).all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        row = host[where].astype(np.float64)
        given = f"a row with sum {row.sum():.6g} and smallest value {row.min():.6g} at index {where}"
        raise InputError("labels", "rows of probabilities that sum to 1", given)


def _are_probabilities(rows):
    """Which rows are not below 0 and sum to 1, as nearly as bfloat16 can."""
    return (abs(rows.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE) & (rows >= 0).all(axis=-1)


cross_entropy = cross_entropy_with()

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        mean_squared_error, mean_absolute_error, huber,
        binary_cross_entropy, binary_cross_entropy_from_probabilities, cross_entropy,
    )
}  # fmt: skip
"""Every loss under its name."""
