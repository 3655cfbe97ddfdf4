"""Decoded data sets kept between runs: IDX files with a manifest of checksums, checked on every reading."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.idx import read_idx, write_idx
from functional_nn.errors import DataError
from functional_nn.files import cache_folder

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MANIFEST = "manifest.json"


def datasets_folder() -> Path:
    """Where decoded data sets are kept; safe to delete."""
    return cache_folder() / "datasets"


def cached(name: str, fingerprint: str, read: Callable[[], Dataset]) -> Dataset:
    """Takes a data set from the cache, or reads it and keeps it there.

    Args:
        name: the data set's name.
        fingerprint: a checksum of what ``read`` reads, so that a change of that is never missed.
        read: reads the data set itself.

    Returns:
        The data set. A damaged copy is named in a warning and made again; a cache that cannot be written is
        not used.

    Raises:
        DataError: what ``read`` raises.
    """
    folder = datasets_folder() / f"{name}-{fingerprint[:16]}"
    if folder.is_dir():
        try:
            return _read(folder)
        except (DataError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"The cached data set {folder} is damaged and made again: {error}", stacklevel=2)
            shutil.rmtree(folder, ignore_errors=True)
    dataset = read()
    with contextlib.suppress(OSError):
        _write(folder, dataset)
    return dataset


def _read(folder: Path) -> Dataset:
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    for array in ARRAYS:
        expected, given = manifest["sha256"][array], _sha256(folder / array)
        if given != expected:
            raise DataError(str(folder / array), f"the SHA-256 {expected}", given)
    arrays = [read_idx(folder / array) for array in ARRAYS]
    return make_dataset(manifest["name"], *arrays, classes=manifest["classes"], source=manifest["source"])


def _write(folder: Path, dataset: Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        complete = Path(temporary) / folder.name
        complete.mkdir()
        for array in ARRAYS:
            write_idx(complete / array, getattr(dataset, array))
        manifest = {
            "name": dataset.name,
            "classes": dataset.classes,
            "source": dataset.source,
            "sha256": {array: _sha256(complete / array) for array in ARRAYS},
        }
        (complete / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
        complete.rename(folder)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
