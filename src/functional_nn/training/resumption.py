"""What ``fit`` saves of a run, so that it goes on, bit for bit, as if it had never stopped."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from functional_nn.checkpoints.checkpoint import Checkpoint
from functional_nn.checkpoints.folder import CheckpointWriter, newest
from functional_nn.errors import InputError
from functional_nn.files import finite_json
from functional_nn.training.run import EpochMetrics
from functional_nn.training.state import TrainState


class Checkpoints(NamedTuple):
    """Where ``fit`` saves what a run has reached, and how often.

    Args:
        folder: of this run alone; made if it is not there.
        keep: how many of the newest checkpoints stay; that of the lowest test loss stays besides.
        minutes: an epoch's end is saved where so many have passed since the last time; 0 for every epoch. The first
            epoch, the last one and the one after which a run was interrupted are always saved.
        settings: what else has to be equal for a run to go on here, such as the learning rate: functions cannot be
            compared, so ``fit`` itself compares seed, batch size, precision, policy, data and the shapes of everything.
    """

    folder: str | os.PathLike[str]
    keep: int = 2
    minutes: float = 0.0
    settings: Mapping[str, Any] | None = None


class Reached(NamedTuple):
    """How far a run has come, and, in words, why it goes no further, or neither."""

    train_state: TrainState
    history: tuple[EpochMetrics, ...] = ()
    status: str = ""
    message: str = ""


class RunSaver:
    """Saves a run, and finds what was saved, as a context manager; without ``checkpoints`` it does neither.

    Raises:
        InputError: where the folder is another run's, another process's, or cannot be written to.
        DataError: where nothing in it is whole.
    """

    def __init__(self, checkpoints: Checkpoints | str | os.PathLike[str] | None, settings: Mapping[str, Any]):
        if isinstance(checkpoints, str | os.PathLike):
            checkpoints = Checkpoints(checkpoints)
        self._writer: CheckpointWriter | None = None
        self._found: Checkpoint | None = None
        self._saved_epochs = 0
        if checkpoints is not None:
            minutes = checkpoints.minutes
            if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 <= minutes < math.inf:
                raise InputError("minutes", "a number not below 0", repr(minutes))
            self._writer = CheckpointWriter(Path(checkpoints.folder), checkpoints.keep)
            self._seconds = 60 * minutes
            self._settings = _as_json({**settings, **(checkpoints.settings or {})})
            self._clock = -math.inf

    def __enter__(self) -> RunSaver:
        if self._writer is not None:
            self._writer.__enter__()
            try:
                self._found = newest(self._writer.folder)
                if self._found is not None:
                    _check_same(self._found, self._settings)
            except BaseException:
                self._writer.__exit__()
                raise
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*exception)

    def restored(self, like: TrainState) -> Reached | None:
        """What was saved last, or None; its structure has to be that of ``like``."""
        if self._found is None:
            return None
        train_state = self._found.tree(like, "train_state")
        columns = [self._found.arrays[f"history/{name}"].tolist() for name in EpochMetrics._fields]
        history = tuple(EpochMetrics(*row) for row in zip(*columns, strict=True))
        about, self._saved_epochs = self._found.about, len(history)
        self._found = None
        return Reached(train_state, history, about["status"], about["message"])

    def save(self, reached: Reached, *, now: bool = False) -> None:
        """Saves what was not saved yet, if it is time."""
        epochs = len(reached.history)
        due = now or time.monotonic() - self._clock >= self._seconds if self._writer is not None else False
        if self._writer is None or not due or epochs <= self._saved_epochs:
            return
        columns = zip(EpochMetrics._fields, zip(*reached.history, strict=True), strict=True)
        tree = {"train_state": reached.train_state, "history": {name: np.array(column) for name, column in columns}}
        about = {"settings": self._settings, "status": reached.status, "message": reached.message}
        self._writer.save(epochs, tree, loss=reached.history[-1].test_loss, about=about)
        self._saved_epochs, self._clock = epochs, time.monotonic()


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(finite_json(settings)))
    except (TypeError, ValueError) as error:
        raise InputError("settings", "what JSON can hold", f"{settings!r} ({error})") from None


def _check_same(found: Checkpoint, settings: Mapping[str, Any]) -> None:
    known = found.about.get("settings")
    if known is None:
        raise InputError("checkpoints", "a run's folder", f"{found.path}, which fit did not write")
    different = [
        f"{name} {_shown(known, name)} instead of {_shown(settings, name)}"
        for name in sorted(known.keys() | settings.keys())
        if _shown(known, name) != _shown(settings, name)
    ]
    if different:
        given = f"{found.path.parent}, whose run has {'; '.join(different)}"
        remedy = "Give what that run had, or name another folder."
        raise InputError("checkpoints", "a new folder, or one of this very run", given, remedy)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "nothing"
