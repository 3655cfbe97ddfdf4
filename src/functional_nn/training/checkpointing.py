"""Checkpoints of a run: saving, restoring, and saving by one of several processes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn.core.errors import DataError, InputError, check, check_data, shown
from functional_nn.core.validation import check_number
from functional_nn.storage.checkpoints import KEEP, Checkpoint, CheckpointWriter, newest, read_checkpoint
from functional_nn.storage.files import (
    PLAIN,
    as_json,
    check_new_folder,
    check_not_removed,
    misfit,
    read_file,
    temporary_folder,
    write_whole,
)
from functional_nn.storage.identity import IDENTITY, PROGRAMS, SURROUNDINGS, check_kind, difference
from functional_nn.training.evaluate import check_metric
from functional_nn.training.processes import Processes
from functional_nn.training.programs import Programs, surroundings
from functional_nn.training.run import EpochMetrics
from functional_nn.training.state import TrainState

NUMBERS = ("epoch", "seconds", "skipped_steps", "clipped_steps", "learning_rate")
"""The numbers of an epoch in a row of the history. Its metrics by name follow them."""

HISTORY = "history"
"""The path of the metrics of all epochs in a checkpoint: float64, with a row for each epoch."""

BEST_BY = "best_by"
"""The setting with the name of the metric that decides which epoch is the best. The loss has no such setting."""

METRICS = "metrics"
"""The setting with the names of a run's metrics. They are known only when its programs are compiled."""

SCHEMA = {
    "settings": {
        METRICS: [str],
        PROGRAMS: {...: PLAIN},
        SURROUNDINGS: {...: PLAIN},
        **dict.fromkeys(("batch_size", "seed", "devices", "non_finite"), PLAIN),
    },
    "status": str,
    "message": str,
}
"""The schema of the further entries of a checkpoint of ``fit``."""


class Checkpoints(NamedTuple):
    """Where ``fit`` saves a run, and how often.

    Args:
        folder: a folder for this run alone; created if it does not exist.
        keep: how many of the newest checkpoints are kept. The one of the best epoch is kept in addition, among those
            that were saved.
        minutes: save after an epoch if at least this many minutes have passed since the last save; 0 saves after every
            epoch. The first epoch, the last one, and the one before an interruption are always saved.
        settings: anything else that must be equal for a run to continue here. ``fit`` itself compares seed, batch
            size, precision, policy, data, and what network, loss, optimizer and penalty compute. Only Python functions
            called from a program (``jax.pure_callback``) cannot be compared.
        best_by: the name of the metric that decides which epoch is the best, such as ``"validation_accuracy"``. Smaller
            numbers are better if its name ends as ``early_stopping`` says, otherwise larger ones. None: the loss on
            validation examples, or else on test examples, or else in training. A run continues only with the same.
        defaults: the values of ``settings`` that a folder from before these were added does not have.
    """

    folder: str | os.PathLike[str]
    keep: int = KEEP
    minutes: float = 0.0
    settings: Mapping[str, object] | None = None
    best_by: str | None = None
    defaults: Mapping[str, object] | None = None


class RunProgress(NamedTuple):
    """The state of a run after some epochs. ``status`` and ``message`` are empty unless the run has ended."""

    train_state: TrainState
    history: tuple[EpochMetrics, ...] = ()
    status: str = ""
    message: str = ""


@contextmanager
def run_saver(
    processes: Processes, checkpoints: Checkpoints | str | os.PathLike[str] | None, settings: Mapping[str, object]
) -> Iterator[RunSaver]:
    """Opens the folder of a run, and closes it at the end.

    Args:
        processes: those that train together.
        checkpoints: the argument of ``fit``.
        settings: the settings that must be equal for a run to continue, as far as they are known before compilation.

    Raises:
        InputError: if the folder belongs to another run, is in use by another process, or cannot be written to.
        DataError: if every checkpoint in it is damaged.
    """
    saver = RunSaver(processes, settings)
    with ExitStack() as stack:
        processes.first(lambda: saver.open(checkpoints, stack))
        yield saver


