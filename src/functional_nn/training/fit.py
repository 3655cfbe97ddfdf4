"""``fit``: training of one network, epoch by epoch, with evaluation, checkpoints and progress."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import jax
import optax

from functional_nn import names
from functional_nn.core.display import in_notebook, is_progress_shown, progress_bar
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.shapes import shape_of
from functional_nn.core.texts import counted, words
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_choice, check_count, check_flag, check_function
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.preparation import number_of_examples
from functional_nn.data.stream import Stream, StreamReader
from functional_nn.jaxprs.non_finite import NonFinite
from functional_nn.storage.arrays import checksum_of
from functional_nn.storage.identity import PROGRAMS
from functional_nn.training import argument_checks as checks
from functional_nn.training.checkpointing import Checkpoints, RunProgress, RunSaver, run_saver
from functional_nn.training.data_for_network import data_for_network, warn_of_probabilities
from functional_nn.training.devices import chosen_devices, put_everywhere, put_on_one
from functional_nn.training.epoch_loop import RunData, status_after
from functional_nn.training.evaluate import default_metric
from functional_nn.training.non_finite import ADVICE, SKIP, non_finite_message, origin_in_step, rate_of_step
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.processes import Interruption, Processes
from functional_nn.training.programs import (
    NO_HYPERPARAMETERS,
    Programs,
    ProgramSpec,
    shapes_of,
    surroundings,
    with_batches_of,
)
from functional_nn.training.recipe import Gradient, LossFunction, MetricFunction, PenaltyFunction, Recipe, with_gradient
from functional_nn.training.run import EpochMetrics, OnEpoch, Run
from functional_nn.training.state import (
    SETTING_OF_BITS,
    Start,
    TrainState,
    check_start,
    counts,
    epochs_before,
    learning_rate,
    train_state_from,
)


def fit(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    data: Dataset | Split | Stream,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    start: Start | None = None,
    penalty: PenaltyFunction | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    gradient: Gradient = "auto",
    precision: str | Precision = "float32",
    devices: int | None = None,
    non_finite: str = "stop",
    patience: int | None = None,
    checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool | None = None,
) -> Run:
    """Trains a network and evaluates it after every epoch.

    All full batches of an epoch are one compiled program. The data are moved to the device once, before the first
    epoch. A CPU may read them from the given arrays and memory maps, without a copy. So do not change the arrays while
    ``fit`` runs. The same seed gives the same bits on the same machine.

    Arrays of bytes (uint8) are images, in a ``Dataset`` and in a ``Split``, and are prepared in two ways
    (``functional_nn.data.preparation``). They are divided by 255, batch by batch; so tokens and other integers must not
    be uint8. And they are flattened if the network's output fits the labels only for a flat image. ``Run.in_shape`` is
    the shape that was chosen. All other arrays enter the network as they are.

    If the data have validation examples (``data.with_validation(0.1)``), these are evaluated after every epoch and
    decide about ``patience`` and the best checkpoint. The test examples are then evaluated once, at the end.

    If an epoch produces a value that is not finite, it is run again by steps that skip bad updates. Training then
    stops, or follows ``non_finite``, and a warning says at which step it happened and, if the step is quick to search,
    which operation made the number (``Run.origin``, see ``find_non_finite``).

    Ctrl-C ends the run with a warning, and ``fit`` returns the epochs that are done. It takes effect after the current
    epoch at the latest, even if a callback ignores the ``KeyboardInterrupt``.

    With ``checkpoints``, a run that was stopped or killed continues when the same call is made with the same folder,
    and ends with the same bits as a run that never stopped. It continues from the end of the last saved epoch. With
    another number of devices it may continue, too; then the result differs by rounding.

    Several processes that were started by ``jax.distributed`` train one model together, if all of them make the same
    call with the same data (see docs/how_to/many_machines.md). The first process alone calls ``on_epoch``, saves
    checkpoints and shows the progress. All of them return the same ``Run``, but for the seconds.

    Args:
        net: the network; its output is what the loss takes.
        loss: a ``Loss``, or any function ``(y, labels) -> scalar``. It may return a pair ``(scalar, {name: scalar})``;
            the numbers in the dict are reported with the metrics.
        optimizer: any Optax transformation.
        data: a ``Dataset`` or a ``Split``, whose examples and labels may be pytrees of arrays; or a ``data.Stream`` of
            batches, for data that do not fit in memory.
        epochs: the number of passes over the training data.
        batch_size: the number of examples per step. If it does not divide the number of examples, the last batch of
            each epoch is smaller. The batches of a ``Stream`` have their own size.
        seed: for initial values, shuffling and noise.
        start: what to start from in place of initial values: ``(params, state)``; or a ``TrainState``, such as that of
            an earlier run. A run that starts from a train state continues with its key, its step and its optimizer's
            state: two runs of one epoch each then equal one run of two. ``seed`` is not used then. Nothing is compiled
            for another start.
        penalty: added to the loss for the gradient: a ``Penalty``, or any function of the parameters.
        metrics: by name, what to evaluate in addition to the loss; see ``make_evaluate``. By default it is the accuracy
            if the labels are class numbers. Each must be one number.
        gradient: ``"jax"`` for automatic differentiation, ``"formula"`` for the network's hand-derived backward pass,
            or ``"auto"``: the formula where a layer of the network is faster by it, as convolutions and recurrent
            layers are. Or a function in the place of ``jax.value_and_grad``; see ``make_train_step``.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (parameters, optimizer and loss stay in float32; with
            ``"float16"`` the loss is scaled, see ``LossScale``), or ``"float64"``.
        devices: the number of JAX's devices that share each batch, with all parameters and data on each of them. None:
            one device; or, with several processes, all devices of all of them. The result differs from that of one
            device only by rounding. A CPU has one device, unless ``jax_num_cpu_devices`` is set before JAX computes
            anything. With one device per core, recurrent networks train faster (see docs/explanation/performance.md).
        non_finite: ``"stop"`` ends the run with that epoch. ``"skip"`` goes on without the bad steps, which are
            counted, and stops only if all steps of an epoch are bad.
        patience: stops the run if the loss on the evaluated examples has not improved for this many epochs.
            ``Run.params`` are those of the last epoch; ``checkpoints`` keep those of the best epoch that was saved.
        checkpoints: a folder, or ``Checkpoints``, where every epoch is saved.
        on_epoch: called after each epoch with its metrics and the train state, first for the epochs restored from a
            checkpoint. If it returns True, the run stops. If it raises an exception, the run ends with this exception;
            what was reached is saved, and is the exception's attribute ``run``.
        progress: whether to show a progress bar and, without ``on_epoch``, a closing line; by default on a terminal
            and in a notebook. In a notebook the bar stays instead of the line.

    Returns:
        A ``Run``: ``run.params`` and ``run.state`` are what ``net.apply`` takes, ``run.history`` has the metrics of
        each epoch, and ``run.status`` says how the run ended.

    Raises:
        InputError: before anything is computed, for arguments and data that do not fit, for a model that does not fit
            in memory, for a folder with the checkpoints of another run or in use by another process, and for several
            processes with different arguments.
        RuntimeError: with several processes, if the run ended in the first one, or if one of them was lost.
        DataError: if every checkpoint is damaged or belongs to another network.

    >>> import functional_nn as fnn, optax
    >>> data = fnn.load_dataset("mnist5k")
    >>> run = fnn.fit(fnn.dense(10), fnn.cross_entropy, optax.adam(1e-3), data, epochs=1)
    >>> run.status, run.history[-1].test_accuracy > 0.8
    ('finished', True)
    """
    net, differentiate = with_gradient(as_layer(net), gradient)
    policy = as_precision(precision)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    checks.check_functions(loss, optimizer, penalty)
    named = checks.check_metrics(metrics)
    check_choice("non_finite", non_finite, names.NON_FINITE)
    checks.check_seed(seed)
    if start is not None:
        check_start(start)
    if on_epoch is not None:
        expected = "a function of an epoch's metrics and the train state"
        check_function("on_epoch", on_epoch, expected, "metrics, train_state")
    if progress is not None:
        check_flag("progress", progress)
    checks.check_is_not_a_loader(data)
    streamed = data.streamed if isinstance(data, Stream) else ()
    processes = Processes()

    # A stream is read in a thread, which has ended after this block, whatever happens in it.
    with StreamReader(data) if isinstance(data, Stream) else nullcontext() as reader:
        # If one of several processes cannot read its data, all of them end.
        with processes.all_succeeding():
            examples = reader.split() if reader is not None else data
            split = data_for_network(net, loss, examples)  # pyright: ignore[reportArgumentType] (no stream is left)
        if reader is not None:
            # Each process reads its own share of every batch.
            batch_size = number_of_examples(reader.first.x) * processes.count
        first_epoch = _first_epoch(start, data, split, batch_size)
        device_count = chosen_devices(devices)
        if streamed and processes.are_several and batch_size % device_count:
            expected = f"batches that the {device_count // processes.count} devices of a process can share evenly"
            raise InputError("data", expected, f"{batch_size // processes.count} examples in a batch")
        if patience is not None:
            patience = checks.check_patience(patience, split.evaluated_part)
        warn_of_probabilities(net, loss)
        # What must be equal for a run to continue in a folder, and in all processes. The programs' fingerprints are
        # added after compilation.
        settings, is_compared = {}, checkpoints is not None or processes.are_several
        if is_compared:
            # Of streams, only the shapes of their batches can be told apart, which the programs' fingerprints do.
            kept = split._replace(**{f"{part}_{name}": None for part in streamed for name in ("x", "labels")})
            settings = {
                "batch_size": int(batch_size),
                "seed": int(seed),
                "precision": [str(part) for part in policy],
                "non_finite": non_finite,
                SETTING_OF_BITS: getattr(jax.config, SETTING_OF_BITS),
                "data": checksum_of("data", kept._asdict()),
            }
            if start is not None:
                settings["start"] = checksum_of("start", start)
        limits = {"epochs": int(epochs), "patience": patience}
        processes.check_same("fit", {**limits, "made with": surroundings(), **settings})
        show_progress = is_progress_shown(progress) and processes.is_first

        # The folder is opened before anything is compiled, so that the folder of another run is refused at once.
        saving = run_saver(processes, checkpoints, settings)
        with processes.noticing_loss(), saving as saver, Interruption(processes) as interruption:
            # The programs of the run.
            clock = time.perf_counter()
            recipe = Recipe(net, loss, optimizer, penalty, named, differentiate)
            shapes = shapes_of(split)
            if isinstance(data, Stream):
                shapes = with_batches_of(shapes, batch_size)
            spec = ProgramSpec(recipe, batch_size, policy, data=shapes, devices=device_count, streamed=streamed)
            with processes.all_succeeding():
                programs = Programs(spec)
                programs.check_memory(split)
            seconds = {"compile": time.perf_counter() - clock if programs.compiled_now else 0.0}

            # The state to start from, and the data on the device.
            clock = time.perf_counter()
            # Fingerprints need more traces, so they are made only if there is something to compare.
            fingerprints = programs.fingerprints if is_compared else {}
            processes.check_same("fit", {PROGRAMS: fingerprints, "metrics": programs.metric_names})
            reached = saver.restored(programs, fingerprints)
            restored_epochs = 0 if reached is None else len(reached.history)
            if restored_epochs > epochs:
                raise InputError("epochs", f"at least {restored_epochs}, which the checkpoint has", epochs)
            if reached is None:
                key = jax.random.key(seed)
                if start is None:
                    first = programs.start(key)
                else:
                    first = train_state_from(start, optimizer, key, programs.train_state, policy)
                reached = RunProgress(first)
            # Several processes agree only at the end of an epoch that they stop.
            check_interruption = (lambda: None) if processes.are_several else interruption.check
            # The batches of a stream are copied one by one.
            in_memory = split if reader is None else split._replace(train_x=None, train_labels=None)
            on_device = put_everywhere(in_memory, programs.sharding)
            loop = EpochLoop(
                RunData(programs, on_device, reader, processes, check_interruption),
                epochs,
                first_epoch=first_epoch,
                non_finite=non_finite,
                patience=patience,
                on_epoch=on_epoch,
                reached=reached._replace(train_state=put_everywhere(reached.train_state, programs.sharding)),
            )

            def result(status: str, message: str) -> Run:
                history = loop.reached.history
                train_state = put_on_one(loop.reached.train_state, programs.sharding)
                at_end = history[-1].metrics if history else {}
                return Run(
                    train_state,
                    history,
                    status,
                    message,
                    in_shape=shape_of(split.train_x),
                    precision=precision,
                    seconds=seconds | {"train": time.perf_counter() - clock},
                    restored_epochs=restored_epochs,
                    test_metrics={name: value for name, value in at_end.items() if name.startswith("test_")},
                    at_bad_step=loop.at_bad_step,
                    origin=loop.origin,
                )

            with progress_bar("training", epochs, show_progress) as advance:
                try:
                    status, message = loop.run(saver, interruption, advance)
                except BaseException as error:
                    # What was reached is not lost, whatever went wrong, such as an error or sys.exit in on_epoch.
                    error.run = result("stopped", f"{type(error).__name__} after {loop.done()}.")  # pyright: ignore[reportAttributeAccessIssue]
                    saver.save_after_failure(loop.reached)
                    raise
        run = result(status, message)
        # If choices are made on validation examples, the test examples are evaluated once, at the end.
        if split.evaluated_part == "validation" and split.test_x is not None and status != "interrupted":
            run = loop.with_test_metrics(run)
    if run.status in ("non-finite", "interrupted"):
        warnings.warn(run.message, RuntimeWarning, stacklevel=2)
    if show_progress and on_epoch is None and not in_notebook():  # there, the last state of the bar stays
        print(run, file=sys.stderr)
    return run


def _first_epoch(start: Start | None, data: Dataset | Split | Stream, split: Split, batch_size: int) -> int:
    """The number of epochs before the train state that a run starts from; 0 for a run that continues none.

    Raises:
        InputError: if the batches of a stream are made for the number of the epoch, and it does not say its steps.
    """
    if not isinstance(start, TrainState):
        return 0
    if not isinstance(data, Stream):
        return int(epochs_before(start, math.ceil(number_of_examples(split.train_x) / batch_size)))
    if data.steps is None and callable(data.batches) and start.step != 0:
        expected = "the number of batches in an epoch, by which the epochs before start are counted"
        remedy = "Write Stream(batches, steps=…). Or start from (params, state), which begins with epoch 1."
        raise InputError("data.steps", expected, None, remedy)
    # Without a number of steps, the batches do not depend on the number of the epoch.
    return int(epochs_before(start, data.steps)) if data.steps else 0


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
                return replace(run, test_metrics=self.data.test_metrics(self.reached.train_state)[0])
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
        if self.reached.status:
            # The advice is not saved with the message, as a resumed run has no ``at_bad_step``.
            advice = "" if self.at_bad_step is None or self.origin is not None else ADVICE
            return self.reached.status, self.reached.message + advice
        history = self.reached.history
        losses = (metrics.deciding_loss for metrics in history)
        status = status_after(len(history), self.epochs, losses, self.patience)
        if status == "stopped early" and self.patience is not None:
            return status, f"The {self.data.part} loss was not lower for {counted(self.patience, 'epoch')}."
        return status, ""

    def _run_epoch(self) -> None:
        """Trains for one epoch and evaluates; adds the results to what was reached."""
        before = self.reached
        outcome = self.data.epoch(before.train_state, self.first_epoch + len(before.history))
        # The counters in the train state run on from epoch to epoch; this epoch has their differences.
        (skipped_before, clipped_before), (skipped, clipped) = map(counts, (before.train_state, outcome.train_state))
        metrics = EpochMetrics(
            epoch=len(before.history) + 1,
            metrics=outcome.metrics[0],
            seconds=outcome.seconds,
            skipped_steps=outcome.result.bad_steps.item() + skipped - skipped_before,
            clipped_steps=clipped - clipped_before,
            learning_rate=learning_rate(outcome.train_state),
        )
        status, message, bad_step = "", "", outcome.result.bad_step.item()
        if bad_step >= 0 and not (self.non_finite == SKIP and math.isfinite(metrics.train_loss)):
            spec = self.data.programs.spec
            rate = None
            if outcome.bad_step is not None:
                recipe = spec.recipe_for(NO_HYPERPARAMETERS)
                self.at_bad_step = outcome.bad_step.arguments(recipe, spec.precision)
                self.origin = origin_in_step(recipe, spec.precision, outcome.bad_step)
                rate = rate_of_step(recipe, outcome.bad_step)
            status = "non-finite"
            message = non_finite_message(bad_step, metrics.epoch, rate, self.origin, spec.precision)
        self.reached = RunProgress(outcome.train_state, (*before.history, metrics), status, message)

    def _report(self, metrics: EpochMetrics, advance: Callable[[str], None]) -> bool:
        """Reports an epoch to ``on_epoch`` and to the progress bar; returns whether the run is to stop."""

        def ask() -> bool:
            if self.on_epoch is None:
                return False
            # On one device, so that the function can compute with it alone.
            train_state = put_on_one(self.reached.train_state, self.data.programs.sharding)
            return checks.says_stop(self.on_epoch(metrics, train_state))

        # With several processes the first one alone is asked, and its answer counts for all.
        processes = self.data.processes
        is_stopped = processes.any(bool(processes.first(ask)))
        shown = dict.fromkeys(("train_loss", default_metric(metrics.metrics)))  # more would not fit into 80 columns
        texts = [f"{words(name)} {metrics.metrics[name]:.4f}" for name in shown]
        advance("  ".join(texts))
        return is_stopped
