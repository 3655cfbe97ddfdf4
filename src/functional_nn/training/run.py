"""What a run came to, as a whole and epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from functional_nn.core.layer import Params, State
from functional_nn.core.shapes import Shape
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.state import TrainState


class EpochMetrics(NamedTuple):
    """What an epoch came to.

    Args:
        epoch: its number, from 1.
        train_loss: the mean over its examples, each before its batch's update.
        test_loss, test_accuracy: after it. The accuracy is NaN where labels are not integers.
        seconds: of its training.
        skipped_steps: those that changed nothing: not finite under the policy ``"skip"``, or in the last epoch of a run
            that ended for it; a gradient that ``with_clipping`` left out, or that overflowed a scaled loss.
        clipped_steps: those whose gradient ``with_clipping`` cut.
        rate_share: the share of the learning rate that the policy ``"roll-back"`` has left.
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
    """A training run: what it ended with, how it went, and whether it went to its end.

    Args:
        train_state: the last finite state; ``params`` and ``state`` are its parts.
        history: one ``EpochMetrics`` an epoch.
        status: ``"finished"``, ``"non-finite"`` or ``"interrupted"``.
        message: the status in words, empty for a finished run.
        in_shape: the shape of one example as the network was given it.
        precision: what it was trained in, as ``fit`` got it.
        seconds: ``compile`` (0 where the programs were already compiled) and ``train``.
        restored_epochs: how many of the epochs a checkpoint brought.
    """

    train_state: TrainState
    history: tuple[EpochMetrics, ...]
    status: str
    message: str
    in_shape: Shape
    precision: str | Precision
    seconds: dict[str, float] = field(default_factory=dict)
    restored_epochs: int = 0

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.train_state.params

    @property
    def state(self) -> State:
        """The network's state after training."""
        return self.train_state.state