class RunSaver:
    """Saves a run and restores it. Without ``checkpoints`` it does neither.

    Of several processes only the first one needs the folder. The others wait until it has saved, get what it has
    restored, and fail with it.

    Args:
        processes, settings: as for ``run_saver``.
    """

    def __init__(self, processes: Processes, settings: Mapping[str, object]):
        self._processes, self._settings = processes, settings
        self._writer: CheckpointWriter | None = None
        self._found: Checkpoint | None = None
        self._metric_names: tuple[str, ...] = ()
        self._saved_epochs = 0
        self._has_failed = False
        # So the first epoch is saved at once.
        self._clock = -math.inf

    def open(self, checkpoints: Checkpoints | str | os.PathLike[str] | None, stack: ExitStack) -> None:
        """Opens the folder, which is closed with the stack, and compares the settings."""
        if checkpoints is None:
            return
        checkpoints = _checked(checkpoints)
        self._seconds = 60 * checkpoints.minutes
        self._best_by, self._defaults = checkpoints.best_by, checkpoints.defaults
        # The user's settings are an entry of their own, so that they replace none of the others.
        own = {IDENTITY: dict(checkpoints.settings)} if checkpoints.settings else {}
        best_by = {} if self._best_by is None else {BEST_BY: self._best_by}
        self._settings = as_json("settings", {**self._settings, **own, **best_by})
        folder = Path(checkpoints.folder)
        check_kind("checkpoints", folder, "checkpoints")
        self._writer = stack.enter_context(CheckpointWriter(folder, checkpoints.keep))
        self._found = newest(folder)
        if self._found is not None:
            if misfit(self._found.about, SCHEMA):
                raise InputError("checkpoints", "a run's folder", f"{self._found.path}, which fit did not write")
            self._check_same()

    def restored(self, programs: Programs, fingerprints: Mapping[str, str]) -> RunProgress | None:
        """The newest saved state, or None.

        Args:
            programs: those of the run. The saved state must have the structure, shapes and types of their train state,
                and the saved epochs the names of their metrics.
            fingerprints: those of the programs; they must equal the saved ones, if both are of programs for the same
                number of devices.

        Raises:
            InputError: for a checkpoint of another run, and if ``best_by`` is not among the names of the metrics.
        """
        reached = self._processes.first(lambda: self._restored(programs, fingerprints))
        found, self._found = self._found, None
        if not self._processes.are_several:
            return reached
        # The other processes read the same file, which is read from the folder that is kept open.
        received = self._processes.bytes_from_first(b"" if found is None else read_file(found.path, math.inf))
        if not received:
            return None
        with temporary_folder("functional-nn-") as folder:
            write_whole(folder / "received", received)
            return _progress(read_checkpoint(folder / "received"), programs)

    def _restored(self, programs: Programs, fingerprints: Mapping[str, str]) -> RunProgress | None:
        if self._writer is None:
            return None
        self._metric_names = programs.metric_names
        if self._best_by is not None:
            check_metric("best_by", self._best_by, self._metric_names)
        self._rows = np.empty((0, len(NUMBERS) + len(self._metric_names)))
        self._settings = {
            **self._settings,
            METRICS: list(self._metric_names),
            PROGRAMS: dict(fingerprints),
            SURROUNDINGS: surroundings() | {"devices": programs.spec.devices},
        }
        if self._found is None:
            return None
        # Names and shapes that differ say more than different fingerprints, so they are compared first.
        reached = _progress(self._found, programs)
        self._check_same()
        self._rows = self._found.arrays[HISTORY].copy()  # a view would keep the whole file in memory
        self._writer.continue_after(self._found.step)
        self._saved_epochs = len(reached.history)
        return reached

    def save(self, reached: RunProgress, *, now: bool = False) -> None:
        """Saves the epochs that are not saved yet, if enough time has passed or ``now`` is set.

        Raises:
            OSError: if they could not be written, or if the folder was removed, which is noticed after each epoch. The
                disk is probably full or gone, and a second try would hide this error. So later calls do nothing.
        """
        self._processes.first(lambda: self._save(reached, now=now))

    def save_after_failure(self, reached: RunProgress) -> None:
        """Saves what was reached before an exception. Nothing is said to other processes, which may not come here."""
        if self._processes.is_first:
            self._save(reached, now=True)

    def _save(self, reached: RunProgress, *, now: bool) -> None:
        epochs = len(reached.history)
        if self._writer is None or self._has_failed or epochs <= self._saved_epochs:
            return
        try:
            check_not_removed(self._writer.folder)
            if not now and time.monotonic() - self._clock < self._seconds:
                return
            self._write(self._writer, reached)
        except OSError:
            self._has_failed = True
            raise
        self._saved_epochs, self._clock = epochs, time.monotonic()

    def _write(self, writer: CheckpointWriter, reached: RunProgress) -> None:
        """Writes the checkpoint of the last epoch, with the metrics of all epochs."""
        # After Ctrl-C, _saved_epochs is the old one, and the same call writes the same rows at the same place.
        rows = [_row(metrics, self._metric_names) for metrics in reached.history[self._saved_epochs :]]
        self._rows = np.concatenate([self._rows[: self._saved_epochs], rows])
        about = {"settings": self._settings, "status": reached.status, "message": reached.message}
        tree = {"train_state": reached.train_state, HISTORY: self._rows}
        writer.save(len(self._rows), tree, loss=reached.history[-1].to_minimize(self._best_by), about=about)

    def _check_same(self) -> None:
        """Raises an ``InputError`` if a known setting differs from that of the checkpoint that was found."""
        assert self._found is not None
        known = self._found.about["settings"]
        if PROGRAMS not in self._settings:
            # Before compilation these three are not known yet; restored compares again with them.
            known = {name: known[name] for name in known if name not in (METRICS, PROGRAMS, SURROUNDINGS)}
        if different := difference(known, self._settings, self._defaults):
            given = f"{self._found.path.parent}, whose run has {different}"
            remedy = "Use the arguments of that run, or another folder."
            raise InputError("checkpoints", "a new folder, or the folder of this run", given, remedy)


