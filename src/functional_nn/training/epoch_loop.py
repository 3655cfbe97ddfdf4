"""The loop over the epochs of a run, with examples in memory or in streams."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from functional_nn.core.masked import Value
from functional_nn.core.texts import counted, words
from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Split
from functional_nn.data.stream import Batch, StreamReader
from functional_nn.jaxprs.non_finite import NonFinite
from functional_nn.training.argument_checks import says_stop
from functional_nn.training.checkpointing import RunProgress, RunSaver
from functional_nn.training.devices import put_on_one
from functional_nn.training.epoch import EpochResult
from functional_nn.training.evaluate import (
    Evaluation,
    as_numbers,
    evaluated_metrics,
    named_metrics,
    number_of_labels,
)
from functional_nn.training.non_finite import (
    ADVICE,
    SKIP,
    BadStep,
    finite_epoch,
    non_finite_message,
    origin_in_step,
)
from functional_nn.training.processes import Interruption, Processes
from functional_nn.training.programs import NO_HYPERPARAMETERS, Programs
from functional_nn.training.run import EpochMetrics, Run
from functional_nn.training.state import TrainState, counts, learning_rate
from functional_nn.training.step import StepResult

OnEpoch: TypeAlias = Callable[[EpochMetrics, TrainState], "bool | None"]
"""What ``fit`` calls after each epoch. If it returns True, the run stops."""


@dataclass
class EpochLoop:
    """The loop of a run.

    Args:
        data: the examples of the run, with its programs.
        epochs: the number of epochs that the run has at its end.
        first_epoch: the number of the run's first epoch. It decides about the order of the examples.
        non_finite: the policy for values that are not finite.
        patience: the number of epochs without a lower loss after which the run stops; None for no limit.
        on_epoch: called after each epoch, in the first process.
        reached: what the run has reached so far; changes with each epoch.
        at_bad_step: if a number that is not finite ended the run, the arguments of the step that made it, by name.
        origin: where this number comes from, if the search found it.
    """

    data: RunData
    epochs: int
    first_epoch: int
    non_finite: str
    patience: int | None
    on_epoch: OnEpoch | None
    reached: RunProgress
    at_bad_step: Mapping[str, PyTree] | None = None
    origin: NonFinite | None = None

    def run(self, saver: RunSaver, interruption: Interruption, advance: Callable[[str], None]) -> tuple[str, str]:
        """Runs the epochs that are left, and saves them; returns the status of the run and its message.

        Args:
            saver: saves each epoch.
            interruption: notices Ctrl-C.
            advance: moves the progress bar, with a text.
        """
        is_stopped = False
        try:
            # Epochs from a checkpoint are reported first.
            answers = [self._report(metrics, advance) for metrics in self.reached.history]
            is_stopped = any(answers)
            while not is_stopped and not self._end()[0]:
                self._run_epoch()
                saver.save(self.reached)
                is_stopped = self._report(self.reached.history[-1], advance)
                interruption.check()
            saver.save(self.reached, now=True)
        except KeyboardInterrupt as interrupt:
            saver.save(self.reached, now=True)
            # If the run has ended anyway, there is nothing left to interrupt.
            if not is_stopped and not self._end()[0]:
                by = f" by {signal.SIGTERM.name}" if interrupt.args == (signal.SIGTERM.name,) else ""
                return "interrupted", f"Interrupted{by} after {self.done()}; the finished epochs are kept."
        if is_stopped and not self.reached.status:
            return "stopped", f"on_epoch stopped the run after {self.done()}."
        return self._end()

    def with_test_metrics(self, run: Run) -> Run:
        """The run with the metrics on its test examples, for a run that was evaluated on validation examples.

        Ctrl-C ends this evaluation, and the run is then interrupted.
        """
        try:
            with self.data.processes.noticing_loss():
                evaluation, labels = self.data.evaluate("test", self.reached.train_state)
                return replace(run, test_metrics=as_numbers(evaluated_metrics("test", evaluation), labels))
        except BaseException as error:
            # Several processes return the same, and the others may have evaluated everything.
            if isinstance(error, KeyboardInterrupt) and not self.data.processes.are_several:
                message = f"Interrupted in the evaluation of the test examples, after {self.done()}, which are kept."
                return replace(run, status="interrupted", message=message)
            error.run = run  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def done(self) -> str:
        """The number of epochs that are done, in words."""
        return f"{len(self.reached.history)} of {self.epochs} epochs"

    def _end(self) -> tuple[str, str]:
        """The status and the message of a run that has ended; two empty strings if it goes on."""
        history, part = self.reached.history, self.data.part
        if self.reached.status:
            return self.reached.status, self.reached.message + self._advice()
        if len(history) >= self.epochs:
            return "finished", ""
        losses = [metrics.deciding_loss for metrics in history]
        if self.patience is not None and epochs_since_best(losses) >= self.patience:
            return "stopped early", f"The {part} loss was not lower for {counted(self.patience, 'epoch')}."
        return "", ""

    def _run_epoch(self) -> None:
        """Trains for one epoch and evaluates; adds the results to what was reached."""
        before, part = self.reached, self.data.part
        clock = time.perf_counter()
        number = jnp.int32(self.first_epoch + len(before.history))
        after, result, bad_step = self.data.train(before.train_state, number)
        # The epoch waits for its results, so this is the time of the computation and not only of its start.
        seconds = time.perf_counter() - clock
        evaluation, labels = self.data.evaluate(part, after) if part else (None, 0)
        # The counters in the train state run on from epoch to epoch; this epoch has their differences.
        old, new = counts(before.train_state), counts(after)
        metrics = EpochMetrics(
            epoch=len(before.history) + 1,
            metrics=as_numbers(named_metrics(part, result, evaluation), labels),
            seconds=seconds,
            skipped_steps=int(result.bad_steps) + new.skipped_steps - old.skipped_steps,
            clipped_steps=new.clipped_steps - old.clipped_steps,
            learning_rate=learning_rate(after),
        )
        status, message = "", ""
        if int(result.bad_step) >= 0 and not self._goes_on_after_bad_steps(metrics):
            spec = self.data.programs.spec
            if bad_step is not None:
                recipe = spec.recipe_for(NO_HYPERPARAMETERS)
                self.at_bad_step = bad_step.arguments(recipe, spec.precision)
                self.origin = origin_in_step(recipe, spec.precision, bad_step)
            status, message = (
                "non-finite",
                non_finite_message(int(result.bad_step), metrics.epoch, self.origin, spec.precision),
            )
        self.reached = RunProgress(after, (*before.history, metrics), status, message)

    def _goes_on_after_bad_steps(self, metrics: EpochMetrics) -> bool:
        return self.non_finite == SKIP and math.isfinite(metrics.train_loss)

    def _advice(self) -> str:
        # It is not saved with the message, as a resumed run has no ``at_bad_step``.
        return "" if self.at_bad_step is None or self.origin is not None else ADVICE

    def _report(self, metrics: EpochMetrics, advance: Callable[[str], None]) -> bool:
        """Reports an epoch to ``on_epoch`` and to the progress bar; returns whether the run is to stop."""

        def ask() -> bool:
            if self.on_epoch is None:
                return False
            # On one device, so that the function can compute with it alone.
            train_state = put_on_one(self.reached.train_state, self.data.programs.sharding)
            return says_stop("on_epoch", self.on_epoch(metrics, train_state))

        # With several processes the first one alone is asked, and its answer counts for all.
        processes = self.data.processes
        is_stopped = processes.any(bool(processes.first(ask)))
        shown_first = [name for name in metrics.metrics if not name.startswith("train_")][:2]
        texts = [f"{words(name)} {metrics.metrics[name]:.4f}" for name in ("train_loss", *shown_first)]
        advance("  ".join(texts))
        return is_stopped


def epochs_since_best(losses: Sequence[float]) -> int:
    """The number of epochs since the lowest loss; 0 if there is no epoch yet. NaN is never the lowest.

    >>> epochs_since_best([0.5, 0.3, 0.4, 0.3])
    2
    """
    if not len(losses):
        return 0
    return len(losses) - 1 - int(np.argmin(np.nan_to_num(losses, nan=np.inf)))


@dataclass(frozen=True)
class RunData:
    """The examples of a run, in memory or in streams, with the programs that train on them and evaluate them.

    Args:
        programs: the compiled programs of the run.
        data: the examples in memory, on the device. A part that is streamed has those of its first batch.
        reader: reads the parts that are streamed; None if there are none.
        processes: those that train together. Each reads its own share of a batch to train on, and all of a batch that
            is evaluated.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every batch.
    """

    programs: Programs
    data: Split
    reader: StreamReader | None
    processes: Processes
    check_interruption: Callable[[], None]

    @property
    def part(self) -> str:
        """The part that is evaluated after every epoch: ``"validation"``, ``"test"`` or, if there is none, ``""``."""
        return self.data.evaluated_part

    def train(self, train_state: TrainState, number: jax.Array) -> tuple[TrainState, EpochResult, BadStep | None]:
        """Trains for one epoch, whose number counts from 0. The last result is the first step that was not finite."""
        if self.reader is None:
            return finite_epoch(self.programs, self.data.train_x, self.data.train_labels, train_state, number)
        return self._train_on_stream(self.reader, train_state, int(number) + 1)

    def evaluate(self, part: str, train_state: TrainState) -> tuple[Evaluation, int]:
        """The loss and the metrics on a part of the data, and the number of its labels."""
        if self.reader is None or part not in self.programs.spec.streamed:
            x, labels = self.data.part(part)
            return self.programs.evaluate(train_state, x, labels), number_of_labels(labels)
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
