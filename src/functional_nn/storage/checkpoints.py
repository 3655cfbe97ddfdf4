"""Checkpoints: saving, restoring and removing them in a folder that has only one writer at a time.

A checkpoint is a safetensors file with the arrays of a pytree. A text in its header, the manifest, says what they are.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import jax
import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, check, check_data, reading
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_number
from functional_nn.storage import arrays, files

LARGEST_STEP = 2**63 - 1

KEEP = 2
"""The number of newest checkpoints that are kept if nothing else is said."""

MOST_DAMAGED = 100
"""After this number of damaged checkpoints, no other one is tried. A folder from a stranger may have any number."""


class CheckpointWriter:
    """The only writer of a folder, as a context manager. It removes files that a killed writer left behind.

    Args:
        folder: made if it does not exist.
        keep: the number of newest checkpoints to keep. The one with the lowest loss is kept too.

    Raises:
        InputError: if another writer, in this process or another, uses the folder, or if it cannot be written to.
    """

    def __init__(self, folder: Path, keep: int = KEEP):
        self.folder, self._keep = folder, check_count("keep", keep)
        self._losses: dict[int, float | None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> CheckpointWriter:
        # If reading fails, the inner stack gives the lock back. Otherwise the lock is kept until __exit__.
        with ExitStack() as stack:
            stack.enter_context(files.one_writer("checkpoints", self.folder))
            files.remove_leftovers(self.folder)
            self._losses = {step: _loss(self.folder, step) for step in steps(self.folder)}
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
        """Writes a checkpoint, in place of one of this step, and then removes those that are not kept.

        If Ctrl-C interrupted a call, the same call completes it.

        Raises:
            OSError: if it could not be written; the other checkpoints are unchanged.
        """
        path = _path(self.folder, step)
        try:
            write_checkpoint(path, step, tree, loss, about or {})
            files.synchronize(self.folder)  # its name is on the disk, too, before others are removed
        except OSError as error:
            text = f"The checkpoint of step {step} was not written, and those before it are whole: {error.strerror}"
            raise OSError(error.errno, text, str(path)) from error
        self._losses[step] = files.finite_json(loss)
        # The new one stays in any case: its step is below the newest ones if it continues from an earlier checkpoint.
        for unwanted in {*steps(self.folder)} - self._kept() - {step}:
            files.remove_file(_path(self.folder, unwanted))
            self._losses.pop(unwanted, None)
        return path

    def _kept(self) -> set[int]:
        """The newest checkpoints, and the one with the lowest loss."""
        kept = set(sorted(self._losses)[-self._keep :])
        judged = [(loss, step) for step, loss in self._losses.items() if loss is not None]
        if judged:
            kept.add(min(judged)[1])
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
    about: files.JsonObject


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    tree: object,
    *,
    loss: float | None = None,
    about: Mapping[str, object] | None = None,
    keep: int = KEEP,
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
        The file of the checkpoint.

    Raises:
        InputError: for a tree that cannot be saved, and if another process writes to the folder.
        OSError: if it could not be written, for instance because the disk is full.

    >>> import tempfile, numpy, functional_nn as fnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = fnn.storage.save_checkpoint(folder, 1, {"w": numpy.ones(3)}, about={"seed": 0})
    ...     path.name
    '0000000001.checkpoint.safetensors'
    """
    path, number = files.check_new_folder("folder", folder), check_count("step", step, least=0, most=LARGEST_STEP)
    if loss is not None:
        loss = float(check_number("loss", loss, "a number", lambda number: True))
    check("about", about, "a dict that JSON can hold", about is None or isinstance(about, Mapping))
    with CheckpointWriter(path, keep) as writer:
        if number in steps(path):
            with suppress(DamagedCheckpoint):  # a damaged one is replaced
                read_checkpoint(_path(path, number), number)
                remedy = "Restore it and go on from there, or name another folder."
                raise InputError("step", "a step without a checkpoint", f"{step}, which {path} has", remedy)
        return writer.save(number, tree, loss=loss, about=about)


