"""An epoch on the host: training and evaluation of one model, or of members of a sweep that share their programs.

The examples are in memory or in streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Split
from functional_nn.data.stream import Batch, StreamReader
from functional_nn.jaxprs.evaluate import with_axes
from functional_nn.training.devices import put_on_one
from functional_nn.training.epoch import EpochResult, named_metrics
from functional_nn.training.evaluate import Evaluation, as_numbers, evaluated_metrics, number_of_labels
from functional_nn.training.non_finite import BadStep
from functional_nn.training.processes import Processes
from functional_nn.training.programs import NO_HYPERPARAMETERS, Programs
from functional_nn.training.recipe import Hyperparameters
from functional_nn.training.state import TrainState
from functional_nn.training.step import StepResult

ALL_STEPS = np.int32(2**31 - 1)
"""More steps than an epoch has."""


class EpochOutcome(NamedTuple):
    """The outcome of an epoch.

    Args:
        train_state: after the epoch.
        result: of the train steps. For several members, each array has a number for each.
        metrics: those of each model by name.
        seconds: the time of training, without the evaluation.
        bad_step: the first step of a single model that was not finite; None if there is none.
    """

    train_state: TrainState
    result: EpochResult
    metrics: list[dict[str, float]]
    seconds: float
    bad_step: BadStep | None


@dataclass(frozen=True)
class RunData:
    """Examples in memory or in streams, with the programs that train on them and evaluate them.

    In the methods, ``h`` are the traced hyper-parameters of a sweep's members.

    Args:
        programs: the compiled programs, of one model or of several members.
        data: the examples in memory, on the device. A part that is streamed has those of its first batch.
        reader: reads the parts that are streamed; None if there are none.
        processes: those that train together. Each reads its own share of a batch to train on, and all of a batch that
            is evaluated.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every streamed
            batch.
    """

    programs: Programs
    data: Split
    reader: StreamReader | None = None
    processes: Processes = field(default_factory=Processes)
    check_interruption: Callable[[], None] = lambda: None

    @property
    def part(self) -> str:
        """The part that is evaluated after every epoch: ``"validation"``, ``"test"`` or, if there is none, ``""``."""
        return self.data.evaluated_part

    def epoch(
        self,
        train_state: TrainState,
        number: int,
        h: Hyperparameters = NO_HYPERPARAMETERS,
        is_running: np.ndarray | bool = True,
    ) -> EpochOutcome:
        """Trains for one epoch, whose number counts from 0, and evaluates.

        ``is_running`` says which of several members still matter.
        """
        clock = time.perf_counter()
        if self.reader is None:
            after, result, bad_step = self._train_in_memory(train_state, number, h, is_running)
        else:
            after, result, bad_step = self._train_on_stream(self.reader, train_state, number + 1)
        # The epoch waits for its results, so this is the time of the computation and not only of its start.
        seconds = time.perf_counter() - clock
        evaluation, labels = self._evaluate(self.part, after, h) if self.part else (None, 0)
        metrics = as_numbers(named_metrics(self.part, result, evaluation), labels)
        return EpochOutcome(after, result, metrics, seconds, bad_step)

    def test_metrics(self, train_state: TrainState, h: Hyperparameters = NO_HYPERPARAMETERS) -> list[dict[str, float]]:
        """The metrics of each model on the test examples."""
        evaluation, labels = self._evaluate("test", train_state, h)
        return as_numbers(evaluated_metrics("test", evaluation), labels)

    def _evaluate(self, part: str, train_state: TrainState, h: Hyperparameters) -> tuple[Evaluation, int]:
        """The loss and the metrics on a part of the data, and the number of its labels."""
        if self.reader is None or part not in self.programs.spec.streamed:
            x, labels = self.data.part(part)
            return self.programs.evaluate(train_state, x, labels, h), number_of_labels(labels)
        place = partial(put_batch, like=self.programs.spec.data.part(part), sharding=self.programs.sharding)
        count = 0

        def counted_batches(batches: Iterator[tuple[Value, PyTree]]) -> Iterator[tuple[Value, PyTree]]:
            nonlocal count
            for x, labels in self.processes.in_step(part, batches):
                self.check_interruption()
                count += number_of_labels(labels)
                yield x, labels

        with self.reader.evaluated(part, place) as batches:
            return self.programs.evaluate_batches(train_state, counted_batches(batches)), count

    def _train_in_memory(
        self, before: TrainState, number: int, h: Hyperparameters, is_running: np.ndarray | bool
    ) -> tuple[TrainState, EpochResult, BadStep | None]:
        """Trains with fast steps, which check nothing.

        If a value is not finite after the epoch, it is run again from its start, with steps that change nothing if a
        value would become non-finite. Of several members, only those with such a value take their results from there.

        Returns:
            the train state after the epoch, its result, and the first bad step of a single model; None if there is
            none.
        """
        programs, (x, labels), place = self.programs, self.data.part("train"), np.int32(number)
        after, result = programs.epoch(before, x, labels, place, h)
        is_bad = (np.asarray(result.bad_step) >= 0) & is_running
        if not is_bad.any():
            return after, result, None
        careful, careful_result = jax.block_until_ready(programs.careful_epoch(before, x, labels, place, ALL_STEPS, h))
        if programs.spec.members is not None:

            def chosen(careful: jax.Array, fast: jax.Array) -> jax.Array:
                return jnp.where(with_axes(jnp.asarray(is_bad), fast), careful, fast)

            return *jax.tree.map(chosen, (careful, careful_result), (after, result)), None
        step = int(careful_result.bad_step)
        # This other program rounds differently, so at the edge of overflow it may find no bad step.
        if step < 0:
            return careful, careful_result, None
        before, _ = programs.careful_epoch(before, x, labels, place, np.int32(step), h)
        order = programs.order(before.key, place)
        (full, rest), before, data = put_on_one((order, before, (x, labels)), programs.sharding)
        rows = full[step] if step < len(full) else rest
        x, labels = jax.tree.map(itemgetter(rows), data)
        return careful, careful_result, BadStep(before, x, labels, rows)

    def _train_on_stream(
        self, reader: StreamReader, train_state: TrainState, epoch: int
    ) -> tuple[TrainState, EpochResult, BadStep | None]:
        """Trains on all batches of an epoch. Steps that are not finite change nothing."""
        programs = self.programs
        place = partial(put_batch, like=programs.spec.data.part("train"), sharding=programs.batch_sharding)
        results: list[StepResult] = []
        step, bad_step = None, None

        def end(step: _Step) -> TrainState:
            nonlocal bad_step
            train_state, result = step.ended()
            results.append(result)
            # With several processes, none of them has the whole batch.
            if bad_step is None and not np.isfinite(result.loss) and not self.processes.are_several:
                bad_step = BadStep(step.before, step.x, step.labels, None)
            return train_state

        with reader.epoch(epoch, place) as batches:
            for x, labels in self.processes.in_step("batches", batches):
                self.check_interruption()
                if step is not None:
                    train_state = end(step)
                step = _Step(train_state, x, labels, *programs.step(train_state, x, labels))
        assert step is not None  # an epoch without batches is an error
        train_state = end(step)
        return jax.block_until_ready(train_state), _summed_up(results), bad_step


class _Step(NamedTuple):
    """A step that was started: its train states, its batch, and its result on the device."""

    before: TrainState
    x: Value
    labels: PyTree
    after: TrainState
    result: StepResult

    def ended(self) -> tuple[TrainState, StepResult]:
        """Waits for the step. Returns the train state to go on from, and the result in the memory of the host."""
        result = jax.device_get(self.result)
        return self.after if result.is_finite else self.before, result


def status_after(done: int, epochs: int, losses: Iterable[float], patience: int | None) -> str:
    """The status of a model that has ended after some epochs; empty if it goes on.

    Args:
        done: the number of these epochs.
        epochs: the number of epochs of the whole run.
        losses: the loss after each epoch by which epochs are compared. NaN is never the lowest. They are read only with
            a ``patience``.
        patience: the number of epochs without a lower loss after which the model is stopped; None for no limit.

    >>> status_after(4, 9, [0.5, 0.3, 0.4, 0.3], patience=2), status_after(3, 9, [0.5, 0.3, 0.4], patience=2)
    ('stopped early', '')
    """
    if done >= epochs:
        return "finished"
    if patience is None or not done:
        return ""
    best = int(np.argmin(np.nan_to_num([*losses], nan=np.inf)))
    return "stopped early" if done - 1 - best >= patience else ""


def put_batch(batch: Batch, like: tuple[Value, PyTree], sharding: NamedSharding | None) -> tuple[Value, PyTree]:
    """The examples and labels of a batch on the device, in the shapes that the programs take.

    Args:
        batch: the arrays in memory.
        like: examples and labels of these shapes, in any number. Images may have to be flattened.
        sharding: where the arrays go; None for one device. If it divides a batch among several processes, the arrays
            are the share of this one.
    """

    def copied(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
        # On a CPU, JAX may use NumPy's memory itself, and the user's iterable may write the next batch there.
        return array.reshape(len(array), *like.shape[1:]).copy()

    arrays = jax.tree.map(copied, tuple(batch), like)
    if sharding is None or sharding.is_fully_addressable:
        return jax.block_until_ready(jax.device_put(arrays, sharding))
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), arrays)


def _summed_up(steps: list[StepResult]) -> EpochResult:
    """The result of an epoch, computed from the results of its steps. All batches have one size."""
    losses = np.array([step.loss for step in steps])
    is_finite = np.isfinite(losses)

    def mean(values: np.ndarray) -> jax.Array:
        # The mean of no numbers is NaN, as for data in memory.
        return jnp.asarray(np.mean(values[is_finite]) if is_finite.any() else np.float32(np.nan))

    means = {name: mean(np.array([step.reports[name] for step in steps])) for name in steps[0].reports}
    first_bad = -1 if is_finite.all() else np.argmin(is_finite)
    return EpochResult(mean(losses), jnp.int32(first_bad), jnp.int32(np.sum(~is_finite)), means)
