"""Train steps that remember the train state before the first bad step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.core.trees import PyTree
from functional_nn.training.state import TrainState
from functional_nn.training.step import TrainStep, where


class Remembered(NamedTuple):
    """A train state, and the one before the first step whose loss was not finite.

    Args:
        train_state: the current train state.
        before_bad_step: the train state before the first bad step, or before the last step if there is none yet;
            None if it is not needed.
        is_found: whether there was a bad step.
    """

    train_state: TrainState
    before_bad_step: TrainState | None
    is_found: jax.Array


def remembering(train_step: TrainStep) -> Callable[[Remembered, PyTree, PyTree], tuple[Remembered, PyTree]]:
    """The same train step for ``Remembered`` train states."""

    def step(before: Remembered, x: PyTree, labels: PyTree) -> tuple[Remembered, PyTree]:
        train_state, kept = before.train_state, before.before_bad_step
        after, loss = train_step(train_state, x, labels)
        if kept is None:
            return Remembered(after, None, before.is_found), loss
        # Keys cannot be selected by a condition. The key is the same in both states.
        now = train_state._replace(key=None)
        kept = where(before.is_found, kept._replace(key=None), now)._replace(key=train_state.key)
        is_bad = ~jnp.isfinite(loss[0] if isinstance(loss, tuple) else loss)
        return Remembered(after, kept, before.is_found | is_bad), loss

    return step
