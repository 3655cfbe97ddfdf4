"""Losses for log-probabilities, the output of ``log_softmax``: negative log-likelihood and KL divergence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.losses.labels import are_probabilities, check_classes, check_probabilities, one_hot
from functional_nn.losses.loss import Loss
from functional_nn.losses.weighting import nan_unless, times

LOG_TOLERANCE = 0.1
"""How far the logarithm of a row's sum of probabilities may be from 0. This allows the rounding errors of bfloat16."""


def _are_log_probabilities(y):
    return jnp.abs(jax.nn.logsumexp(y, axis=-1)) <= LOG_TOLERANCE


def _check_log_probabilities(y):
    if not is_concrete(y):
        return
    # Under ``jit``, operations on known numbers would be traced.
    with jax.ensure_compile_time_eval():
        good = np.asarray(_are_log_probabilities(jnp.asarray(y, float)))
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        total = np.exp(np.asarray(y)[where].astype(np.float64)).sum()
        remedy = "Let the network end in log_softmax; for logits use cross_entropy."
        given = f"a row whose exponentials sum to {total:.6g} at index {where}"
        raise InputError("y", "rows of log-probabilities, whose exponentials sum to 1", given, remedy)


def _check_likelihood(y, labels):
    check_classes(y, labels)
    _check_log_probabilities(y)


def _check_divergence(y, labels):
    check_probabilities(y, labels)
    _check_log_probabilities(y)


def _valid_rows(y, t):
    """t, with NaN in each row in which y does not hold log-probabilities."""
    return nan_unless(jnp.expand_dims(_are_log_probabilities(y), -1), t)


def _likelihood_values(y, labels):
    return -jnp.sum(times(_valid_rows(y, one_hot(y, labels)), y), axis=-1)


def _likelihood_gradients(y, labels):
    """∂/∂yₖ (-y_label) = -tₖ, with t the label's one-hot vector."""
    return -_valid_rows(y, one_hot(y, labels))


def _divergence_targets(y, labels):
    t = labels.astype(y.dtype)
    return _valid_rows(y, nan_unless(jnp.expand_dims(are_probabilities(labels), -1), t))


def _divergence_values(y, labels):
    t = _divergence_targets(y, labels)
    # 0 log 0 = 0: the logarithm gets 1 in place of 0, so that no derivative is ∞. ``times`` makes 0 · (-∞) 0.
    return jnp.sum(t * jnp.log(jnp.where(t == 0, 1, t)) - times(t, y), axis=-1)


def _divergence_gradients(y, labels):
    """∂/∂yₖ Σₖ tₖ (log tₖ - yₖ) = -tₖ."""
    return -_divergence_targets(y, labels)


negative_log_likelihood = Loss(
    "negative_log_likelihood",
    _check_likelihood,
    _likelihood_values,
    _likelihood_gradients,
    formula="ℓ = -y_label, from log-probabilities y (…, classes) and integer labels (…). ∂ℓ/∂y = -t, t the label's "
    "one-hot vector. cross_entropy computes the same from logits, in one step.",
)

kl_divergence = Loss(
    "kl_divergence",
    _check_divergence,
    _divergence_values,
    _divergence_gradients,
    formula="ℓ = Σₖ tₖ (log tₖ - yₖ), from log-probabilities y and probabilities t, both (…, classes); 0 log 0 = 0. "
    "∂ℓ/∂y = -t. Kullback and Leibler 1951.",
)
