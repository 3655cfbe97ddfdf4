"""The result of a training run: trained parameters, status, and the metrics of each epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from functional_nn.core.layer import Params, State
from functional_nn.core.shapes import Shape
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.state import TrainState


class EpochMetrics(NamedTuple):
    """The metrics of one epoch.

    Args:
        epoch: the number of the epoch, from 1.
        train_loss: the mean loss of the training examples, each computed before its batch's update.
        test_loss, test_accuracy: on the test examples, after the epoch. The accuracy is NaN if labels are not integers.
        seconds: the time of training, without the evaluation.
        skipped_steps: steps that changed nothing: updates that were not finite, gradients that ``with_clipping`` left
            out, and gradients that overflowed with a scaled loss.
        clipped_steps: steps with a gradient that ``with_clipping`` shortened.
        rate_share: the part of the learning rate that the policy ``"roll-back"`` has left.
    """

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float
    skipped_steps: int = 0
    clipped_steps: int = 0
    rate_share: float = 1.0


@dataclass(frozen=True)
class Run:
    """The result of ``fit``.

    Args:
        train_state: the last finite state; ``params`` and ``state`` are its parts.
        history: one ``EpochMetrics`` per epoch.
        status: ``"finished"``, ``"non-finite"`` or ``"interrupted"``.
        message: the status in words, empty for a finished run.
        in_shape: the shape of one example as the network took it.
        precision: the ``precision`` given to ``fit``.
        seconds: ``compile`` (0 if the programs were already compiled) and ``train``.
        restored_epochs: how many of the epochs came from a checkpoint.
    """

    train_state: TrainState
    history: tuple[EpochMetrics, ...]
    status: str
    message: str
    in_shape: Shape
    precision: str | Precision
    seconds: dict[str, float] = field(default_factory=dict)
    restored_epochs: int = 0

    def __repr__(self) -> str:
        epochs = "1 epoch" if len(self.history) == 1 else f"{len(self.history)} epochs"
        if not self.history:
            return f"Run({self.status}, {epochs})"
        last = self.history[-1]
        losses = f"train loss {last.train_loss:.4f}, test loss {last.test_loss:.4f}"
        return f"Run({self.status}, {epochs}, {losses}, test accuracy {last.test_accuracy:.4f})"

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.train_state.params

    @property
    def state(self) -> State:
        """The network's state after training."""
        return self.train_state.state
