"""Folders of checkpoints: saving, restoring, removing old ones, and allowing only one writer at a time."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

from functional_nn.core.errors import DataError, InputError
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_number, shown
from functional_nn.storage import checkpoint
from functional_nn.storage.checkpoint import Checkpoint, DamagedCheckpoint
from functional_nn.storage.files import JsonObject, check_new_folder, check_path, finite_json, remove_folder
from functional_nn.storage.locks import one_writer

LARGEST_STEP = 2**63 - 1


class CheckpointWriter:
    """The only writer of a folder, as a context manager. It removes files that a killed writer left behind.

    Args:
        folder: made if it does not exist.
        keep: the number of newest checkpoints to keep. The one with the lowest loss is kept too.

    Raises:
        InputError: if another writer, in this process or another, uses the folder, or if it cannot be written to.

    Attributes:
        check_folder: in the context, a function that raises ``OSError`` unless the folder is still the locked one.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self._keep = folder, check_count("keep", keep)
        self._losses: dict[int, float | None] = {}
        # The steps that this writer has begun to write: an interrupted call of save can be made again.
        self._begun: set[int] = set()
        self._stack = ExitStack()

    def __enter__(self) -> CheckpointWriter:
        # If reading fails, the inner stack gives the lock back. Otherwise the lock is kept until __exit__.
        with ExitStack() as stack:
            self.check_folder = stack.enter_context(one_writer("checkpoints", self.folder))
            self._losses = {step: _loss(self.folder, step) for step in steps(self.folder)}
            self._known = set(self._losses)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def continue_after(self, step: int) -> None:
        """The run continues from a step: ``save`` replaces or removes all checkpoints after it, which are damaged."""
        self._losses = {earlier: loss for earlier, loss in self._losses.items() if earlier <= step}

    def save(
        self, step: int, tree: object, *, loss: float | None = None, about: Mapping[str, object] | None = None
    ) -> Path:
        """Writes a checkpoint, and then removes those that are not kept. A damaged one of this step is replaced.

        If Ctrl-C interrupted a call, the same call completes it. What this writer has written is not written again.

        Raises:
            InputError: if the folder has a good checkpoint of this step, which this writer did not write.
            OSError: if it could not be written; the other checkpoints are unchanged.
        """
        path = _path(self.folder, step)
        if step not in self._begun:
            self._clear(path, step)
            self._begun.add(step)
        try:
            if not path.exists():  # it exists if this call was interrupted after writing it
                checkpoint.write(path, step, tree, loss, about or {})
        except OSError as error:
            text = f"The checkpoint of step {step} was not written, and those before it are whole: {error.strerror}"
            raise OSError(error.errno, text, str(path)) from error
        self._losses[step] = finite_json(loss)
        self._known.add(step)
        # Old checkpoints are removed last, when the new one is safely on the disk. The new one stays in any case: its
        # step is below the newest ones if it continues from an earlier checkpoint.
        # Only those that this writer knows: another folder may have taken the place of this one.
        for unwanted in self._known & set(steps(self.folder)) - self._kept() - {step}:
            self.check_folder()
            self._losses.pop(unwanted, None)
            remove_folder(_path(self.folder, unwanted))
        return path

    def _clear(self, path: Path, step: int) -> None:
        """Removes a checkpoint that is damaged or is to be replaced, and refuses to replace anything else."""
        if not os.path.lexists(path):
            return
        if not _is_checkpoint(path):
            remedy = "It is left as it is. Move it away, or name another folder."
            raise InputError("step", "a step whose folder can be made", f"{path}, which is no checkpoint", remedy)
        if step in self._losses:
            try:
                checkpoint.read(path, step)
            except DamagedCheckpoint:
                pass
            else:
                remedy = "Restore it and go on from there, or name another folder."
                raise InputError("step", "a step without a checkpoint", f"{step}, which {self.folder} has", remedy)
        remove_folder(path)

    def _kept(self) -> set[int]:
        """The newest checkpoints, and the one with the lowest loss."""
        kept = set(sorted(self._losses)[-self._keep :])
        judged = [(loss, step) for step, loss in self._losses.items() if loss is not None]
        if judged:
            _, best = min(judged)
            kept.add(best)
        return kept


