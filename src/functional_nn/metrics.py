"""Metrics of classifiers: accuracy, precision, recall, F1, confusion matrix, calibration error and Brier score.

A metric is computed from totals, which are sums over examples. The totals of batches add up to the totals of all
examples, also for batches of different sizes. ``result`` of this sum is the metric over all examples. All metrics here
take outputs y (…, classes) and integer labels (…). y are logits, or any numbers in the same order, unless a metric says
otherwise. In ``Masked`` sequences only the real steps count.

A ratio 0 / 0 counts as 0: a class that is never predicted has precision 0, and if all weights are 0, so is the metric.
A label that is not a class raises an error. Under ``jit`` no error can be raised; there the label makes the result NaN,
as NaN in y does.

>>> from operator import add
>>> y, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), jnp.array([1, 1, 0])
>>> totals = jax.tree.map(add, accuracy.totals(y[:1], labels[:1]), accuracy.totals(y[1:], labels[1:]))
>>> print(accuracy.result(totals).round(4), accuracy(y, labels).round(4))
0.6667 0.6667
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from functional_nn import names
from functional_nn.core.errors import InputError, check
from functional_nn.core.masked import Value
from functional_nn.core.shapes import wide_type
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_choice, check_count, is_concrete
from functional_nn.losses.loss import as_arrays, as_examples, combined_weights, nan_unless, ratio, times

Totals: TypeAlias = PyTree
"""The sums over examples from which a metric is computed: a pytree of arrays."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric of a classifier's outputs: totals that add up over batches, and the result computed from them.

    Args:
        name: used in error messages and tables.
        sums: ``sums(y, labels, weights) -> totals`` for y (examples, classes), labels (examples,) and weights
            (examples,). The totals are a pytree of arrays.
        result: ``result(totals)`` gives the metric.
        formula: the text that ``help`` shows.
    """

    name: str
    sums: Callable[[jax.Array, jax.Array, jax.Array], Totals]
    result: Callable[[Totals], jax.Array]
    formula: str = ""

    def __post_init__(self):
        if self.formula:
            object.__setattr__(self, "__doc__", f"{self.name}: {self.formula}")

    def __repr__(self) -> str:
        return f"Metric({self.name!r})"

    def __call__(self, y: Value, labels: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
        """Computes the metric over these examples.

        Args:
            y: the network's output, (…, classes).
            labels: the numbers of the classes, (…). At padding they may be anything.
            weights: one per label, not negative; None if all are 1.
        """
        return self.result(self.totals(y, labels, weights))

    def totals(self, y: Value, labels: ArrayLike, weights: ArrayLike | None = None) -> Totals:
        """Computes the sums over these examples, in the type of y but at least in float32.

        The totals of batches, added, give the exact metric over all of them.
        """
        y, labels, weights, mask = as_examples(*as_arrays(y, labels, weights))
        are_integers = y.ndim and jnp.issubdtype(labels.dtype, jnp.integer)
        expected = f"one integer per row of y, shape {y.shape[:-1]}"
        check("labels", labels, expected, are_integers and labels.shape == y.shape[:-1])
        weights = combined_weights(weights, mask, labels.shape, wide_type(y.dtype))
        y = y.astype(wide_type(y.dtype)).reshape(-1, y.shape[-1])
        labels, weights = labels.ravel(), weights.ravel()
        is_class = (labels >= 0) & (labels < y.shape[-1])
        if is_concrete(is_class, weights):
            wrong = np.asarray(labels)[~np.asarray(is_class | (weights == 0))]
            if wrong.size:
                expected = f"labels from 0 to {y.shape[-1] - 1}, for {y.shape[-1]} classes"
                raise InputError("labels", expected, wrong[0], "To leave out a label, give it the weight 0.")
        # A negative or NaN weight is invalid: it is neither above 0 nor equal to 0. With weight 0, anything is valid.
        is_valid = jnp.all(jnp.where(weights > 0, is_class & ~jnp.any(jnp.isnan(y), axis=-1), weights == 0))
        # A label that is no class becomes 0: at padding it has the weight 0, and elsewhere the result is NaN anyway.
        totals = self.sums(y, jnp.where(is_class, labels, 0), weights)
        return jax.tree.map(lambda total: nan_unless(is_valid, total), totals)


def _mean_result(totals):
    return ratio(totals["sum"], totals["weight"])


def top_k_accuracy(k: int) -> Metric:
    """The share of examples in which the label is among the k largest outputs.

    If two outputs are equal, the one of the class with the smaller number counts as larger. So for k = 1 this is the
    share of examples whose ``argmax`` is the label.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> y = jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    >>> print(fnn.metrics.top_k_accuracy(2)(y, jnp.array([1, 2])))
    0.5
    """
    k = check_count("k", k)

    def sums(y, labels, weights):
        labels = jnp.expand_dims(labels, -1)
        of_label = jnp.take_along_axis(y, labels, axis=-1)
        has_smaller_number = jnp.expand_dims(jnp.arange(y.shape[-1], dtype=labels.dtype), 0) < labels
        # rank is the number of classes that come before the label: (examples,).
        rank = jnp.sum((y > of_label) | ((y == of_label) & has_smaller_number), axis=-1)
        return {"sum": jnp.sum(times((rank < k).astype(weights.dtype), weights)), "weight": jnp.sum(weights)}

    return Metric(f"top_{k}_accuracy", sums, _mean_result, top_k_accuracy.__doc__ or "")


def _correct_sums(y, labels, weights):
    """The totals of ``top_k_accuracy(1)``, computed by a smaller program."""
    right = jnp.argmax(y, axis=-1).astype(labels.dtype) == labels
    return {"sum": jnp.sum(jnp.where(right, weights, 0)), "weight": jnp.sum(weights)}


def _confusion_counts(y, labels, weights):
    classes = y.shape[-1]
    predicted = jnp.argmax(y, axis=-1).astype(labels.dtype)
    return _sums_by_number(labels * classes + predicted, weights, classes**2).reshape(classes, classes)


def _class_counts(y, labels, weights):
    """For each class, the weight of its examples that are predicted right, of its predictions, and of its labels."""
    classes = y.shape[-1]
    predicted = jnp.argmax(y, axis=-1).astype(labels.dtype)
    return {
        "right": _sums_by_number(labels, jnp.where(predicted == labels, weights, 0), classes),
        "predicted": _sums_by_number(predicted, weights, classes),
        "labels": _sums_by_number(labels, weights, classes),
    }


def _sums_by_number(numbers, values, count):
    """For each number below ``count``, the sum of the values that have this number.

    A float32 sum to which values are added one by one loses digits: of ones, it stops growing at 2²⁴. So the values are
    added in parts, and then the sums of the parts. A part has at least ``count`` values, so all sums together take no
    more memory than the values, or than one result.
    """
    size = max(256, count)
    sums = jnp.zeros((-(-values.size // size), count), values.dtype)
    return jnp.sum(sums.at[jnp.arange(values.size) // size, numbers].add(values), axis=0)


def _class_score(
    name: str, share: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], average: str | None, formula: str
) -> Metric:
    """Makes a metric of ``share(right, predicted, labels)``, computed for each class and averaged."""
    if average is not None:
        check_choice("average", average, ("macro", "micro"))

    def result(totals):
        counts = [totals[count] for count in ("right", "predicted", "labels")]
        if average == "micro":
            return share(*map(jnp.sum, counts))
        shares = share(*counts)
        if average is None:
            return shares
        # A class without labels and predictions says nothing, and its 0 would lower the mean.
        occurs = (totals["predicted"] + totals["labels"] != 0).astype(shares.dtype)
        return ratio(jnp.sum(shares * occurs), jnp.sum(occurs))

    return Metric(name, _class_counts, result, formula)


def precision_score_with(*, average: str | None = "macro") -> Metric:
    """Precision: the share of right predictions among those of a class; 0 for a class that is never predicted.

    ``precision_score`` is ``precision_score_with()``. Only ``precision_score_with`` takes the argument.

    Args:
        average: ``"macro"`` for the mean over the classes that occur in labels or predictions; ``"micro"`` for the
            share among all examples, which is the accuracy; None for an array with the value of each class.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(fnn.metrics.precision_score_with(average=None)(y, jnp.array([0, 1, 1])))
    [0.5 1. ]
    """
    formula = precision_score_with.__doc__ or ""
    return _class_score("precision_score", lambda right, predicted, labels: ratio(right, predicted), average, formula)


def recall_score_with(*, average: str | None = "macro") -> Metric:
    """Recall: the share of a class's examples that are predicted as this class; 0 for a class without examples.

    Args:
        average: as in ``precision_score_with``.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(fnn.metrics.recall_score_with(average=None)(y, jnp.array([0, 1, 1])))
    [1.  0.5]
    """
    formula = recall_score_with.__doc__ or ""
    return _class_score("recall_score", lambda right, predicted, labels: ratio(right, labels), average, formula)


def f1_score_with(*, average: str | None = "macro") -> Metric:
    """F1: the harmonic mean of precision and recall, 2 right / (predicted + labels); 0 if no prediction is right.

    Args:
        average: as in ``precision_score_with``; ``"macro"`` is the mean of the classes' F1 scores.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> y = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    >>> print(fnn.metrics.f1_score_with(average="micro")(y, jnp.array([0, 1, 1])).round(4))
    0.6667
    """
    formula = f1_score_with.__doc__ or ""
    share = lambda right, predicted, labels: ratio(2 * right, predicted + labels)  # noqa: E731
    return _class_score("f1_score", share, average, formula)


def calibration_error_with(*, bins: int = 15) -> Metric:
    """The expected calibration error: the distance between the confidence p = max softmax(y) and the accuracy.

    Math:
        Σ_b |Σ_{i in b} (rightᵢ - pᵢ)| / n over bins ((b - 1) / bins, b / bins] of p

    Args:
        bins: the number of bins. The totals hold the right answers, the confidence and the weight of each bin, from
            which a reliability diagram can be drawn.

    y are logits. For probabilities, give their logarithms. A logit of +∞ has no probability, and gives NaN.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> y = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
    >>> print(fnn.metrics.calibration_error(y, jnp.array([0, 1])).round(4))
    0.25

    References:
        Guo et al. 2017, "On calibration of modern neural networks", equation 3.
    """
    bins = check_count("bins", bins)

    def sums(y, labels, weights):
        right = (jnp.argmax(y, axis=-1).astype(labels.dtype) == labels).astype(y.dtype)
        confidence = jnp.max(jax.nn.softmax(y), axis=-1)
        # Bins are open on the left and closed on the right. clip keeps rounding from leaving the range.
        number = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        return {
            "right": _sums_by_number(number, times(weights, right), bins),
            "confidence": _sums_by_number(number, times(weights, confidence), bins),
            "weight": _sums_by_number(number, weights, bins),
        }

    def result(totals):
        return ratio(jnp.sum(jnp.abs(totals["right"] - totals["confidence"])), jnp.sum(totals["weight"]))

    return Metric("calibration_error", sums, result, calibration_error_with.__doc__ or "")


def _squared_distance_sums(y, labels, weights):
    t = jax.nn.one_hot(labels, y.shape[-1], dtype=y.dtype)
    distances = jnp.sum(jnp.square(jax.nn.softmax(y) - t), axis=-1)
    return {"sum": jnp.sum(times(weights, distances)), "weight": jnp.sum(weights)}


accuracy = Metric(
    "accuracy",
    _correct_sums,
    _mean_result,
    formula="the share of examples in which the largest output (the first one, if several are equal) is the label's.",
)

confusion_matrix = Metric(
    "confusion_matrix",
    _confusion_counts,
    lambda totals: totals,
    formula="how often examples of each class (row) were predicted as each class (column). The prediction is the class "
    "with the largest output, the first one if several are equal.",
)

precision_score = precision_score_with()
recall_score = recall_score_with()
f1_score = f1_score_with()
calibration_error = calibration_error_with()

brier_score = Metric(
    "brier_score",
    _squared_distance_sums,
    _mean_result,
    formula="the mean of Σₖ (pₖ - tₖ)² with p = softmax(y) and t the label's one-hot vector, from 0 to 2. y are "
    "logits; for probabilities, give their logarithms. A logit of +∞ has no probability, and gives NaN. Brier 1950.",
)

METRICS: Mapping[str, Metric] = names.METRICS
"""Every metric without options by its name."""
