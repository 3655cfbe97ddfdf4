"""What the state of an optimizer says after an epoch: counts of steps, and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from functional_nn.training.optimizers.clipping import Clipping
from functional_nn.training.optimizers.wrapping import RateShare
from functional_nn.training.state import TrainState


class Counts(NamedTuple):
    """The numbers of steps of a run so far that were skipped and that were clipped."""

    skipped_steps: int
    clipped_steps: int


def counts(train_state: TrainState) -> Counts:
    """The counts in a train state, from ``with_clipping`` and from the loss scale; zeros if it has neither."""
    nodes = jax.tree.leaves(train_state.optimizer_state, is_leaf=lambda node: isinstance(node, Clipping))
    clippings = [node for node in nodes if isinstance(node, Clipping)]
    skipped_steps = sum(int(clipping.skipped_steps) for clipping in clippings)
    clipped_steps = sum(int(clipping.clipped_steps) for clipping in clippings)
    if train_state.loss_scale is not None:
        skipped_steps += int(train_state.loss_scale.skipped_steps)
    return Counts(skipped_steps, clipped_steps)


def rate_share(train_state: TrainState) -> float:
    """The part of the learning rate that roll-backs have left."""
    state = train_state.optimizer_state
    return float(state.share) if isinstance(state, RateShare) else 1.0


def learning_rate(train_state: TrainState) -> float | None:
    """The learning rate of the last step, if ``optax.inject_hyperparams`` keeps it in the optimizer's state.

    It is None for other optimizers, which do not say what their rate was, and for a rate that is not one number.
    """

    def keeps_rate(node: object) -> bool:
        hyperparameters = getattr(node, "hyperparams", None)
        return isinstance(hyperparameters, Mapping) and "learning_rate" in hyperparameters

    nodes = jax.tree.leaves(train_state.optimizer_state, is_leaf=keeps_rate)
    rates = [np.asarray(node.hyperparams["learning_rate"]) for node in nodes if keeps_rate(node)]
    # The shortest number that is this one in the type of the rate: 0.003 and not 0.003000000026077032.
    numbers = [float(str(rate)) for rate in rates if rate.ndim == 0]
    return numbers[0] * rate_share(train_state) if numbers else None
