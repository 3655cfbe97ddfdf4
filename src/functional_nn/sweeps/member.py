"""Members of a sweep's result: one trained model with its hyper-parameters, status and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import Params, State
from functional_nn.core.texts import words
from functional_nn.core.validation import check_choice
from functional_nn.sweeps.grid import PlainValue
from functional_nn.training.evaluate import default_metric


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of a sweep.

    Args:
        number: its place in the grid, from 0.
        hyperparameters: its values in the grid, with the seed.
        status: ``"finished"``; ``"non-finite"``, and its last finite state is kept; ``"stopped early"``; ``"halved"``,
            left out by successive halving; or ``"not run"``, because the sweep was interrupted before its end.
        bad_step: for a non-finite member, the first step of the run, from 0, whose result was not finite.
            ``find_non_finite`` finds the operation that made it.
        curves: metrics by name, such as ``train_loss``, ``test_loss`` and ``test_accuracy``; each is an array with one
            number for each epoch. If the data have validation examples, these take the place of the test examples.
        params, state: pytrees of NumPy arrays; None if they were not kept.
        test_metrics: the metrics on the test examples at the member's end, if choices are made on validation examples.
    """

    number: int
    hyperparameters: Mapping[str, PlainValue]
    status: str
    bad_step: int | None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    params: Params | None = None
    state: State | None = None
    test_metrics: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.hyperparameters.items())
        metrics = {name: self.last(name) for name in self.curves} | dict(self.test_metrics)
        numbers = "".join(f", {words(name)} {value:.4f}" for name, value in metrics.items())
        return f"Member({self.number}: {given}; {self.status} after epoch {self.epochs}{numbers})"

    @property
    def epochs(self) -> int:
        """The number of epochs that it was trained for."""
        return len(next(iter(self.curves.values()), ()))

    @property
    def has_result(self) -> bool:
        """Whether its last metrics are those of a trained model: it is neither non-finite nor interrupted."""
        return self.status not in ("non-finite", "not run")

    @property
    def is_trained_to_its_end(self) -> bool:
        """Whether it has a result, and was not left out by successive halving."""
        return self.has_result and self.status != "halved"

    def last(self, metric: str) -> float:
        """A metric after the last epoch; NaN if no epoch was run, or if there is no such metric."""
        curve = self.curves.get(metric)
        return math.nan if curve is None or not len(curve) else float(curve[-1])


def has_number(member: Member, metric: str) -> bool:
    """Whether a member ended with a finite metric. Only such members can win, and count in statistics.

    A member that successive halving left out can win only if no other can.
    """
    return member.has_result and math.isfinite(member.last(metric))


class HasMembers(Protocol):
    """The part of a sweep's result that statistics use."""

    @property
    def members(self) -> tuple[Member, ...]: ...


def metric_names(members: Iterable[Member]) -> tuple[str, ...]:
    """The names of the metrics that members have after each epoch."""
    return tuple(dict.fromkeys(name for member in members for name in member.curves))


def chosen_metric(result: HasMembers, metric: str | None) -> str:
    """The name of a metric of the result; for None, that of the metric by which models are compared.

    Raises:
        InputError: if the result has no such metric.
    """
    names = metric_names(result.members)
    if metric is None:
        return default_metric(names)
    if not names:  # no member has run an epoch
        return metric
    is_of_test = isinstance(metric, str) and metric.startswith("test_") and metric not in names
    if is_of_test and default_metric(names).startswith("validation_"):
        remedy = "The test examples are not used for choices. Member.test_metrics has their numbers."
        raise InputError("metric", f"one of {', '.join(names)}", repr(metric), remedy)
    return check_choice("metric", metric, names)


Result = TypeVar("Result", bound=HasMembers)


def check_result(result: Result) -> Result:
    """Raises an InputError unless this is the result of a sweep; returns it."""
    members = getattr(result, "members", None)
    is_result = isinstance(members, tuple) and all(isinstance(member, Member) for member in members)
    check("result", result, "the result of sweep", is_result)
    return result
