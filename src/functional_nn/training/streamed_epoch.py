"""An epoch of training on a stream: one program for each batch, while the next batches are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.data.stream import StreamReader
from functional_nn.training.batch_on_device import put_batch
from functional_nn.training.epoch import EpochResult
from functional_nn.training.processes import Processes
from functional_nn.training.programs.run_programs import Programs
from functional_nn.training.resilience.non_finite import ROLL_BACK, SMALLEST_SHARE, BadStep
from functional_nn.training.state import TrainState
from functional_nn.training.step import StepResult


def streamed_epoch(
    policy: str,
    programs: Programs,
    reader: StreamReader,
    processes: Processes,
    check_interruption: Callable[[], None],
    before: TrainState,
    number: jax.Array,
) -> tuple[TrainState, EpochResult, BadStep | None]:
    """Trains on all batches of an epoch. Steps that are not finite change nothing; the first of them is returned too.

    The policy ``roll-back`` reads the epoch again, with half of the learning rate, until all steps are finite or the
    rate is too small.

    Args:
        policy: for values that are not finite, as ``fit`` takes it.
        programs: the compiled programs of a stream.
        reader: reads the batches.
        processes: those that train together. Each reads its own share of every batch.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every step.
        before: the train state before the epoch.
        number: the number of the epoch, from 0.
    """
    while True:
        after, result, bad_step = _all_batches(programs, reader, processes, check_interruption, before, int(number) + 1)
        if policy != ROLL_BACK or not int(result.bad_steps) or before.optimizer_state.share <= SMALLEST_SHARE:
            return after, result, bad_step
        halved = before.optimizer_state._replace(share=before.optimizer_state.share / 2)
        before = before._replace(optimizer_state=halved)


class _Step(NamedTuple):
    """A step that was started: its train states, its batch, and its result on the device."""

    before: TrainState
    x: Value
    labels: PyTree
    after: TrainState
    result: StepResult

    def ended(self) -> tuple[TrainState, _Numbers]:
        """Waits for the step. Returns the train state to go on from, and the numbers to report."""
        loss, is_finite, reports = jax.device_get(self.result)
        return self.after if is_finite else self.before, _Numbers(loss, reports)


class _Numbers(NamedTuple):
    """The loss of a step and what it reports in addition, in memory. The loss of a bad step is not finite."""

    loss: np.ndarray
    reports: Mapping[str, np.ndarray]


def _all_batches(
    programs: Programs,
    reader: StreamReader,
    processes: Processes,
    check_interruption: Callable[[], None],
    train_state: TrainState,
    epoch: int,
) -> tuple[TrainState, EpochResult, BadStep | None]:
    compiled = programs.compiled
    place = partial(put_batch, like=compiled.spec.data.part("train"), sharding=compiled.batch_sharding)
    numbers: list[_Numbers] = []
    step, bad_step = None, None

    def start(train_state: TrainState, x: Value, labels: PyTree) -> _Step:
        return _Step(train_state, x, labels, *programs.streamed_step(train_state, x, labels))

    def end(step: _Step) -> TrainState:
        nonlocal bad_step
        train_state, of_step = step.ended()
        numbers.append(of_step)
        # With several processes, none of them has the whole batch.
        if bad_step is None and not np.isfinite(of_step.loss) and not processes.are_several:
            bad_step = BadStep(step.before, step.x, step.labels, None)
        return train_state

    with reader.epoch(epoch, place) as batches:
        for x, labels in processes.in_step("batches", batches):
            check_interruption()
            if step is not None:
                train_state = end(step)
            step = start(train_state, x, labels)
    assert step is not None  # an epoch without batches is an error
    train_state = end(step)
    return jax.block_until_ready(train_state), _summed_up(numbers), bad_step


def _summed_up(numbers: list[_Numbers]) -> EpochResult:
    """The result of an epoch, computed from the results of its steps. All batches have one size."""
    losses = np.array([step.loss for step in numbers])
    is_finite = np.isfinite(losses)

    def mean(values: np.ndarray) -> jax.Array:
        # The mean of no numbers is NaN, as for data in memory.
        return jnp.asarray(np.mean(values[is_finite]) if is_finite.any() else np.float32(np.nan))

    means = {name: mean(np.array([step.reports[name] for step in numbers])) for name in numbers[0].reports}
    first_bad = -1 if is_finite.all() else np.argmin(is_finite)
    return EpochResult(mean(losses), jnp.int32(first_bad), jnp.int32(np.sum(~is_finite)), means)
