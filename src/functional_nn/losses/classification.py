"""Losses for class labels and binary labels, from logits, log-probabilities or probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from functional_nn.activations.smooth import log_sigmoid, log_softmax, softplus
from functional_nn.core.errors import InputError, check
from functional_nn.core.validation import (
    LARGEST,
    as_array,
    as_host_array,
    check_count,
    check_elements,
    check_number,
    is_concrete,
)
from functional_nn.losses.loss import (
    Loss,
    are_probabilities,
    as_class_numbers,
    check_classes,
    check_probabilities,
    check_same_shape,
    described,
    example_mean,
    nan_unless,
    one_hot,
    per_element,
    times,
)


def cross_entropy_with(
    *,
    label_smoothing: float | jax.Array = 0.0,
    ignore_index: int | None = None,
    class_weights: ArrayLike | Sequence[float] | None = None,
) -> Loss:
    """Cross-entropy of logits y (…, classes) with integer labels (…) or with probabilities (…, classes).

    Math:
        p = softmax(y), ℓ = -Σₖ cₖ tₖ log pₖ, with t the label's one-hot vector or the given probabilities, mixed with
        the uniform distribution by smoothing, t ← (1 - ε) t + ε / classes, and cₖ the weight of class k, 1 by default

        L = Σᵢ ℓᵢ / Σᵢ aᵢ with aᵢ the weight of example i's label, and 1 where labels are probabilities, as in PyTorch

    Gradient:
        log pₖ = yₖ - log Σ e^y, so ∂ log pₖ / ∂yⱼ = δₖⱼ - pⱼ, hence

        ∂ℓ/∂yⱼ = -Σₖ cₖ tₖ (δₖⱼ - pⱼ) = pⱼ Σₖ cₖ tₖ - cⱼ tⱼ, which is p - t where c = 1 and t sums to 1

    The elements of a row sum to 0. If one p is above 1/2, its element would lose digits (p - 1 is 0 for a label with a
    margin of 40). So it is computed as minus the sum of the others: p - 1 = -Σₖ pₖ over the other classes k. For the
    same reason, the loss of integer labels is log(1 + Σₖ e^(yₖ - y_label)), which is small but not 0 for a large
    margin. With smoothing or with probabilities as labels, ℓ is the sum above.

    Args:
        label_smoothing: ε, in [0, 1).
        ignore_index: an integer label to ignore: its loss and gradient are 0, and it is not counted in the mean.
        class_weights: c, (classes,), not below 0. If the weights of all labels are 0, or if all labels are ignored,
            the loss is 0 (in PyTorch it is NaN).

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4), jnp.log(4.0).round(4))
    1.3863 1.3863

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 6.2.2.3; Szegedy et al. 2016 for smoothing.
    """
    check_number("label_smoothing", label_smoothing, "a number in [0, 1)", lambda share: 0 <= share < 1)
    if ignore_index is not None:
        ignore_index = check_count("ignore_index", ignore_index, least=-LARGEST)
    smooth = not is_concrete(label_smoothing) or label_smoothing > 0
    c = None if class_weights is None else _class_weights(class_weights)
    are_weighted = c is not None or ignore_index is not None

    def check_labels(y, labels):
        if c is not None and y.shape[-1:] != c.shape:
            expected = f"one weight per class, shape {y.shape[-1:]}"
            raise InputError("class_weights", expected, f"shape {c.shape}", f"y has shape {y.shape}.")
        integers = jnp.issubdtype(labels.dtype, jnp.integer)
        if y.ndim and integers and labels.shape == y.shape[:-1]:
            check_classes(y, labels, ignore_index)
        elif y.ndim and not integers and labels.shape == y.shape:
            check_probabilities(y, labels)
        else:
            expected = f"integer labels of shape {y.shape[:-1]} or probabilities of shape {y.shape}"
            one_hot_integers = y.ndim and integers and labels.shape == y.shape
            is_one_hot = one_hot_integers and y.shape[-1] > 1
            one_hot_remedy = "Give a one-hot array as floating-point numbers." if is_one_hot else ""
            remedy = one_hot_remedy or as_class_numbers(y, labels)
            raise InputError("labels", expected, described(labels), remedy)

    def targets(y, labels):
        """c t in the shape of y. It is NaN for a label that is not a class, or a row that is not probabilities."""
        if labels.ndim == y.ndim:
            t = nan_unless(jnp.expand_dims(are_probabilities(labels), -1), labels.astype(y.dtype))
        else:
            t = counted(labels, one_hot(y, labels))
        if smooth:
            kept, each = 1 - label_smoothing, label_smoothing / y.shape[-1]
            t = jnp.asarray(kept, y.dtype) * t + jnp.asarray(each, y.dtype)
        return t if c is None else t * jnp.expand_dims(jnp.asarray(c, y.dtype), range(y.ndim - 1))

    def values(y, labels):
        if smooth or labels.ndim == y.ndim:
            t = counted(labels, targets(y, labels))
            return -jnp.sum(times(t, log_softmax(counted(labels, y))), axis=-1)
        is_class = (labels >= 0) & (labels < y.shape[-1])
        losses = nan_unless(is_class | is_ignored(labels), _surprise(counted(labels, y), labels))
        return times(label_weights(labels).astype(losses.dtype), losses) if are_weighted else losses

    def gradients(y, labels):
        """log_softmax's pullback of the cotangent -c t, which gives p Σ c t - c t."""
        return counted(labels, log_softmax.pullback(y, -targets(y, labels)))

    def counted(labels, rows):
        """Rows (…, classes), with 0 for ignored labels."""
        if ignore_index is None or labels.ndim == rows.ndim:
            return rows
        return jnp.where(jnp.expand_dims(is_ignored(labels), -1), 0, rows)

    def label_weights(labels):
        if jnp.issubdtype(labels.dtype, jnp.floating):
            return jnp.ones(labels.shape[:-1])
        if c is None:
            return ~is_ignored(labels)
        is_class = (labels >= 0) & (labels < c.size)
        # A label that is not a class makes its own row NaN elsewhere. Its weight must stay a number, since every row is
        # divided by the sum of the weights.
        of_class = jnp.where(is_class, jnp.asarray(c, float)[jnp.where(is_class, labels, 0)], 1)
        return jnp.where(is_ignored(labels), 0, of_class)

    def is_ignored(labels):
        return jnp.zeros(labels.shape, bool) if ignore_index is None else labels == ignore_index

    return Loss(
        "cross_entropy",
        check_labels,
        values,
        gradients,
        label_weights if are_weighted else None,
        None if ignore_index is None else is_ignored,
        formula=cross_entropy_with.__doc__ or "",
    )


