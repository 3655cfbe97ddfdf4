"""Checkpoints: saving, restoring and removing them in a folder that has only one writer at a time.

A checkpoint is a folder with the arrays of a pytree, and a manifest with their checksums. The history of a run is the
metrics of its epochs: one row for each, appended once and verified when read. Each row ends with the SHA-256 of all
rows up to it. A checkpoint records the last one, which verifies all rows before it, and appending a row takes the same
time however long the run is. Every later checkpoint needs the rows, so there are two copies: a damaged copy is replaced
by the other one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import jax
import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, shortened
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_number, shown
from functional_nn.storage.arrays import (
    check_array,
    checksum,
    differences,
    form,
    key_types,
    named_arrays,
    tree_like,
    unpacked,
)
from functional_nn.storage.files import (
    MOST_BYTES_OF_ROWS,
    JsonObject,
    as_json,
    check_new_folder,
    check_path,
    finite_json,
    misfit,
    names_in,
    one_writer,
    parsed,
    read_file,
    remove_folder,
    signed_text,
    unlinked_file,
    write_folder_whole,
)

LARGEST_STEP = 2**63 - 1


class CheckpointWriter:
    """The only writer of a folder, as a context manager. It removes files that a killed writer left behind.

    Args:
        folder: made if it does not exist.
        keep: the number of newest checkpoints to keep. The one with the lowest loss is kept too.

    Raises:
        InputError: if another writer, in this process or another, uses the folder, or if it cannot be written to.
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
            stack.enter_context(one_writer("checkpoints", self.folder))
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
            if path.name not in names_in(self.folder):  # it is there if this call was interrupted after writing it
                write_checkpoint(path, step, tree, loss, about or {})
        except OSError as error:
            text = f"The checkpoint of step {step} was not written, and those before it are whole: {error.strerror}"
            raise OSError(error.errno, text, str(path)) from error
        self._losses[step] = finite_json(loss)
        self._known.add(step)
        # Old checkpoints are removed last, when the new one is safely on the disk. The new one stays in any case: its
        # step is below the newest ones if it continues from an earlier checkpoint.
        names = names_in(self.folder)
        for unwanted in self._known - self._kept() - {step}:
            self._losses.pop(unwanted, None)
            if (path_of_unwanted := _path(self.folder, unwanted)).name in names:
                remove_folder(path_of_unwanted)
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
                read_checkpoint(path, step)
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
        found = read_checkpoint(_path(folder, step), step)
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
            found = read_checkpoint(path, step)
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
    try:
        paths = [folder / name for name in names_in(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(path.name) for path in paths if _has_step_name(path) and _is_checkpoint(path))


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
        names = {name for name in names_in(path) if not name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return False
    files = {MANIFEST, ARRAYS}
    return bool(names) and (names <= files or files <= names)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}"


def _loss(folder: Path, step: int) -> float | None:
    """The loss of a checkpoint; None if it has none or is damaged."""
    try:
        return read_manifest(_path(folder, step))["loss"]
    except DamagedCheckpoint:
        return None


Tree = TypeVar("Tree")
Value = TypeVar("Value")

MANIFEST = "manifest.json"
ARRAYS = "arrays.safetensors"

ENTRIES = ("format", "version", "step", "loss", "about", "file", "tree")
"""The entries of a manifest, in their order."""

SCHEMA = {
    "step": int,
    "loss": (float, None),
    "about": dict,
    "file": {"bytes": int, "sha256": str},
    "tree": {...: {"form": str, "sha256": (str, None), "key": (str, None)}},
}
"""The schema of a manifest."""

VERSION = 2
"""The version of the format. The manifest of every version is a JSON object with the integer ``version``."""


class DamagedCheckpoint(DataError):
    """A checkpoint that differs from what was written: with flipped bits, cut short, or with a file missing."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and verified.

    Args:
        path: its folder.
        step: its number.
        loss: its loss, or None.
        about: further entries, as JSON values.
        arrays: the arrays by path. A random key is stored as its array of integers.
        forms: the type and shape of each array by path, and the types of nodes without arrays.
        key_types: the generator of each random key, by path.
    """

    path: Path
    step: int
    loss: float | None
    about: JsonObject
    arrays: dict[str, np.ndarray]
    forms: dict[str, str]
    key_types: dict[str, str]

    def tree(self, like: Tree, root: str = "") -> Tree:
        """The saved pytree, or the part of it under a path.

        Args:
            like: a pytree of the same structure, of arrays or shapes.
            root: the path of the part.

        Raises:
            DataError: if the structure, or the shape or type of an array, is different. The error lists the paths.
        """
        part = self._under(root) if root else self
        if different := differences(part.forms, forms(like)):
            raise DataError(str(self.path), "a tree of the same structure, shapes and types", different)
        tree = tree_like(like, part.arrays, str(self.path), part.key_types)
        # A manifest that fits may still be beside arrays that do not, if somebody made it.
        if different := differences(forms(tree), part.forms):
            raise DataError(str(self.path), "the arrays that its manifest lists", different)
        return tree

    def _under(self, root: str) -> Checkpoint:
        def below(named: Mapping[str, Value]) -> dict[str, Value]:
            return {path[len(root) + 1 :]: value for path, value in named.items() if trees.is_under(path, root)}

        return self._replace(arrays=below(self.arrays), forms=below(self.forms), key_types=below(self.key_types))


def write_checkpoint(path: Path, step: int, tree: object, loss: float | None, about: Mapping[str, object]) -> None:
    """Writes a whole checkpoint. If that fails, it raises ``OSError`` and leaves no files."""
    from safetensors.numpy import save

    arrays = named_arrays(tree)
    content = save(arrays)
    entries: dict[str, dict[str, str]] = {name: {"form": form} for name, form in forms(tree).items()}
    for name, array in arrays.items():
        entries[name]["sha256"] = checksum({name: array})
    for name, key_type in key_types(tree).items():
        entries[name]["key"] = key_type
    file = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "format": "functional_nn checkpoint",
        "version": VERSION,
        "step": step,
        "loss": loss,
        "about": as_json("about", dict(about)),
        "file": file,
        "tree": entries,
    }
    write_folder_whole(path, {ARRAYS: content, MANIFEST: signed_text(manifest).encode()})


