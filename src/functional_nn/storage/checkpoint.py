"""Reading and writing a checkpoint: a folder with the arrays of a pytree, and a manifest with their checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import DataError, shortened
from functional_nn.core.validation import shown
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
from functional_nn.storage.files import JsonObject, as_json, read_file, signed_text, write_folder_whole
from functional_nn.storage.schema import misfit

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


def write(path: Path, step: int, tree: object, loss: float | None, about: Mapping[str, object]) -> None:
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


def read(path: Path, step: int) -> Checkpoint:
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
    """Reads and verifies the manifest of a checkpoint. It raises the same errors as ``read``."""
    place = str(path / MANIFEST)
    try:
        text = read_file(path / MANIFEST).decode()
        manifest = json.loads(text)
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
