"""Callbacks for ``fit(on_epoch=…)``: logs as CSV and for TensorBoard, early stopping, and several callbacks in one.

``fit`` calls a callback after each epoch. A resumed run calls it for the epochs from its checkpoint first. So every
callback here starts anew at epoch 1: it can be used for one run after another, but not for two runs at the same time.
"""

from __future__ import annotations

import csv
import math
import os
import tempfile
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

from functional_nn.core.errors import InputError, imported
from functional_nn.core.validation import check_count, check_function, check_number, shown
from functional_nn.storage.files import check_new_folder, check_path
from functional_nn.training.argument_checks import says_stop
from functional_nn.training.epoch_loop import OnEpoch
from functional_nn.training.run import EpochMetrics
from functional_nn.training.state import TrainState


def csv_log(path: str | os.PathLike[str]) -> OnEpoch:
    """A callback that writes the metrics of each epoch as a row of a CSV file.

    The columns are those of ``EpochMetrics.row()``: the epoch, each metric by its name, ``seconds``, ``skipped_steps``,
    ``clipped_steps``, ``rate_share`` and ``learning_rate``, which is empty if it is not known. Each row is on the disk
    when the next epoch starts. At epoch 1 the file is written anew, so a resumed run has no row twice.

    Args:
        path: of the file. It is made now, and its folder must exist.

    Raises:
        InputError: if the file cannot be written to.

    >>> import tempfile, optax, functional_nn as fnn
    >>> data = fnn.load_dataset("mnist5k")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "log.csv"
    ...     run = fnn.fit(fnn.dense(10), fnn.cross_entropy, optax.adam(1e-3), data, epochs=2, on_epoch=csv_log(path))
    ...     lines = path.read_text().splitlines()
    >>> lines[0]
    'epoch,train_loss,test_loss,test_accuracy,seconds,skipped_steps,clipped_steps,rate_share,learning_rate'
    >>> len(lines)
    3
    """
    file = check_path("path", path)
    # A file that cannot be written to is noticed before the first epoch. Opening it to append keeps its content.
    try:
        with open(file, "a"):
            pass
    except OSError as error:
        raise InputError("path", "a file that can be written to", f"{file} ({error.strerror})") from None

    def on_epoch(metrics: EpochMetrics, train_state: TrainState) -> None:
        row, is_first = metrics.row(), metrics.epoch == 1
        with open(file, "w" if is_first else "a", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([row.keys(), row.values()] if is_first else [row.values()])

    return on_epoch


def tensorboard_log(folder: str | os.PathLike[str]) -> OnEpoch:
    """A callback that writes the metrics of each epoch for TensorBoard, by tensorboardX.

    Each number of ``EpochMetrics.row()`` is a scalar of this name, at the step of its epoch. The numbers of an epoch
    are in the file when the next epoch starts. At epoch 1 a new file begins, which tells TensorBoard to hide the points
    of the files before it. So a resumed run has no point twice.

    Args:
        folder: of this run. TensorBoard shows runs side by side if they have folders of their own in one folder. It is
            made now, if it does not exist.

    Raises:
        InputError: if tensorboardX is not installed, or the folder cannot be written to.

    >>> tensorboard_log("runs/first")  # doctest: +SKIP
    """
    return _TensorBoardLog(check_new_folder("folder", folder))


def early_stopping(patience: int, metric: str | None = None, least_change: float = 0.0) -> OnEpoch:
    """A callback that stops the run if a metric has not improved for some epochs.

    The argument ``patience`` of ``fit`` does the same for the loss on the evaluated examples. NaN is no improvement.

    Args:
        patience: the number of epochs without an improvement after which the run stops.
        metric: the name of any metric of the run, such as ``"validation_accuracy"``. Smaller numbers are better if its
            name ends in ``loss``, ``error``, ``mae``, ``mse``, ``rmse``, ``brier_score`` or ``perplexity``, otherwise
            larger ones. None: the loss on validation examples, or else on test examples, or else in training.
        least_change: an epoch counts as an improvement if it is better than the best one by more than this.

    Raises:
        InputError: for arguments that cannot be used. After epoch 1, if the run has no metric of this name.

    >>> import optax, functional_nn as fnn
    >>> data = fnn.load_dataset("mnist5k").with_validation(0.2)
    >>> run = fnn.fit(
    ...     fnn.dense(10), fnn.cross_entropy, optax.adam(0.1), data, epochs=50,
    ...     on_epoch=early_stopping(3, "validation_accuracy"))
    >>> accuracies = [metrics.metrics["validation_accuracy"] for metrics in run.history]
    >>> run.status, max(accuracies) == accuracies[-4]
    ('stopped', True)
    """
    check_count("patience", patience)
    if metric is not None and not isinstance(metric, str):
        raise InputError("metric", "the name of a metric, or None", shown(metric))
    check_number("least_change", least_change, "a number not below 0", lambda change: 0 <= change < math.inf)
    return _EarlyStopping(patience, metric, least_change)


def combine(*callbacks: OnEpoch) -> OnEpoch:
    """One callback that calls several, in this order. The run stops if at least one of them returns True.

    Args:
        callbacks: functions of an epoch's metrics and the train state, as ``fit`` takes them. All of them are called
            after each epoch, also if an earlier one has returned True.

    Raises:
        InputError: for a callback that is no function. After an epoch, if one returns neither a boolean nor None.

    >>> on_epoch = combine(lambda metrics, train_state: None, lambda metrics, train_state: metrics.test_accuracy > 0.8)
    """
    for number, callback in enumerate(callbacks):
        expected = "a function of an epoch's metrics and the train state"
        check_function(f"callbacks[{number}]", callback, expected, "metrics, train_state")

    def on_epoch(metrics: EpochMetrics, train_state: TrainState) -> bool:
        answers = [says_stop(f"callbacks[{i}]", call(metrics, train_state)) for i, call in enumerate(callbacks)]
        return any(answers)

    return on_epoch


class _TensorBoardLog:
    """Writes the events of one run after another to a folder."""

    def __init__(self, folder: Path):
        module = partial(imported, package="tensorboardX", argument="tensorboard_log", extra="tensorboard")
        # SummaryWriter writes from a thread, whose queue cannot be flushed. The class below it writes at once.
        self._writers = module("tensorboardX.event_file_writer")
        self._events = module("tensorboardX.proto.event_pb2")
        self._folder, self._writer = folder, None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError("folder", "a folder that can be written to", f"{folder} ({error.strerror})") from None

    def __call__(self, metrics: EpochMetrics, train_state: TrainState) -> None:
        if self._writer is None or metrics.epoch == 1:
            self._writer = self._new_writer(metrics.epoch)
        event = self._events.Event(wall_time=time.time(), step=metrics.epoch)
        for name, value in metrics.row().items():
            if name != "epoch" and value is not None:
                event.summary.value.add(tag=name, simple_value=value)
        self._writer.write_event(event)
        self._writer.flush()

    def _new_writer(self, epoch: int) -> Any:
        """Begins a new file, with the event that makes TensorBoard leave out earlier points from this epoch on."""
        if self._writer is not None:
            self._close()
        writer = self._writers.EventsWriter(str(self._folder / "events"))
        # No callback is called at the end of a run. So the file is closed when this object is gone.
        self._close = weakref.finalize(self, writer.close)
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        writer.write_event(self._events.Event(wall_time=time.time(), step=epoch, session_log=start))
        return writer


class _EarlyStopping:
    """Counts the epochs since the best one."""

    def __init__(self, patience: int, metric: str | None, least_change: float):
        self._patience, self._metric, self._least_change = patience, metric, least_change
        self._best, self._epochs_since_best = math.inf, 0

    def __call__(self, metrics: EpochMetrics, train_state: TrainState) -> bool:
        value = metrics.to_minimize(self._metric)
        if metrics.epoch == 1:
            self._best, self._epochs_since_best = math.inf if math.isnan(value) else value, 0
        elif value < self._best - self._least_change:
            self._best, self._epochs_since_best = value, 0
        else:
            self._epochs_since_best += 1
        return self._epochs_since_best >= self._patience