def read_checkpoint(path: Path, step: int) -> Checkpoint:
    """Reads a checkpoint and verifies all of it.

    Raises:
        DamagedCheckpoint: if it differs from what was written.
        DataError: if it has another version of the format.
    """
    manifest = read_manifest(path)
    if manifest["step"] != step:
        raise DamagedCheckpoint(str(path), f"the checkpoint of step {step}", f"that of step {manifest['step']}")
    place = str(path / ARRAYS)
    try:
        content = read_file(path / ARRAYS, most=manifest["file"]["bytes"])
    except OSError as error:
        raise DamagedCheckpoint(place, "the arrays of a checkpoint", error.strerror) from None
    if len(content) != manifest["file"]["bytes"]:
        raise DamagedCheckpoint(place, f"{manifest['file']['bytes']} bytes", f"{len(content)}")
    try:
        arrays, _ = unpacked(path / ARRAYS, has_checksum=False)  # the manifest has the checksums
    except FileNotFoundError as error:  # a writer has removed the checkpoint since its bytes were read
        raise DamagedCheckpoint(place, "the arrays of a checkpoint", error.strerror) from None
    except DataError as error:
        raise DamagedCheckpoint(place, error.expected, error.given) from None
    entries = manifest["tree"]
    expected = {name: entry["sha256"] for name, entry in entries.items() if "sha256" in entry}
    wrong = [name for name in expected if name not in arrays or checksum({name: arrays[name]}) != expected[name]]
    if wrong or hashlib.sha256(content).hexdigest() != manifest["file"]["sha256"]:
        raise DamagedCheckpoint(place, "the bytes that were written", f"damage in {', '.join(wrong) or 'its header'}")
    found = {name: entry["form"] for name, entry in entries.items()}
    generators = {name: entry["key"] for name, entry in entries.items() if "key" in entry}
    return Checkpoint(path, step, manifest["loss"], manifest["about"], arrays, found, generators)


def read_manifest(path: Path) -> JsonObject:
    """Reads and verifies the manifest of a checkpoint. It raises the same errors as ``read_checkpoint``."""
    place = str(path / MANIFEST)
    try:
        content = read_file(path / MANIFEST)
        text, manifest = content.decode(), parsed(content)
    except OSError as error:
        raise DamagedCheckpoint(place, "the manifest of a checkpoint", error.strerror) from None
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(place, "a manifest as JSON", shortened(error)) from None
    if not isinstance(manifest, dict):
        raise DamagedCheckpoint(place, "a JSON object", type(manifest).__name__)
    version = manifest.get("version")
    if isinstance(version, int) and version != VERSION:
        remedy = "Use another folder, or use the version of functional_nn that wrote it."
        raise DataError(place, f"format version {VERSION}", f"version {shown(version)}", remedy)
    manifest.pop("sha256", None)
    # The same entries always give the same text. So this compares every byte, also spaces and the checksum.
    if text != signed_text(manifest) or tuple(manifest) != ENTRIES:
        raise DamagedCheckpoint(place, "the manifest that was written", "one that its checksum does not match")
    if found := misfit(manifest, SCHEMA):
        raise DamagedCheckpoint(place, "the manifest of a checkpoint", f"one with {found}")
    return manifest


