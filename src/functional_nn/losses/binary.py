"""Losses for binary labels: binary cross-entropy and hinge."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.activations.sigmoids import log_sigmoid, softplus
from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.losses.labels import check_same_shape, example_mean, per_element
from functional_nn.losses.loss import Loss
from functional_nn.losses.weighting import nan_unless, times


def _check_binary(y, labels):
    check_same_shape(y, labels)
    _check_numbers("labels", labels, lambda t: (t >= 0) & (t <= 1), "values in [0, 1]")


def _check_probabilities(y, labels):
    _check_binary(y, labels)
    _check_numbers(
        "y", y, lambda p: (p >= 0) & (p <= 1), "probabilities in [0, 1]", "For logits use binary_cross_entropy."
    )


def _check_signs(y, labels):
    check_same_shape(y, labels)
    remedy = "If labels are -1 and 1, use (labels + 1) / 2."
    _check_numbers("labels", labels, lambda t: (t == 0) | (t == 1), "0 or 1", remedy)


def _check_numbers(argument, array, are_allowed, expected, remedy=""):
    """Requires allowed numbers, unless the array is traced."""
    if is_concrete(array):
        host = np.asarray(array)
        if not np.all(are_allowed(host)):
            raise InputError(argument, expected, f"values from {host.min()} to {host.max()}", remedy)


def _binary_targets(y, labels):
    """The labels t, with NaN where t is not between 0 and 1."""
    t = labels.astype(y.dtype)
    return nan_unless((t >= 0) & (t <= 1), t)


def _binary_values(y, labels):
    t = _binary_targets(y, labels)
    return example_mean(times(t, jax.nn.softplus(-y)) + times(1 - t, jax.nn.softplus(y)))


def _binary_gradients(y, labels):
    """With p = σ(y): ∂/∂y (t log(1 + e^{-y}) + (1 - t) log(1 + e^y)) = -t σ(-y) + (1 - t) σ(y) = p - t."""
    t = _binary_targets(y, labels)
    return per_element(y) * ((1 - t) * softplus.derivative(y) - t * log_sigmoid.derivative(y))


def _probability_values(y, labels):
    """A logarithm with the weight 0 gets the argument 1, so that ``jax.grad`` does not compute 0 · ∞."""
    t = _binary_targets(y, labels)
    other = jnp.where(t == 1, 0, y)
    # 1 - p loses the digits of a small p, so log1p is better there. For p near 0.4, XLA's log1p has errors of 100 ULP.
    is_small = other < 0.25
    log_of_other = jnp.where(is_small, jnp.log1p(-jnp.where(is_small, other, 0)), jnp.log(1 - other))
    values = -t * jnp.log(jnp.where(t == 0, 1, y)) - (1 - t) * log_of_other
    return example_mean(nan_unless((y >= 0) & (y <= 1), values))


def _probability_gradients(y, labels):
    """∂/∂p (-t log p - (1 - t) log(1 - p)) = (1 - t) / (1 - p) - t / p = (p - t) / (p (1 - p)).

    The first form cancels where p is near t. In the second, p - t is exact there. For t = 0 and t = 1, only one
    of the two terms of the first form is left. It is also finite if p = t.
    """
    t = _binary_targets(y, labels)
    is_certain = (t == 0) | (t == 1)
    # For the labels 0 and 1 the gradient is 1 / (1 - p) and -1 / p. There the second form, which may divide by 0, gets
    # 1/2 in place of p, so that ``jax.grad`` does not compute 0 · ∞.
    of_label = jnp.where(t == 0, 1 - y, -y)
    inside = jnp.where(is_certain, 0.5, y)
    gradients = jnp.where(is_certain, 1 / of_label, (inside - t) / inside / (1 - inside))
    return per_element(y) * nan_unless((y >= 0) & (y <= 1), gradients)


def _signs(y, labels):
    """s = 2t - 1, with NaN where t is neither 0 nor 1."""
    t = labels.astype(y.dtype)
    return nan_unless((t == 0) | (t == 1), 2 * t - 1)


def _hinge_values(y, labels):
    return example_mean(jax.nn.relu(1 - _signs(y, labels) * y))


def _hinge_gradients(y, labels):
    """∂/∂y max(0, 1 - s y) = -s where s y < 1, else 0; also at the kink s y = 1."""
    s = _signs(y, labels)
    return per_element(y) * -s * jnp.heaviside(1 - s * y, jnp.zeros_like(y))


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
    formula="From probabilities p: ℓ = -t log p - (1 - t) log(1 - p), the mean over an example's d elements; labels t "
    "in [0, 1]. ∂ℓ/∂p = (p - t) / (p (1 - p)) / d. Prefer logits: they keep their digits if p is near 0 or 1.",
)

hinge = Loss(
    "hinge",
    _check_signs,
    _hinge_values,
    _hinge_gradients,
    formula="ℓ = max(0, 1 - s y) with s = 2t - 1, the mean over an example's d elements; labels t are 0 or 1 in the "
    "shape of y, so that s is -1 or 1. ∂ℓ/∂y = -s/d where s y < 1, else 0, also at the kink s y = 1.",
)
