"""Metrics: how good the answers are, for people; losses are what training minimizes.

A metric is made of totals, sums over examples. The totals of batches, however uneven, add up to those of all examples,
and ``result`` of the sum is the metric over all of them. All metrics here take outputs y (…, classes), logits or
anything with the same order unless they say otherwise, and integer labels (…). Of ``Masked`` sequences the real steps
count.

A ratio of nothing to nothing is 0: a class never predicted has precision 0, and where nothing has weight all is 0. A
label that is no class is an error; under ``jit``, where it cannot raise, it makes the result NaN, as NaN in y does.

>>> from operator import add
>>> y, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), jnp.array([1, 1, 0])
>>> totals = jax.tree.map(add, accuracy.totals(y[:1], labels[:1]), accuracy.totals(y[1:], labels[1:]))
>>> print(accuracy.result(totals).round(4), accuracy(y, labels).round(4))
0.6667 0.6667
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer_checks import is_concrete
from functional_nn.core.masked import Masked, values_of
from functional_nn.core.validation import as_array, check_count, shown
from functional_nn.losses.weighting import (
    as_examples,
    check_outputs,
    check_steps,
    combined_weights,
    nan_unless,
    ratio,
    times,
)


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric of a classifier's outputs: totals that add up over batches, and what they come to.

    Args:
        name: used in error messages and tables.
        sums: ``sums(y, labels, weights) -> totals`` of y (examples, classes), labels (examples,) and weights
            (examples,), a pytree of arrays.
        result: ``result(totals)``, the metric.
        formula: what ``help`` shows.
    """

    name: str
    sums: Callable[[jax.Array, jax.Array, jax.Array], Any]
    result: Callable[[Any], jax.Array]
    formula: str = ""

    def __post_init__(self):
        if self.formula:
            object.__setattr__(self, "__doc__", f"{self.name}: {self.formula}")

    def __repr__(self) -> str:
        return f"Metric({self.name!r})"

    def __call__(self, y: Any, labels: Any, weights: Any = None) -> jax.Array:
        """The metric over these examples.

        Args:
            y: the network's output, (…, classes).
            labels: the numbers of the classes, (…). Where y is padding they may be anything.
            weights: one per label, not negative; None where all count 1.
        """
        return self.result(self.totals(y, labels, weights))

    def totals(self, y: Any, labels: Any, weights: Any = None) -> Any:
        """What batches add up to the exact metric over all of them, in float32 or y's wider type."""
        y = Masked(as_array("y", y.values), as_array("mask", y.mask)) if isinstance(y, Masked) else as_array("y", y)
        labels, mask = as_array("labels", labels), None
        weights = None if weights is None else as_array("weights", weights)
        check_outputs(values_of(y))
        if isinstance(y, Masked):
            check_steps(y, labels=labels, weights=weights)
            y, labels, weights, mask = map(as_examples, (y.values, labels, weights, y.mask))
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != y.shape[:-1]:
            expected = f"one integer per row of y, shape {y.shape[:-1]}"
            raise InputError("labels", expected, f"{labels.dtype} of shape {labels.shape}")
        dtype = y.dtype if y.dtype.itemsize >= 4 else jnp.float32
        weights = combined_weights(weights, mask, labels.shape, dtype)
        y, labels, weights = y.astype(dtype).reshape(-1, y.shape[-1]), labels.ravel(), weights.ravel()
        labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
        is_class = (labels >= 0) & (labels < y.shape[-1])
        if is_concrete(is_class, weights):
            _check_labels(np.asarray(labels), np.asarray(is_class | (weights == 0)), y.shape[-1])
        good = jnp.all(jnp.where(weights > 0, is_class & ~jnp.any(jnp.isnan(y), axis=-1), weights == 0))
        totals = self.sums(y, jnp.where(is_class, labels, 0), weights)
        return jax.tree.map(lambda total: nan_unless(good, total), totals)


def _check_labels(labels, good, classes):
    if not good.all():
        expected = f"labels from 0 to {classes - 1}, for {classes} classes"
        raise InputError("labels", expected, labels[~good][0], "Give what does not count the weight 0.")


def _mean_result(totals):
    return ratio(totals["sum"], totals["weight"])


def top_k_accuracy(k: int) -> Metric:
    """The share of examples whose label is among the k largest outputs.

    Of equal outputs that of the class with the smaller number counts as the larger, so that with k = 1 it is the share
    of those whose ``argmax`` is the label.

    >>> y = jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    >>> print(top_k_accuracy(2)(y, jnp.array([1, 2])))
    0.5
    """
    k = check_count("k", k)

    def sums(y, labels, weights):
        labels = jnp.expand_dims(labels, -1)
        of_label = jnp.take_along_axis(y, labels, axis=-1)
        before = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), 0) < labels
        rank = jnp.sum((y > of_label) | ((y == of_label) & before), axis=-1)
        return {"sum": jnp.sum(times((rank < k).astype(weights.dtype), weights)), "weight": jnp.sum(weights)}

    return Metric(f"top_{k}_accuracy", sums, _mean_result, top_k_accuracy.__doc__ or "")


def _right(y, labels, weights):
    """As ``top_k_accuracy(1)`` has them, with less to compile."""
    right = jnp.argmax(y, axis=-1).astype(labels.dtype) == labels
    return {"sum": jnp.sum(jnp.where(right, weights, 0)), "weight": jnp.sum(weights)}


def _confusions(y, labels, weights):
    classes = y.shape[-1]
    predicted = jnp.argmax(y, axis=-1).astype(labels.dtype)
    return jnp.zeros((classes, classes), weights.dtype).at[labels, predicted].add(weights)