def restore_checkpoint(
    folder: str | os.PathLike[str], like: object, *, step: int | Literal["newest", "best"] = "newest", part: str = ""
) -> Restored:
    """Reads a checkpoint and verifies every bit of it.

    If the newest is damaged, it warns and reads the one before. If the best may be a damaged one, it warns and reads
    the best of the others.

    Args:
        folder: the folder that was given to ``save_checkpoint`` or ``fit``.
        like: a pytree of the same structure, of arrays, or of shapes as ``jax.eval_shape`` gives them.
        step: ``"newest"``, ``"best"`` for the one with the lowest loss, or the number of a checkpoint.
        part: the path of a part of the saved tree, such as ``train_state/params`` of what ``fit`` saves. ``like`` is
            the structure of this part.

    Raises:
        DataError: if there is no good checkpoint, if it has a later version of the format, or if its structure is
            different. In the last case, the error lists the paths that differ.

    >>> import tempfile, numpy, functional_nn as fnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = fnn.storage.save_checkpoint(folder, 7, {"w": numpy.ones(3, "float32")})
    ...     restored = fnn.storage.restore_checkpoint(folder, {"w": numpy.zeros(3, "float32")})
    >>> restored.step, restored.tree
    (7, {'w': Array([1., 1., 1.], dtype=float32)})
    """
    folder = files.check_lasting_path("folder", folder)
    if isinstance(step, str):
        check("step", step, "newest, best or the number of a checkpoint", step in ("newest", "best"))
    else:
        step = check_count("step", step, least=0, most=LARGEST_STEP)
    found = None
    with suppress(FileNotFoundError, NotADirectoryError), files.kept_open(folder):
        if isinstance(step, str):
            found = newest(folder) if step == "newest" else best(folder)
        else:
            found = read_checkpoint(_path(folder, step), step)
    if found is None:
        remedy = "Name the folder that they were saved in."
        raise DataError(str(folder), "a folder of checkpoints", "none in it", remedy)
    return Restored(found.step, found.tree(like, part), found.loss, found.about)


def newest(folder: Path, most_bytes: float | None = None) -> Checkpoint | None:
    """Reads the newest good checkpoint, and warns about damaged ones. None if the folder has no checkpoints.

    Args:
        folder: the folder.
        most_bytes: a larger checkpoint counts as damaged.

    Raises:
        DataError: if all are damaged.
    """
    return _first_good(folder, lambda: steps(folder)[::-1], most_bytes)


def best(folder: Path) -> Checkpoint | None:
    """Reads the good checkpoint with the lowest loss, the earliest of equal ones, and warns about damaged ones.

    Raises:
        DataError: if all are damaged, or none has a loss.
    """

    def by_loss() -> list[int]:
        # One whose loss cannot be read may be the best. So it is tried first, and the warning names it.
        losses = {step: _loss(folder, step, if_damaged=-math.inf) for step in steps(folder)}
        judged = {step: loss for step, loss in losses.items() if loss is not None}
        if losses and not judged:
            raise DataError(str(folder), "a checkpoint with a loss", "none", "Give save_checkpoint the loss.")
        return sorted(judged, key=lambda step: judged[step])

    return _first_good(folder, by_loss)


def _first_good(folder: Path, in_order: Callable[[], list[int]], most_bytes: float | None = None) -> Checkpoint | None:
    """Reads the first good checkpoint in an order of steps, and warns about damaged ones before it.

    The folder is kept open meanwhile, since a stranger may put a link to another one in its place.
    """
    damaged = []
    with suppress(FileNotFoundError, NotADirectoryError), files.kept_open(folder):
        for step in in_order()[:MOST_DAMAGED]:
            path = _path(folder, step)
            try:
                found = read_checkpoint(path, step, most_bytes)
            except DamagedCheckpoint as error:
                is_missing = isinstance(error.__cause__, FileNotFoundError)
                if is_missing and path.name not in files.names_in(folder):  # its writer saved a newer one, removed it
                    return _first_good(folder, in_order, most_bytes)
                damaged.append(str(error).removesuffix("."))
                continue
            if damaged:
                text = f"The checkpoint of step {step} is used instead of a damaged one. {arrays.listed(damaged)}."
                warnings.warn(text, stacklevel=4)
            return found
    if damaged:
        those = "damaged ones only" if len(damaged) < MOST_DAMAGED else "damaged ones, and no other was tried"
        raise DataError(str(folder), "a good checkpoint", f"{those}: {arrays.listed(damaged)}")
    return None