def forms(tree: object) -> dict[str, str]:
    """The type and shape of each array by its path, and the type of each node without arrays."""

    def is_empty(node: object) -> bool:
        return not jax.tree.leaves(node)

    # JAX drops nodes without arrays. Here they count, since they tell two optimizers without a state of their own
    # apart.
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)
    named = {trees.path_of(path): node for path, node in nodes}
    return {path: _kind(node) if is_empty(node) else form(check_array(path, node)) for path, node in named.items()}


def _kind(node: object) -> str:
    """The type of a node without arrays, and of its parts, such as ``tuple(EmptyState(), dict())``."""
    parts: Iterable[object] = ()
    if isinstance(node, dict):
        parts = node.values()
    elif isinstance(node, tuple | list):
        parts = node
    return f"{type(node).__name__}({', '.join(_kind(part) for part in parts)})"


COPIES = ("history.bin", "history.copy.bin")
DIGEST_BYTES = 32
START = hashlib.sha256(b"functional_nn history").digest()
"""The digest before the first row."""


class History:
    """The rows in a folder of checkpoints. Only one process at a time writes to the folder.

    Args:
        folder: need not exist before the first row is added.
        columns: the numbers in a row; each is written as a float64.
    """

    def __init__(self, folder: Path, columns: int):
        self._files = [folder / name for name in COPIES]
        self._row = struct.Struct(f"<{columns}d")
        self._row_bytes = self._row.size + DIGEST_BYTES
        # The digests after 0, 1, 2, … rows.
        self._digests = [START]
        # The content that the files must start with before rows are added; None if they are known to have it.
        self._beginning: bytes | None = b""

    def read(self, rows: int, digest: str) -> list[tuple[float, ...]]:
        """Reads and verifies the first rows. ``extend`` can then add rows after them.

        Args:
            rows: the number of rows.
            digest: the digest that ``extend`` returned for the last of them.

        Raises:
            DamagedCheckpoint: if these rows are damaged or missing in both copies.
        """
        for path in self._files:
            content = b""
            with suppress(FileNotFoundError):
                content = read_file(path, MOST_BYTES_OF_ROWS)[: rows * self._row_bytes]
            read, digests = self._verified(content)
            if len(read) == rows and digests[-1].hex() == digest:
                self._digests, self._beginning = digests, content
                return read
        place = " and ".join(str(path) for path in self._files)
        raise DamagedCheckpoint(place, f"the {rows} rows that were written", "other ones, or fewer")

    def extend(self, rows: Sequence[Sequence[float]], after: int) -> str:
        """Writes rows to both copies, and returns the digest of all rows in hexadecimal digits.

        Args:
            rows: what to write.
            after: the number of rows before them, which were read or written here. The rows after these are replaced:
                a run that resumes from an earlier checkpoint writes them again, and so does a call that was
                interrupted.
        """
        del self._digests[after + 1 :]
        added = b""
        for row in rows:
            packed = self._row.pack(*row)
            self._digests.append(hashlib.sha256(self._digests[-1] + packed).digest())
            added += packed + self._digests[-1]
        for path in self._files:
            # One copy after the other, each until it is on the disk: a crash damages one of them at most.
            with open(unlinked_file(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
                # Without this, a file that was cut or removed during the run would get zeros in place of earlier rows.
                if self._beginning is None and os.fstat(file.fileno()).st_size < after * self._row_bytes:
                    raise OSError(errno.EIO, f"a file of {after} rows or more was cut or removed", str(path))
                # A damaged copy gets the verified rows of the other one.
                if self._beginning is not None and file.read(len(self._beginning)) != self._beginning:
                    file.seek(0)
                    file.write(self._beginning)
                file.seek(after * self._row_bytes)
                file.write(added)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        self._beginning = None
        return self._digests[-1].hex()

    def _verified(self, content: bytes) -> tuple[list[tuple[float, ...]], list[bytes]]:
        """The rows before the first damaged one, and the digests after 0, 1, 2, … of them."""
        read, digests = [], [START]
        for start in range(0, len(content), self._row_bytes):
            packed = content[start : start + self._row.size]
            found = content[start + self._row.size : start + self._row_bytes]
            if hashlib.sha256(digests[-1] + packed).digest() != found:
                break
            digests.append(found)
            read.append(self._row.unpack(packed))
        return read, digests
