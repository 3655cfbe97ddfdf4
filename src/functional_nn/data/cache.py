"""Cache of decoded data sets, as IDX files with checksums that are verified whenever a set is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from functional_nn.core.errors import DataError, shortened
from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.idx import read_idx, write_idx
from functional_nn.storage.cache_folder import cache_folder
from functional_nn.storage.files import checksum_of

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MANIFEST = "manifest.json"
VERSION = 1
"""The version of the manifest's format. Data sets of other versions are made again."""


def datasets_folder() -> Path | None:
    """The folder of decoded data sets, which is safe to delete; None if there is no safe cache folder."""
    return cache_folder("datasets")


def cached(name: str, fingerprint: str, read: Callable[[], Dataset]) -> Dataset:
    """Reads a data set from the cache. If it is not there, ``read`` reads it, and it is added to the cache.

    Args:
        name: the data set's name.
        fingerprint: a checksum of the files that ``read`` reads, so that a change of them is noticed.
        read: reads the data set itself.

    Returns:
        The data set. A damaged copy is named in a warning and made again. A cache that is not safe, or cannot be
        written to, is not used.

    Raises:
        DataError: if ``read`` raises it.
    """
    datasets = datasets_folder()
    if datasets is None:
        return read()
    folder = datasets / f"{name}-{fingerprint[:16]}"
    if folder.is_dir():
        try:
            found = _read(folder)
        except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            warnings.warn(f"The cached data set {folder} is damaged and made again: {error}", stacklevel=2)
            found = None
        if found is not None:
            return found
        shutil.rmtree(folder, ignore_errors=True)
    dataset = read()
    with contextlib.suppress(OSError):
        _write(folder, dataset)
    return dataset


def _read(folder: Path) -> Dataset | None:
    """Reads a data set and verifies all checksums; None if the manifest has another format version.

    Raises:
        DataError: for a damaged file. A damaged manifest may lead to other errors.
    """
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    if manifest.get("version") != VERSION:
        return None
    about = manifest["about"]
    _check_sha256(folder / MANIFEST, manifest["sha256"], _sha256_of_json(about))
    for array in ARRAYS:
        _check_sha256(folder / array, about["sha256"][array], checksum_of(folder / array))
    arrays = [read_idx(folder / array) for array in ARRAYS]
    return make_dataset(about["name"], *arrays, classes=about["classes"], source=about["source"])


def _write(folder: Path, dataset: Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        complete = Path(temporary) / folder.name
        complete.mkdir()
        for array in ARRAYS:
            write_idx(complete / array, getattr(dataset, array))
        about = {
            "name": dataset.name,
            "classes": dataset.classes,
            "source": dataset.source,
            "sha256": {array: checksum_of(complete / array) for array in ARRAYS},
        }
        manifest = {"version": VERSION, "about": about, "sha256": _sha256_of_json(about)}
        (complete / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
        # The folder gets its name when it is complete. If another process was faster, this raises an OSError, which
        # ``cached`` ignores.
        complete.rename(folder)


def _check_sha256(path: Path, expected: object, given: str) -> None:
    if given != expected:
        raise DataError(str(path), f"the SHA-256 {shortened(expected)}", given)


def _sha256_of_json(value: object) -> str:
    """The checksum of a value that JSON can hold. The order of names has no effect."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
