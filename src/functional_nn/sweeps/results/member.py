"""Members of a sweep's result: one trained model with its hyper-parameters, status and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params, State
from functional_nn.core.validation import check_choice, shown
from functional_nn.sweeps.grid.grid import PlainValue

METRICS = ("test_accuracy", "test_loss", "train_loss")

COLUMNS = ("number", "status", "bad_step", "epochs_run", *METRICS)


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of a sweep.

    Args:
        number: its place in the grid, from 0.
        hyperparameters: its values in the grid, with the seed.
        status: ``"finished"``; ``"non-finite"``, and its last finite state is kept; ``"stopped early"``; ``"halved"``,
            left out by successive halving; or ``"not run"``, because the sweep was interrupted before its end.
        bad_step: for a non-finite member, the first step of the run, from 0, whose result was not finite.
        train_loss, test_loss, test_accuracy: arrays with one number for each epoch.
        params, state: pytrees of NumPy arrays; None if they were not kept.
    """

    number: int
    hyperparameters: Mapping[str, PlainValue]
    status: str
    bad_step: int | None
    train_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    params: Params | None = None
    state: State | None = None

    def __repr__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.hyperparameters.items())
        accuracy = f"test accuracy {self.last('test_accuracy'):.4f}"
        return f"Member({self.number}: {given}; {self.status} after epoch {len(self.test_loss)}, {accuracy})"

    @property
    def has_result(self) -> bool:
        """Whether its last metrics are those of a trained model: it is neither non-finite nor interrupted."""
        return self.status not in ("non-finite", "not run")

    def last(self, metric: str) -> float:
        """A metric after the last epoch; NaN if no epoch was run."""
        curve = getattr(self, check_metric(metric))
        return float(curve[-1]) if len(curve) else math.nan

    def row(self) -> dict[str, PlainValue]:
        """A flat dict: number, hyper-parameters, status, ``bad_step``, number of epochs, and the last metrics."""
        metrics = {metric: self.last(metric) for metric in METRICS}
        about = {"status": self.status, "bad_step": self.bad_step, "epochs_run": len(self.test_loss)}
        return {"number": self.number, **self.hyperparameters, **about, **metrics}


def check_names(names: Iterable[str]) -> None:
    """Raises an InputError if a hyper-parameter has the name of another column of the rows."""
    taken = sorted(set(names) & set(COLUMNS))
    if taken:
        raise InputError("grid", "names that the columns of the result do not have", ", ".join(taken), "Rename them.")


def check_metric(metric: str) -> str:
    """Raises an InputError unless this is the name of a metric; returns the name."""
    return check_choice("metric", metric, METRICS)


class HasMembers(Protocol):
    """The part of a sweep's result that statistics use."""

    @property
    def members(self) -> tuple[Member, ...]: ...

    @property
    def varied(self) -> tuple[str, ...]: ...


Result = TypeVar("Result", bound=HasMembers)


def check_result(result: Result) -> Result:
    """Raises an InputError unless this is the result of a sweep; returns it."""
    members = getattr(result, "members", None)
    if not isinstance(members, tuple) or not all(isinstance(member, Member) for member in members):
        raise InputError("result", "the result of sweep", shown(result))
    return result
