"""Saving and restoring of a run by the first of several processes, for all of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from functional_nn.storage.arrays import key_types, named_arrays, tree_like
from functional_nn.storage.files import JsonObject
from functional_nn.training.processes import Processes
from functional_nn.training.resilience.checkpointing import Checkpoints, RunProgress, RunSaver
from functional_nn.training.run import EpochMetrics
from functional_nn.training.state import TrainState


class SharedSaver:
    """A ``RunSaver`` in the first process. The others wait until it has saved, and get what it has restored.

    So only the first process needs the folder, and the others fail with it. With one process it is a ``RunSaver``.

    Args:
        processes: those that train together.
        checkpoints, settings: as ``RunSaver`` takes them.
    """

    def __init__(
        self,
        processes: Processes,
        checkpoints: Checkpoints | str | os.PathLike[str] | None,
        settings: Mapping[str, object],
    ):
        self._processes = processes
        self._arguments = checkpoints, settings
        self._opened = ExitStack()

    def __enter__(self) -> SharedSaver:
        saver = self._processes.first(lambda: self._opened.enter_context(RunSaver(*self._arguments)))
        # In the other processes it saves nothing.
        self._saver = RunSaver(None, {}) if saver is None else saver
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def restored(
        self, like: TrainState, metric_names: Sequence[str], programs: Mapping[str, str], devices: int
    ) -> RunProgress | None:
        """The newest saved state, or None; see ``RunSaver.restored``."""
        reached = self._processes.first(lambda: self._saver.restored(like, metric_names, programs, devices))
        if not self._processes.are_several:
            return reached
        text = self._processes.bytes_from_first(b"" if reached is None else _text(reached).encode())
        arrays = self._processes.bytes_from_first(b"" if reached is None else _bytes_of(reached.train_state))
        return _progress(like, json.loads(text), arrays) if text else None

    def save(self, reached: RunProgress, *, now: bool = False) -> None:
        """Saves the epochs that are not saved yet; see ``RunSaver.save``."""
        self._processes.first(lambda: self._saver.save(reached, now=now))

    def save_after_failure(self, reached: RunProgress) -> None:
        """Saves what was reached before an exception. Nothing is said to other processes, which may not come here."""
        if self._processes.is_first:
            self._saver.save(reached, now=True)


def _text(reached: RunProgress) -> str:
    """All of a run's progress but its arrays, as JSON, from which Python reads each float as it was."""
    arrays = named_arrays(reached.train_state)
    return json.dumps(
        {
            "history": [metrics._asdict() | {"metrics": dict(metrics.metrics)} for metrics in reached.history],
            "status": reached.status,
            "message": reached.message,
            "arrays": {path: [array.dtype.name, array.shape] for path, array in arrays.items()},
            "key_types": key_types(reached.train_state),
        }
    )


def _bytes_of(train_state: TrainState) -> bytes:
    """The bytes of all arrays, one after another."""
    return b"".join(array.tobytes() for array in named_arrays(train_state).values())


def _progress(like: TrainState, text: JsonObject, contents: bytes) -> RunProgress:
    arrays, place = {}, 0
    for path, (dtype, shape) in text["arrays"].items():
        array = np.frombuffer(contents, np.dtype(dtype), math.prod(shape), place).reshape(shape)
        arrays[path] = array
        place += array.nbytes
    train_state = tree_like(like, arrays, "process 0", text["key_types"])
    history = tuple(EpochMetrics(**metrics) for metrics in text["history"])
    return RunProgress(train_state, history, text["status"], text["message"])
