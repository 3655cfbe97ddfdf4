"""Saving and restoring of a run by the first of several processes, for all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import jax
from safetensors.numpy import load, save

from functional_nn.core import trees
from functional_nn.storage.arrays import is_key, named_arrays, tree_like
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
        # The argument is checked in all processes.
        self._saver = RunSaver(checkpoints, settings)

    def __enter__(self) -> SharedSaver:
        self._processes.first(self._saver.__enter__)
        return self

    def __exit__(self, *exception: object) -> None:
        # After an exception the other processes may not come here, so nothing is said to them.
        if self._processes.is_first:
            self._saver.__exit__(*exception)

    def restored(
        self, like: TrainState, metric_names: Sequence[str], programs: Mapping[str, str], devices: int
    ) -> RunProgress | None:
        """The newest saved state, or None; see ``RunSaver.restored``."""
        reached = self._processes.first(lambda: self._saver.restored(like, metric_names, programs, devices))
        if not self._processes.are_several:
            return reached
        text = self._processes.bytes_from_first(b"" if reached is None else _text(reached).encode())
        arrays = self._processes.bytes_from_first(b"" if reached is None else _arrays(reached.train_state))
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
    leaves, _ = jax.tree_util.tree_flatten_with_path(reached.train_state)
    return json.dumps(
        {
            "history": [metrics._asdict() | {"metrics": dict(metrics.metrics)} for metrics in reached.history],
            "status": reached.status,
            "message": reached.message,
            "key_types": {trees.path_of(path): str(jax.random.key_impl(leaf)) for path, leaf in leaves if is_key(leaf)},
        }
    )


def _arrays(train_state: TrainState) -> bytes:
    return save(named_arrays(train_state))


def _progress(like: TrainState, text: JsonObject, arrays: bytes) -> RunProgress:
    train_state = tree_like(like, load(arrays), "process 0", text["key_types"])
    history = tuple(EpochMetrics(**metrics) for metrics in text["history"])
    return RunProgress(train_state, history, text["status"], text["message"])
