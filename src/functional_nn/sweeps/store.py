"""A sweep on disk: finished chunks, each one file, so that a sweep that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from functional_nn.checkpoints.arrays import packed, unpacked
from functional_nn.errors import InputError
from functional_nn.files import one_writer, remove_leftovers, write_whole
from functional_nn.sweeps.chunks import Course

SWEEP, CHUNKS = "sweep.json", "chunks"
CURVES = ("train_loss", "test_loss", "test_accuracy")


class Store:
    """The folder of a sweep: ``sweep.json`` says which sweep it is, ``chunks/`` holds what was finished.

    As a context manager it is the folder's one writer, and cleans up after one that was killed.

    Raises:
        InputError: where the folder cannot be written to, another process writes to it, or it holds another sweep.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        self._identity = identity
        self._fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._stack = ExitStack()

    def __enter__(self) -> Store:
        with ExitStack() as stack:
            stack.enter_context(one_writer("out", self.folder))
            self._begin(self.folder / SWEEP)
            remove_leftovers(self.folder / CHUNKS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def _begin(self, path: Path) -> None:
        """Writes which sweep it is, or sees that it is this one."""
        identity = self._identity
        try:
            (self.folder / CHUNKS).mkdir(exist_ok=True)
            known = json.loads(path.read_text("utf-8")) if path.exists() else None
            if known is None:
                write_whole(path, json.dumps({"fingerprint": self._fingerprint, **identity}, indent=1))
        except OSError as error:
            raise InputError("out", "a folder that can be written to", f"{path} ({error.strerror})") from None
        except ValueError as error:
            raise InputError("out", "a sweep's folder", f"{path}, which is damaged ({error})") from None
        if known is not None and known.get("fingerprint") != self._fingerprint:
            different = [name for name in identity if known.get(name) != json.loads(json.dumps(identity[name]))]
            given = f"{self.folder}, which differs in {', '.join(different) or SWEEP}"
            raise InputError("out", "a new folder, or one of this very sweep", given, "Name another folder.")

    def save(self, name: str, courses: Sequence[Course], kept: Sequence[Any]) -> None:
        """Writes a chunk whole: how its members fared, and a pytree of arrays for each."""
        arrays, members = {}, []
        for place, (course, tree) in enumerate(zip(courses, kept, strict=True)):
            members.append({"number": course.number, "status": course.status, "bad_step": course.bad_step})
            arrays |= {f"{place}/{curve}": np.asarray(getattr(course, curve), np.float64) for curve in CURVES}
            leaves = jax.tree.leaves(tree)
            arrays |= {f"{place}/{i}": np.asarray(leaf, order="C") for i, leaf in enumerate(leaves)}
        about = {"fingerprint": self._fingerprint, "members": json.dumps(members)}
        write_whole(self._path(name), packed(arrays, about))

    def load(self, name: str, numbers: Sequence[int], like: Any) -> tuple[list[Course], list[Any]] | None:
        """What ``save`` wrote, with pytrees like the one given; None where there is nothing, or nothing whole."""
        try:
            arrays, about = unpacked(self._path(name))
            members = json.loads(about["members"])
            own = about["fingerprint"] == self._fingerprint
        except (OSError, ValueError, KeyError):
            return None
        leaves, structure = jax.tree.flatten(like)
        if not own or [member["number"] for member in members] != list(numbers):
            return None
        if any(f"{place}/{i}" not in arrays for place in range(len(members)) for i in range(len(leaves))):
            return None
        courses = [
            Course(**member, **{curve: arrays[f"{place}/{curve}"].tolist() for curve in CURVES})
            for place, member in enumerate(members)
        ]
        kept = [
            jax.tree.unflatten(structure, [arrays[f"{place}/{i}"] for i in range(len(leaves))])
            for place in range(len(members))
        ]
        return courses, kept

    def _path(self, name: str) -> Path:
        return self.folder / CHUNKS / f"{name}.safetensors"
