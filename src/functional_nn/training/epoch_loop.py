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
from functional_nn.training.evaluate import Evaluation, as_numbers, evaluated_metrics
from functional_nn.training.non_finite import BadStep
from functional_nn.training.processes import Item, Processes
from functional_nn.training.programs import Programs
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

    Args:
        programs: the compiled programs, of one model or of several members.
        data: the examples in memory, on the device. A part that is streamed has those of its first batch.
        reader: reads the parts that are streamed; None if there are none.
        processes: those that train together. Each reads its own share of a batch to train on, and all of a batch that
            is evaluated.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every streamed
            batch.
        h: the traced hyper-parameters of a sweep's members.
    """

    programs: Programs
    data: Split
    reader: StreamReader | None = None
    processes: Processes = field(default_factory=Processes)
    check_interruption: Callable[[], None] = lambda: None
    h: Hyperparameters = field(default_factory=dict)

    @property
    def part(self) -> str:
        """The part that is evaluated after every epoch: ``"validation"``, ``"test"`` or, if there is none, ``""``."""
        return self.data.evaluated_part

    def epoch(self, train_state: TrainState, number: int, is_running: np.ndarray | bool = True) -> EpochOutcome:
        """Trains for one epoch, whose number counts from 0, and evaluates.

        ``is_running`` says which of several members still matter.
        """
        clock = time.perf_counter()
        if self.reader is None:
            after, result, bad_step = self._train_in_memory(train_state, number, is_running)
        else:
            after, result, bad_step = self._train_on_stream(self.reader, train_state, number + 1)
        # The epoch waits for its results, so this is the time of the computation and not only of its start.
        seconds = time.perf_counter() - clock
        evaluation = self._evaluate(self.part, after) if self.part else None
        metrics = as_numbers(named_metrics(self.part, result, evaluation))
        return EpochOutcome(after, result, metrics, seconds, bad_step)

    def test_metrics(self, train_state: TrainState) -> list[dict[str, float]]:
        """The metrics of each model on the test examples."""
        return as_numbers(evaluated_metrics("test", self._evaluate("test", train_state)))

    def _evaluate(self, part: str, train_state: TrainState) -> Evaluation:
        """The loss and the metrics on a part of the data."""
        programs = self.programs
        if self.reader is None or part not in programs.spec.streamed:
            examples = self.data.part(part)
            return programs.program("evaluate", *examples)(self.h, train_state, *examples)
        place = partial(put_batch, like=programs.spec.data.part(part), sharding=programs.sharding)
        with self.reader.evaluated(part, place) as batches:
            return programs.evaluate_batches(train_state, self._interruptible(part, batches))

    def _interruptible(self, part: str, batches: Iterator[Item]) -> Iterator[Item]:
        """The batches of a stream, one after another in all processes, with a check for Ctrl-C before each."""
        for batch in self.processes.in_step(part, batches):
            self.check_interruption()
            yield batch

    def _train_in_memory(
        self, before: TrainState, number: int, is_running: np.ndarray | bool
    ) -> tuple[TrainState, EpochResult, BadStep | None]:
        """Trains with fast steps, which check nothing.

        If a value is not finite after the epoch, it is run again from its start, with steps that change nothing if a
        value would become non-finite. Of several members, only those with such a value take their results from there.

        Returns:
            the train state after the epoch, its result, and the first bad step of a single model; None if there is
            none.
        """
        programs, (x, labels), place = self.programs, self.data.part("train"), np.int32(number)
        after, result = programs.epoch(before, x, labels, place, self.h)
        is_bad = (np.asarray(result.bad_step) >= 0) & is_running
        if not is_bad.any():
            return after, result, None
        run_again = partial(programs.program("careful"), self.h, before, x, labels, place)
        careful, careful_result = jax.block_until_ready(run_again(ALL_STEPS))
        if programs.spec.members is not None:

            def chosen(careful: jax.Array, fast: jax.Array) -> jax.Array:
                return jnp.where(with_axes(jnp.asarray(is_bad), fast), careful, fast)

            return *jax.tree.map(chosen, (careful, careful_result), (after, result)), None
        step = int(careful_result.bad_step)
        # This other program rounds differently, so at the edge of overflow it may find no bad step.
        if step < 0:
            return careful, careful_result, None
        before, _ = run_again(np.int32(step))
        order = programs.compiled["order"](before.key, place)
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
        bad_step: BadStep | None = None
        # A step runs while the next batch is read. It was started with what its ``BadStep`` holds, if it is bad.
        started: tuple[BadStep, TrainState, StepResult] | None = None

        def end(step: BadStep, after: TrainState, result: StepResult) -> TrainState:
            """Waits for a step that was started; returns the train state to go on from."""
            nonlocal bad_step
            result = jax.device_get(result)
            results.append(result)
            # With several processes, none of them has the whole batch.
            if bad_step is None and not np.isfinite(result.loss) and not self.processes.are_several:
                bad_step = step
            return after if result.is_finite else step.before

        with reader.epoch(epoch, place) as batches:
            for x, labels in self._interruptible("batches", batches):
                if started is not None:
                    train_state = end(*started)
                made = programs.compiled["stream"](self.h, train_state, x, labels)
                started = BadStep(train_state, x, labels, None), *made
        assert started is not None  # an epoch without batches is an error
        train_state = end(*started)
        return jax.block_until_ready(train_state), _summed_up(results), bad_step


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