def _class_counts(y, labels, weights):
    """For each class the examples that are it and are taken for it, that are taken for it, and that are it."""
    predicted = jnp.argmax(y, axis=-1).astype(labels.dtype)
    nothing = jnp.zeros(y.shape[-1], weights.dtype)
    return {
        "right": nothing.at[labels].add(jnp.where(predicted == labels, weights, 0)),
        "predicted": nothing.at[predicted].add(weights),
        "labels": nothing.at[labels].add(weights),
    }


def _class_score(name, share, average, formula):
    """A metric made of ``share(right, predicted, labels)`` of each class, averaged."""
    if average is not None and (not isinstance(average, str) or average not in ("macro", "micro")):
        raise InputError("average", "'macro', 'micro', None", shown(average))

    def result(totals):
        counts = [totals[count] for count in ("right", "predicted", "labels")]
        if average == "micro":
            return share(*map(jnp.sum, counts))
        shares = share(*counts)
        if average is None:
            return shares
        occurs = (totals["predicted"] + totals["labels"] != 0).astype(shares.dtype)
        return ratio(jnp.sum(shares * occurs), jnp.sum(occurs))

    return Metric(name, _class_counts, result, formula)


def precision_score_with(*, average: str | None = "macro") -> Metric:
    """Of the examples taken for a class, the share that are it; 0 for a class never predicted.

    Args:
        average: ``"macro"``, the mean over the classes that occur in labels or predictions; ``"micro"``, over all
            examples alike, which with one label each is the accuracy; None for an array with each class's.

    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(precision_score_with(average=None)(y, jnp.array([0, 1, 1])))
    [0.5 1. ]
    """
    formula = precision_score_with.__doc__ or ""
    return _class_score("precision_score", lambda right, predicted, labels: ratio(right, predicted), average, formula)


def recall_score_with(*, average: str | None = "macro") -> Metric:
    """Of the examples that are a class, the share taken for it; 0 for a class without examples.

    Args:
        average: as in ``precision_score_with``.

    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(recall_score_with(average=None)(y, jnp.array([0, 1, 1])))
    [1.  0.5]
    """
    formula = recall_score_with.__doc__ or ""
    return _class_score("recall_score", lambda right, predicted, labels: ratio(right, labels), average, formula)


def f1_score_with(*, average: str | None = "macro") -> Metric:
    """The harmonic mean of a class's precision and recall, 2 right / (predicted + labels); 0 where no example is right.

    Args:
        average: as in ``precision_score_with``; ``"macro"`` is the mean of the classes' own values.

    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(f1_score_with(average="micro")(y, jnp.array([0, 1, 1])).round(4))
    0.6667
    """
    formula = f1_score_with.__doc__ or ""
    share = lambda right, predicted, labels: ratio(2 * right, predicted + labels)  # noqa: E731
    return _class_score("f1_score", share, average, formula)


def calibration_error_with(*, bins: int = 15) -> Metric:
    """The expected calibration error: how far the confidence p = max softmax(y) is from the share of right answers.

    Math:
        Σ_b |Σ_{i in b} (rightᵢ - pᵢ)| / n over bins ((b - 1) / bins, b / bins] of p

    Args:
        bins: their number. The totals hold each one's right answers, confidence and weight: a reliability diagram.

    y are logits; of probabilities give the logarithms.

    >>> print(calibration_error(jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]])), jnp.array([0, 1])).round(4))
    0.25

    References:
        Guo et al. 2017, "On calibration of modern neural networks", equation 3.
    """
    bins = check_count("bins", bins)

    def sums(y, labels, weights):
        right = (jnp.argmax(y, axis=-1).astype(labels.dtype) == labels).astype(y.dtype)
        confidence = jnp.max(jax.nn.softmax(y), axis=-1)
        number = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        nothing = jnp.zeros(bins, y.dtype)
        return {
            "right": nothing.at[number].add(times(weights, right)),
            "confidence": nothing.at[number].add(times(weights, confidence)),
            "weight": nothing.at[number].add(weights),
        }

    def result(totals):
        return ratio(jnp.sum(jnp.abs(totals["right"] - totals["confidence"])), jnp.sum(totals["weight"]))

    return Metric("calibration_error", sums, result, calibration_error_with.__doc__ or "")


def _squared_distances(y, labels, weights):
    t = jax.nn.one_hot(labels, y.shape[-1], dtype=y.dtype)
    distances = jnp.sum(jnp.square(jax.nn.softmax(y) - t), axis=-1)
    return {"sum": jnp.sum(times(weights, distances)), "weight": jnp.sum(weights)}


accuracy = Metric(
    "accuracy",
    _right,
    _mean_result,
    formula="the share of examples whose largest output, the first one of equals, is the label's.",
)

confusion_matrix = Metric(
    "confusion_matrix",
    _confusions,
    lambda totals: totals,
    formula="how often each class (row) was taken for each class (column), the first one with the largest output.",
)

precision_score = precision_score_with()
recall_score = recall_score_with()
f1_score = f1_score_with()
calibration_error = calibration_error_with()

brier_score = Metric(
    "brier_score",
    _squared_distances,
    _mean_result,
    formula="the mean of Σₖ (pₖ - tₖ)² with p = softmax(y) and t the label's one-hot vector, from 0 to 2; y are "
    "logits, of probabilities give the logarithms. Brier 1950.",
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        accuracy, precision_score, recall_score, f1_score, confusion_matrix, calibration_error, brier_score,
    )
}  # fmt: skip
"""Every metric that takes no argument under its name."""
