"""The result of a training run: trained parameters, status, and the metrics of each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple, TypeAlias

from functional_nn.core.display import html_table
from functional_nn.core.layer import Params, State
from functional_nn.core.shapes import Shapes
from functional_nn.core.texts import counted, words
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.non_finite import NonFinite
from functional_nn.training.evaluate import check_metric, larger_is_better
from functional_nn.training.precision import Precision
from functional_nn.training.state import TrainState

MOST_EPOCHS = 50
"""Of a longer history, a notebook shows epochs at equal distances, the first and the last."""


class EpochMetrics(NamedTuple):
    """The metrics of one epoch.

    Args:
        epoch: the number of the epoch, from 1.
        metrics: numbers by name. ``train_loss`` is the mean loss of the training examples, each computed before its
            batch's update. The others are computed after the epoch, on the validation examples if there are any, or
            else on the test examples: ``validation_loss`` or ``test_loss``, and other metrics with the same prefix,
            such as ``test_accuracy``. What the loss reports in addition is there with both prefixes.
        seconds: the time of training, without the evaluation.
        skipped_steps: steps that changed nothing: updates that were not finite, gradients that ``with_clipping`` left
            out, and gradients that overflowed with a scaled loss.
        clipped_steps: steps with a gradient that ``with_clipping`` shortened.
        learning_rate: of the last step, if ``optax.inject_hyperparams`` keeps it in the optimizer's state, as in
            ``optax.inject_hyperparams(optax.adam)(learning_rate=schedule)``; else None.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    skipped_steps: int = 0
    clipped_steps: int = 0
    learning_rate: float | None = None

    @property
    def train_loss(self) -> float:
        """The mean loss of the training examples; NaN if it is not there, as for the other metrics."""
        return self.metrics.get("train_loss", math.nan)

    @property
    def test_loss(self) -> float:
        """The loss on the test examples; NaN if there are none, or if validation examples take their place."""
        return self.metrics.get("test_loss", math.nan)

    @property
    def test_accuracy(self) -> float:
        """The accuracy on the test examples; NaN if there are none, or if validation examples take their place."""
        return self.metrics.get("test_accuracy", math.nan)

    @property
    def deciding_loss(self) -> float:
        """The loss by which epochs are compared: on validation examples, else on test examples, else in training."""
        losses = (self.metrics.get(f"{part}_loss") for part in ("validation", "test", "train"))
        return next(loss for loss in losses if loss is not None)

    def to_minimize(self, metric: str | None = None) -> float:
        """The number that is smallest in the best epoch: a metric, or its negative if larger numbers are better.

        Args:
            metric: its name. None: ``deciding_loss``.

        Raises:
            InputError: if there is no metric of this name. The error lists the names.

        >>> import functional_nn as fnn
        >>> metrics = fnn.training.EpochMetrics(1, {"train_loss": 0.4, "test_accuracy": 0.9}, seconds=0.1)
        >>> metrics.to_minimize("test_accuracy")
        -0.9
        """
        if metric is None:
            return self.deciding_loss
        check_metric("metric", metric, self.metrics)
        return -self.metrics[metric] if larger_is_better(metric) else self.metrics[metric]

    def row(self) -> dict[str, float | None]:
        """All numbers by name in one flat dict, as ``metrics.jsonl`` has them."""
        after = {name: value for name, value in self._asdict().items() if name not in ("epoch", "metrics")}
        return {"epoch": self.epoch, **self.metrics, **after}


OnEpoch: TypeAlias = Callable[[EpochMetrics, TrainState], "bool | None"]
"""What ``fit`` calls after each epoch. If it returns True, the run stops."""


@dataclass(frozen=True, eq=False)  # equality of dataclasses cannot compare arrays
class Run:
    """The result of ``fit``.

    Args:
        train_state: the last finite state; ``params`` and ``state`` are its parts.
        history: one ``EpochMetrics`` per epoch.
        status: ``"finished"``, ``"stopped early"`` (by ``patience``), ``"stopped"`` (by ``on_epoch``),
            ``"non-finite"`` or ``"interrupted"``.
        message: the status in words, empty for a finished run.
        in_shape: the shape of one example as the network took it; a pytree of shapes if it took several arrays.
        precision: the ``precision`` given to ``fit``.
        seconds: ``compile`` (0 if the programs were already compiled) and ``train``.
        restored_epochs: how many of the epochs came from a checkpoint.
        test_metrics: the metrics on the test examples at the end of the run, such as ``test_loss`` and
            ``test_accuracy``; empty if there are no test examples, and for an interrupted run with validation examples.
        at_bad_step: for a run with status ``"non-finite"``, the arguments of the step that ended it: ``params``,
            ``state``, ``x``, ``labels`` and ``key``, and the run's ``penalty``, ``gradient`` and ``precision``. So
            ``find_non_finite(net, loss, **run.at_bad_step)`` computes what the run computed.
        origin: what ``find_non_finite`` found for this step; None if the search would have taken long, or found
            nothing. ``print`` shows it.
    """

    train_state: TrainState
    history: tuple[EpochMetrics, ...]
    status: str
    message: str
    in_shape: Shapes
    precision: str | Precision
    seconds: dict[str, float] = field(default_factory=dict)
    restored_epochs: int = 0
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    at_bad_step: Mapping[str, PyTree] | None = None
    origin: NonFinite | None = None

    def __repr__(self) -> str:
        epochs = counted(len(self.history), "epoch")
        metrics = {**(self.history[-1].metrics if self.history else {}), **self.test_metrics}
        texts = [f"{words(name)} {value:.4f}" for name, value in metrics.items()]
        return f"Run({', '.join((self.status, epochs, *texts))})"

    def _repr_html_(self) -> str:
        message = f"<p>{escape(self.message)}</p>" if self.message else ""
        last, names = len(self.history), list(self.history[-1].metrics) if self.history else []
        rows = [
            (str(row.epoch), *(f"{row.metrics.get(name, math.nan):.4f}" for name in names), f"{row.seconds:.3g} s")
            for number, row in enumerate(self.history, 1)
            if number % math.ceil(last / MOST_EPOCHS) == 0 or number in (1, last)
        ]
        table = html_table(counted(last, "epoch"), ("epoch", *map(words, names), "time"), rows)
        return f"<p>{escape(repr(self))}</p>{message}{table}"

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.train_state.params

    @property
    def state(self) -> State:
        """The network's state after training."""
        return self.train_state.state