def steps(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, in ascending order."""
    try:
        names = set(files.names_in(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = [int(digits) for digits in (name.removesuffix(ENDING) for name in names) if digits.isdecimal()]
    # The name of a step has no more zeros than needed, and no digits but 0 to 9.
    return sorted(number for number in set(numbers) if _path(folder, number).name in names)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}{ENDING}"


def _loss(folder: Path, step: int, if_damaged: float | None = None) -> float | None:
    """The loss of a checkpoint; None if it has none."""
    path = _path(folder, step)
    with suppress(DamagedCheckpoint):
        with reading(path, "a checkpoint", errors=arrays.DAMAGES, kind=DamagedCheckpoint):
            texts = arrays.texts_in(path)
        return _manifest(path, texts).get("loss")
    return if_damaged


Tree = TypeVar("Tree")
Value = TypeVar("Value")

ENDING = ".checkpoint.safetensors"
"""The ending of a checkpoint's name."""

MANIFEST = "manifest"
"""The text in the header that says what the arrays are: a JSON object with a checksum."""

SCHEMA = {
    "step": int,
    "loss": (float, None),
    "about": dict,
    "tree": {...: {"form": str, "key": (str, None)}},
}
"""The schema of a manifest."""

VERSION = 3
"""The version of the format. The manifest of every version is a JSON object with the integer ``version``."""


class DamagedCheckpoint(DataError):
    """A checkpoint that differs from what was written: with flipped bits, cut short, or missing."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified.

    Args:
        path: its file.
        step: its number.
        loss: its loss, or None.
        about: further entries, as JSON values.
        arrays: the arrays by path. A random key is stored as its array of integers.
        entries: by path, the type and shape of each array and, of a random key, its generator. Nodes without arrays
            have their types.
    """

    path: Path
    step: int
    loss: float | None
    about: files.JsonObject
    arrays: dict[str, np.ndarray]
    entries: dict[str, files.JsonObject]

    def tree(self, like: Tree, root: str = "") -> Tree:
        """The saved pytree, or the part of it under a path.

        Args:
            like: a pytree of the same structure, of arrays or shapes.
            root: the path of the part.

        Raises:
            DataError: if the structure, or the shape or type of an array, is different. The error lists the paths.
        """

        def below(named: dict[str, Value]) -> dict[str, Value]:
            under = {path: value for path, value in named.items() if trees.is_under(path, root)}
            return {path[len(root) + 1 :]: value for path, value in under.items()} if root else named

        entries = below(self.entries)
        saved = {path: entry["form"] for path, entry in entries.items()}
        generators = {path: entry["key"] for path, entry in entries.items() if entry.get("key")}
        if different := arrays.differences(saved, forms(like)):
            raise DataError(str(self.path), "a tree of the same structure, shapes and types", different)
        tree = arrays.tree_like(like, below(self.arrays), str(self.path), generators)
        # A manifest that fits may still be beside arrays that do not, if somebody made it.
        if different := arrays.differences(forms(tree), saved):
            raise DataError(str(self.path), "the arrays that its manifest lists", different)
        return tree


def write_checkpoint(path: Path, step: int, tree: object, loss: float | None, about: Mapping[str, object]) -> None:
    """Writes a whole checkpoint. If that fails, it raises ``OSError`` and leaves what was there."""
    entries = {name: {"form": form} for name, form in forms(tree).items()}
    for name, key_type in arrays.key_types(tree).items():
        entries[name]["key"] = key_type
    about = files.as_json("about", dict(about))
    manifest = {"version": VERSION, "step": step, "loss": loss, "about": about, "tree": entries}
    files.write_whole(path, arrays.packed(arrays.named_arrays(tree), {MANIFEST: files.signed_text(manifest)}))


def read_checkpoint(path: Path, step: int | None = None, most_bytes: float | None = None) -> Checkpoint:
    """Reads a checkpoint and verifies all of it, also its step if it is given.

    Raises:
        DamagedCheckpoint: if it differs from what was written, or has more bytes.
        DataError: if it has another version of the format.
    """
    try:
        saved, texts = arrays.unpacked(path, most_bytes=most_bytes)
    except DataError as error:
        raise DamagedCheckpoint(str(path), error.expected, error.given) from error.__cause__
    manifest = _manifest(path, texts)
    if step not in (None, manifest["step"]):
        raise DamagedCheckpoint(str(path), f"the checkpoint of step {step}", f"that of step {manifest['step']}")
    return Checkpoint(path, manifest["step"], manifest.get("loss"), manifest["about"], saved, manifest["tree"])


def _manifest(path: Path, texts: Mapping[str, str]) -> files.JsonObject:
    """The manifest of a checkpoint. It raises the same errors as ``read_checkpoint``."""
    expected = "a checkpoint as it was written"
    with reading(path, expected, errors=(ValueError, LookupError, RecursionError), kind=DamagedCheckpoint):
        manifest = files.read_signed(texts[MANIFEST].encode())
    version = manifest.get("version")
    remedy = "Use another folder, or use the version of functional_nn that wrote it."
    is_known = version == VERSION or not isinstance(version, int)
    check_data(str(path), version, f"version {VERSION} of the format", is_known, remedy)
    with reading(path, expected, kind=DamagedCheckpoint):
        files.check_fits(manifest, SCHEMA)
    return manifest


def forms(tree: object) -> dict[str, str]:
    """The type and shape of each array by its path, and the type of each node without arrays."""

    def is_empty(node: object) -> bool:
        return not jax.tree.leaves(node)

    # JAX drops nodes without arrays. Here they count, since they tell two optimizers without a state of their own
    # apart.
    return {
        path: _kind(node) if is_empty(node) else arrays.form(arrays.check_array(path, node))
        for path, node in trees.flatten(tree, is_empty).items()
    }


def _kind(node: object) -> str:
    """The type of a node without arrays, and of its parts, such as ``tuple(EmptyState(), dict())``."""
    parts: Iterable[object] = ()
    if isinstance(node, dict):
        parts = node.values()
    elif isinstance(node, tuple | list):
        parts = node
    return f"{type(node).__name__}({', '.join(_kind(part) for part in parts)})"
