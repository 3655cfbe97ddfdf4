"""The metrics of an epoch by name: ``train_loss``, ``test_loss``, ``validation_accuracy`` and others."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.training.epoch import EpochResult
from functional_nn.training.evaluate import Evaluation
from functional_nn.training.step import StepResult

ROUNDING = 1e-6
"""A share in float32 differs from the true one by less than this."""


def named_metrics(part: str, result: EpochResult | StepResult, evaluation: Evaluation | None) -> dict[str, jax.Array]:
    """All metrics of an epoch in one dict.

    Args:
        part: what was evaluated: ``"validation"`` or ``"test"``.
        result: of the epoch's train steps; or of one step, if only the names and shapes are needed.
        evaluation: of that part after the epoch; None if nothing was evaluated.
    """
    named = {"train_loss": result.loss, **{f"train_{name}": value for name, value in result.reports.items()}}
    if evaluation is not None:
        named |= evaluated_metrics(part, evaluation)
    return named


def evaluated_metrics(part: str, evaluation: Evaluation) -> dict[str, jax.Array]:
    """The metrics of a part of the data by name, such as ``test_loss``."""
    return {f"{part}_loss": evaluation.loss, **{f"{part}_{name}": value for name, value in evaluation.metrics.items()}}


def check_metric_shapes(named: Mapping[str, jax.Array], members: int | None) -> None:
    """Raises an InputError unless every metric is one number for each model.

    Args:
        named: the metrics, or their shapes and types.
        members: the number of models that a program trains together; None for one.
    """
    expected = () if members is None else (members,)
    for name, value in named.items():
        if value.shape != expected:
            given = f"one of shape {value.shape[len(expected) :]}"
            remedy = "Compute it after training, from the network's outputs."
            raise InputError(f"metrics/{name.partition('_')[2]}", "a metric that is one number", given, remedy)


def number_of_labels(labels: PyTree) -> int:
    """The number of labels in all arrays together."""
    return sum(leaf.size for leaf in jax.tree.leaves(labels))


def as_numbers(named: Mapping[str, jax.Array], labels: int) -> dict[str, float]:
    """The metrics of one model as Python numbers, in the same order.

    Args:
        named: the metrics on the device.
        labels: the number of labels that were evaluated.
    """
    values = jax.device_get(list(named.values()))
    return {name: as_number(name, value, labels) for name, value in zip(named, values, strict=True)}


def as_number(name: str, value: np.ndarray, labels: int) -> float:
    """A metric as a Python number. An accuracy that is a share of ``labels`` loses float32's rounding.

    ``labels`` is 0 if nothing was evaluated. A loss may still report an accuracy of its own in training.

    >>> as_number("test_accuracy", np.float32(0.911), 1000), as_number("test_loss", np.float32(0.5), 1000)
    (0.911, 0.5)
    >>> as_number("train_accuracy", np.float32(0.5), 0)
    0.5
    """
    number = float(value)
    if name.endswith("_accuracy") and labels and math.isfinite(number):
        share = round(number * labels) / labels
        if abs(share - number) < ROUNDING:
            return share
    return number


SMALLER_IS_BETTER = ("loss", "error", "brier_score", "mae", "mse", "rmse", "perplexity")
"""What the name of a metric ends with if a smaller number is better."""


def larger_is_better(metric: str) -> bool:
    """Whether a larger number is better: for every metric whose name does not end as in ``SMALLER_IS_BETTER``.

    >>> larger_is_better("test_accuracy"), larger_is_better("validation_loss")
    (True, False)
    """
    return not metric.endswith(SMALLER_IS_BETTER)


def check_metric(argument: str, metric: object, known: Collection[str]) -> None:
    """Raises an InputError, which lists the known names, unless a run has a metric of this name."""
    if not isinstance(metric, str) or metric not in known:
        raise InputError(argument, "the name of a metric of this run", shown(metric), suggest(str(metric), known))


def default_metric(names: Collection[str]) -> str:
    """The metric by which models are compared if nothing else is said.

    It is the accuracy if there is one, or else the loss: on validation examples if there are any, or else on test
    examples, or else in training.

    >>> default_metric(["train_loss", "test_loss", "test_accuracy"]), default_metric(["train_loss", "validation_loss"])
    ('test_accuracy', 'validation_loss')
    """
    for part in ("validation", "test"):
        for name in (f"{part}_accuracy", f"{part}_loss"):
            if name in names:
                return name
    return "train_loss"