class Restored(NamedTuple):
    """A checkpoint that was restored.

    Args:
        step: its number.
        tree: the pytree, in the structure that was asked for.
        loss: its loss, or None. With ``Checkpoints(best_by=…)``, it is this metric, or its negative if larger numbers
            are better.
        about: its further entries.
    """

    step: int
    tree: PyTree
    loss: float | None
    about: JsonObject


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    tree: object,
    *,
    loss: float | None = None,
    about: Mapping[str, object] | None = None,
    keep: int = 2,
) -> Path:
    """Saves a pytree of arrays, such as a ``TrainState``, as the checkpoint of a step.

    If the process is killed at any moment, the earlier checkpoints stay whole, and this one is either whole or absent.
    Only one process at a time can write to a folder.

    Args:
        folder: the folder of all checkpoints of a run; made if it does not exist.
        step: the number of the checkpoint. The folder must not have it yet. ``restore_checkpoint`` reads the largest
            number by default, so use another folder to continue from an earlier checkpoint.
        tree: arrays and random keys, in dicts, tuples, or any other pytree of JAX.
        loss: the checkpoint with the lowest loss is never removed.
        about: anything else that JSON can hold.
        keep: the number of newest checkpoints to keep.

    Returns:
        The folder of the checkpoint.

    Raises:
        InputError: for a tree that cannot be saved, and if another process writes to the folder.
        OSError: if it could not be written, for instance because the disk is full.

    >>> import tempfile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(folder, 1, {"w": numpy.ones(3)}, about={"seed": 0})
    ...     path.name, sorted(file.name for file in path.iterdir())
    ('0000000001', ['arrays.safetensors', 'manifest.json'])
    """
    path, number = check_new_folder("folder", folder), check_count("step", step, least=0, most=LARGEST_STEP)
    if loss is not None:
        loss = float(check_number("loss", loss, "a number", lambda number: True))
    if about is not None and not isinstance(about, Mapping):
        raise InputError("about", "a dict that JSON can hold", shown(about))
    with CheckpointWriter(path, keep) as writer:
        return writer.save(number, tree, loss=loss, about=about)


def restore_checkpoint(
    folder: str | os.PathLike[str], like: object, *, step: int | Literal["newest", "best"] = "newest", part: str = ""
) -> Restored:
    """Reads a checkpoint and verifies every bit of it. If the newest is damaged, it warns and reads the one before.

    Args:
        folder: the folder that was given to ``save_checkpoint`` or ``fit``.
        like: a pytree of the same structure, of arrays, or of shapes as ``jax.eval_shape`` gives them.
        step: ``"newest"``, ``"best"`` for the one with the lowest loss, or the number of a checkpoint.
        part: the path of a part of the saved tree, such as ``train_state/params`` of what ``fit`` saves. ``like`` is
            the structure of this part.

    Raises:
        DataError: if there is no good checkpoint, if it has a later version of the format, or if its structure is
            different. In the last case, the error lists the paths that differ.

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
    """Reads the newest good checkpoint, and warns about damaged ones. None if the folder has no checkpoints.

    Args:
        folder: of checkpoints.
        verify: checks the files that a checkpoint refers to, and raises ``DamagedCheckpoint``.

    Raises:
        DataError: if all are damaged.
    """
    damaged = []
    for step in reversed(steps(folder)):
        path = _path(folder, step)
        try:
            found = checkpoint.read(path, step)
            verify(found)
        except DamagedCheckpoint as error:
            if not os.path.lexists(path):  # the writer of the folder has removed it, after it saved a newer one
                return newest(folder, verify)
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
    """The numbers of the checkpoints in a folder, in ascending order."""
    return sorted(int(path.name) for path in folder.glob("*") if _has_step_name(path) and _is_checkpoint(path))


def _has_step_name(path: Path) -> bool:
    """Whether a name is the one that ``_path`` gives a step: no more zeros than needed, and no digits but 0 to 9."""
    return re.fullmatch("[0-9]{10,}", path.name) is not None and _path(path.parent, int(path.name)) == path


def _is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint, perhaps a damaged one, and not a file or folder of the user with such a name.

    Checkpoints are removed, so a folder counts only if it has both files of one, or one of them and nothing else.
    Hidden files do not count, since systems make some in every folder.
    """
    if os.path.islink(path):
        return False
    try:
        names = {name for name in os.listdir(path) if not name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return False
    files = {checkpoint.MANIFEST, checkpoint.ARRAYS}
    return bool(names) and (names <= files or files <= names)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}"


def _loss(folder: Path, step: int) -> float | None:
    """The loss of a checkpoint; None if it has none or is damaged."""
    try:
        return checkpoint.read_manifest(_path(folder, step))["loss"]
    except DamagedCheckpoint:
        return None