def _progress(found: Checkpoint, programs: Programs) -> RunProgress:
    """The state of a run in a checkpoint. Its train state must have the structure that the programs take."""
    train_state = found.tree(programs.train_state, "train_state")
    return RunProgress(train_state, saved_history(found), found.about["status"], found.about["message"])


def saved_history(found: Checkpoint) -> tuple[EpochMetrics, ...]:
    """The metrics of the epochs up to a checkpoint that ``fit`` saved.

    Raises:
        DataError: if ``fit`` did not save it, or if the epochs do not count up from 1.
    """
    entry = misfit(found.about, SCHEMA)
    names = [] if entry else found.about["settings"][METRICS]
    rows = found.arrays.get(HISTORY, np.empty(0))
    if entry or rows.dtype != np.float64 or rows.shape != (found.step, len(NUMBERS) + len(names)):
        wrong = f"about/{entry}" if entry else HISTORY
        raise DataError(str(found.path), "a checkpoint of fit", f"one that fit did not write ({wrong})")
    return tuple(_metrics(row, names, number, found.path) for number, row in enumerate(rows.tolist(), start=1))


def _checked(checkpoints: object) -> Checkpoints:
    """The argument as ``Checkpoints``, if it is a folder or ``Checkpoints`` with usable values."""
    if isinstance(checkpoints, str | os.PathLike):
        checkpoints = Checkpoints(checkpoints)
    if not isinstance(checkpoints, Checkpoints):
        raise InputError("checkpoints", "the path of a folder, or Checkpoints(folder, …)", shown(checkpoints))
    folder = check_new_folder("checkpoints", checkpoints.folder)
    check_number("minutes", checkpoints.minutes, "a number not below 0", lambda minutes: 0 <= minutes < math.inf)
    for name in ("settings", "defaults"):
        value = getattr(checkpoints, name)
        check(name, value, "a dict that JSON can hold", value is None or isinstance(value, Mapping))
    best_by = checkpoints.best_by
    check("best_by", best_by, "the name of a metric, or None", best_by is None or isinstance(best_by, str))
    return checkpoints._replace(folder=folder)


def _row(metrics: EpochMetrics, metric_names: Sequence[str]) -> list[float]:
    """The metrics of an epoch as a row of the history."""
    numbers = metrics.row()
    row = (numbers[name] for name in (*NUMBERS, *metric_names))
    return [math.nan if number is None else number for number in row]


def _metrics(row: Sequence[float], metric_names: Sequence[str], number: int, path: Path) -> EpochMetrics:
    """The metrics of an epoch from its row of the history, in which all numbers are float64.

    Args:
        row: the row.
        metric_names: the names of the metrics in it.
        number: the number of the epoch.
        path: the file, for errors.
    """
    epoch, seconds, skipped_steps, clipped_steps, rate, *numbers = row
    counts = epoch, skipped_steps, clipped_steps
    is_good = epoch == number and all(map(math.isfinite, counts))
    expected = f"epoch {number}, then finite numbers of skipped and clipped steps"
    check_data(f"{path}, {HISTORY}", counts, expected, is_good)
    metrics = dict(zip(metric_names, numbers, strict=True))
    learning_rate = None if math.isnan(rate) else rate
    return EpochMetrics(number, metrics, seconds, int(skipped_steps), int(clipped_steps), learning_rate)