def _surprise(y, labels):
    """-log p_label = log Σₖ e^(yₖ - y_label), without a difference of nearly equal numbers.

    Let m be the largest logit. If it is the label's, the label's own term is 1, and the loss is log(1 + Σₖ e^(yₖ - m))
    over the other classes k. Otherwise it is m - y_label + log Σₖ e^(yₖ - m) over all classes, where one term is 1.
    No terms cancel in the derivative by ``jax.grad`` either: the derivative by the largest logit, the label's, is minus
    the sum of the derivatives by the others.
    """
    numbers = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), range(labels.ndim))
    is_label = numbers == jnp.expand_dims(labels, -1)
    of_label = jnp.sum(jnp.where(is_label, y, 0), axis=-1)
    # m cancels in the loss, so it is a constant for differentiation, but not if the label's own term is left out.
    largest = jax.lax.stop_gradient(jnp.max(y, axis=-1))
    is_wrong = of_label < largest
    m = jnp.where(is_wrong, largest, of_label)
    is_left_out = is_label & ~jnp.expand_dims(is_wrong, -1)
    z = jnp.sum(jnp.exp(jnp.where(is_left_out, -jnp.inf, y - jnp.expand_dims(m, -1))), axis=-1)
    # If m is y_label, the derivative of m - y_label is 1 - 1. JAX would add a small sum to the 1 first and lose it.
    return jnp.where(is_wrong, largest - of_label, 0) + jnp.log1p(jnp.where(is_wrong, z - 1, z))


def _class_weights(class_weights):
    concrete = is_concrete(*jax.tree.leaves(class_weights))
    c = as_host_array("class_weights", class_weights) if concrete else as_array("class_weights", class_weights)
    c = c.astype(float)
    check("class_weights", c, "one weight per class, shape (classes,)", c.ndim == 1)
    check_elements("class_weights", c, lambda weights: weights >= 0, "weights not below 0")
    return c if concrete else nan_unless(c >= 0, c)


def _margins(y, labels):
    """1 - y_label + yₖ for each class k, but 0 for the label's own class; and the label's one-hot vector t."""
    t = one_hot(y, labels)
    of_label = jnp.sum(times(t, y), axis=-1, keepdims=True)
    return jnp.where(t == 1, 0, 1 - (of_label - y)), t


def _multiclass_hinge_values(y, labels):
    margins, _ = _margins(y, labels)
    return jnp.mean(jax.nn.relu(margins), axis=-1)


def _multiclass_hinge_gradients(y, labels):
    """With vₖ = 1 where class k's margin is above 0: every such margin has yₖ with the factor 1 and y_label with -1, so
    ∂ℓ/∂yₖ = vₖ / classes for the others, and -Σₖ vₖ / classes for the label."""
    margins, t = _margins(y, labels)
    violated = jnp.heaviside(margins, jnp.zeros_like(margins))
    return (violated - t * jnp.sum(violated, axis=-1, keepdims=True)) / y.shape[-1]


cross_entropy = cross_entropy_with()

multiclass_hinge = Loss(
    "multiclass_hinge",
    check_classes,
    _multiclass_hinge_values,
    _multiclass_hinge_gradients,
    formula="ℓ = (1/classes) Σₖ max(0, 1 - y_label + yₖ) over the classes k other than the label, for scores y "
    "(…, classes) and integer labels (…). With vₖ = 1 where the term is above 0, else 0, also at the kink: "
    "∂ℓ/∂yₖ = vₖ / classes, ∂ℓ/∂y_label = -Σₖ vₖ / classes. Weston and Watkins 1999; PyTorch's multi_margin_loss.",
)


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


def _check_binary(y, labels):
    check_same_shape(y, labels)
    check_elements("labels", labels, lambda t: (t >= 0) & (t <= 1), "values in [0, 1]")


def _check_probabilities(y, labels):
    _check_binary(y, labels)
    check_elements(
        "y", y, lambda p: (p >= 0) & (p <= 1), "probabilities in [0, 1]", "For logits use binary_cross_entropy."
    )


def _check_signs(y, labels):
    check_same_shape(y, labels)
    remedy = "If labels are -1 and 1, use (labels + 1) / 2."
    check_elements("labels", labels, lambda t: (t == 0) | (t == 1), "0 or 1", remedy)


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
