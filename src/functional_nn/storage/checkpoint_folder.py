"""A folder of checkpoints: who may write there, which are kept, and which one is restored."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from functional_nn.core.errors import DataError, InputError
from functional_nn.core.validation import check_count
from functional_nn.storage import checkpoint
from functional_nn.storage.checkpoint import Checkpoint, DamagedCheckpoint
from functional_nn.storage.files import check_new_folder, check_path, finite_json, one_writer, remove_folder

LARGEST_STEP = 2**63 - 1


class CheckpointWriter:
    """The one writer of a folder, as a context manager. It removes files that a killed writer left behind.

    Args:
        folder: made if it is not there.
        keep: how many of the newest checkpoints stay. The one with the lowest loss stays besides.

    Raises:
        InputError: where another process, or another writer of this one, has the folder, or it cannot be written to.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self._keep = folder, check_count("keep", keep)
        self._losses: dict[int, float | None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> CheckpointWriter:
        with ExitStack() as stack:
            stack.enter_context(one_writer("checkpoints", self.folder))
            self._losses = {step: _loss(self.folder, step) for step in steps(self.folder)}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def save(self, step: int, tree: Any, *, loss: float | None = None, about: Mapping[str, Any] | None = None) -> Path:
        """Writes one whole, in the place of a damaged one if there is one; then removes those that are not kept.

        Raises:
            InputError: where the folder has a good checkpoint of this step.
            OSError: where it could not be written; the others are as they were.
        """
        path = _path(self.folder, step)
        if step in self._losses:
            self._clear(path, step)
        try:
            if not path.exists():  # as it does after an interruption just behind its writing
                checkpoint.write(path, step, tree, loss, about or {})
        except OSError as error:
            text = f"The checkpoint of step {step} was not written, and those before it are whole: {error.strerror}"
            raise OSError(error.errno, text, str(path)) from error
        self._losses[step] = finite_json(loss)
        for unwanted in self._losses.keys() - self._kept():
            del self._losses[unwanted]
            remove_folder(_path(self.folder, unwanted))
        return path

    def _clear(self, path: Path, step: int) -> None:
        try:
            checkpoint.read(path, step)
        except DamagedCheckpoint:
            remove_folder(path)
        else:
            remedy = "Restore it and go on from there, or name another folder."
            raise InputError("step", "one that is not there yet", f"{step}, which {self.folder} has", remedy)

    def _kept(self) -> set[int]:
        newest = sorted(self._losses)[-self._keep :]
        judged = [(loss, step) for step, loss in self._losses.items() if loss is not None]
        return {*newest, *(step for _, step in sorted(judged)[:1])}


class Restored(NamedTuple):
    """What ``restore_checkpoint`` found.

    Args:
        step: the checkpoint's number.
        tree: in the structure that was asked for.
        loss: what it was judged by, or None.
        about: what else was said of it.
    """

    step: int
    tree: Any
    loss: float | None
    about: dict[str, Any]


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    tree: Any,
    *,
    loss: float | None = None,
    about: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Saves a pytree of arrays, such as a ``TrainState``, as the checkpoint of a step, and gives its folder.

    A kill at any moment leaves the checkpoints before it whole, and this one whole or not there. One process at a time
    writes to a folder.

    Args:
        folder: of all the run's checkpoints; made if it is not there.
        step: its number, which is not there yet; restoring takes the largest.
        tree: arrays and random keys, in dicts, tuples, or whatever else JAX knows as a pytree.
        loss: keeps the checkpoint that has the lowest.
        about: anything else that JSON can hold.
        keep: how many of the newest stay.

    Raises:
        InputError: for what cannot be saved, and where another process writes to the folder.
        OSError: where it could not be written, such as on a full disk.

    >>> import tempfile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(folder, 1, {"w": numpy.ones(3)}, about={"seed": 0})
    ...     path.name, sorted(file.name for file in path.iterdir())
    ('0000000001', ['arrays.safetensors', 'manifest.json'])
    """
    path, number = check_new_folder("folder", folder), check_count("step", step, least=0, most=LARGEST_STEP)
    with CheckpointWriter(path, keep) as writer:
        return writer.save(number, tree, loss=None if loss is None else float(loss), about=about)


def restore_checkpoint(
    folder: str | os.PathLike[str], like: Any, *, step: int | Literal["newest", "best"] = "newest", part: str = ""
) -> Restored:
    """Reads a checkpoint, verified bit for bit; where the newest is damaged it warns, and takes the one before.

    Args:
        folder: as ``save_checkpoint`` or ``fit`` had it.
        like: the structure: arrays, or shapes as ``jax.eval_shape`` gives them.
        step: the newest, the best, which is the one with the lowest loss, or one by its number.
        part: the path of a part of the tree that ``like`` is the structure of, such as ``train_state/params`` of what
            ``fit`` saves.

    Raises:
        DataError: where there is no good checkpoint, for a later version's, and for one of another tree, with the paths
            that differ.

    >>> import tempfile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_checkpoint(folder, 7, {"w": numpy.ones(3, "float32")})
    ...     restored = restore_checkpoint(folder, {"w": numpy.zeros(3, "float32")})
    >>> restored.step, restored.tree
    (7, {'w': Array([1., 1., 1.], dtype=float32)})
    """
    folder = check_path("folder", folder)
    if not isinstance(step, str):
        step = check_count("step", step, least=0, most=LARGEST_STEP)
    elif step not in ("newest", "best"):
        raise InputError("step", "newest, best or a number", repr(step))
    if step == "best":
        judged = [(loss, number) for number in steps(folder) if (loss := _loss(folder, number)) is not None]
        if not judged:
            raise DataError(str(folder), "a checkpoint with a loss", "none", "Give save_checkpoint the loss.")
        step = min(judged)[1]
    if step == "newest":
        found = newest(folder)
        if found is None:
            remedy = "Name the folder that they were saved in."
            raise DataError(str(folder), "a folder of checkpoints", "none in it", remedy)
    else:
        found = checkpoint.read(_path(folder, step), step)
    return Restored(found.step, found.tree(like, part), found.loss, found.about)


def newest(folder: Path, verify: Callable[[Checkpoint], None] = lambda found: None) -> Checkpoint | None:
    """The newest good checkpoint, with a warning about those that are not; None where there is none at all.

    Args:
        folder: of checkpoints.
        verify: looks at what a checkpoint refers to outside of itself, and raises ``DamagedCheckpoint``.

    Raises:
        DataError: where all are damaged.
    """
    damaged = []
    for step in reversed(steps(folder)):
        try:
            found = checkpoint.read(_path(folder, step), step)
            verify(found)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
            continue
        if damaged:
            text = f"The checkpoint of step {step} is used instead of a damaged one. {' '.join(damaged)}"
            warnings.warn(text, stacklevel=3)
        return found
    if damaged:
        raise DataError(str(folder), "a good checkpoint", f"damaged ones only: {' '.join(damaged)}")
    return None


def steps(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, from the smallest."""
    return sorted(int(path.name) for path in folder.glob("*") if re.fullmatch(r"\d{10,}", path.name))


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}"


def _loss(folder: Path, step: int) -> float | None:
    try:
        return checkpoint.read_manifest(_path(folder, step))["loss"]
    except DamagedCheckpoint:
        return None
