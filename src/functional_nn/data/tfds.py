"""Loading of image-classification sets of TensorFlow Datasets (TFDS), without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from functional_nn.core.errors import DataError, shortened
from functional_nn.data.cache import cached
from functional_nn.data.dataset import Dataset, check_name, make_dataset
from functional_nn.data.tfds_builder import Builder, ImageFeatures, image_features, quiet
from functional_nn.data.tfds_download import download, unavailable
from functional_nn.storage.files import JsonValue, regular_file

BATCH = 1000
"""Examples that are read at a time."""


def load_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads an image-classification set of TFDS, and downloads it if necessary.

    Args:
        name: TFDS's name of it, such as ``mnist`` or ``cifar10``.
        data_dir: a folder with the prepared set, which is only read; None for TFDS's own (``$TFDS_DATA_DIR``,
            else ``~/tensorflow_datasets``), where a missing set is prepared.

    Returns:
        The data set; its test split is TFDS's ``test`` or, if there is none, ``validation``. The decoded
        arrays are kept in the cache.

    Raises:
        DataError: if the set is unknown, cannot be downloaded, or is not images of one size with a label each.
    """
    check_name(name)
    if data_dir is not None:
        folder = find_prepared(name, Path(data_dir))
        if folder is None:
            raise unavailable(name, f"neither IDX files nor a prepared TFDS set in {data_dir}")
    else:
        folder = find_prepared(name, default_folder()) or download(name, default_folder())
    return cached(name, _fingerprint(folder), lambda: _read(name, folder))


def default_folder() -> Path:
    """The folder of prepared sets if no other is given."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


@quiet()
def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Finds the newest prepared version of a set in a TFDS folder.

    Args:
        name: TFDS's name of it.
        data_dir: TFDS's folder, with ``<name>/<version>`` in it, or that innermost folder itself.

    Returns:
        The folder that holds ``dataset_info.json``, or None.

    Raises:
        DataError: if there is one but it is damaged.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    if (data_dir / "dataset_info.json").is_file():
        with _damage_as_data_error(data_dir):
            _check_features(data_dir)
        return data_dir
    if not name.isidentifier():
        return None
    with _damage_as_data_error(data_dir / name):
        _check_features(data_dir / name)
        try:
            return Path(read_only_builder.builder_from_files(name, data_dir=str(data_dir)).data_path)
        except registered.DatasetNotFoundError:
            return None


@quiet()
def _read(name: str, folder: Path) -> Dataset:
    """Reads a prepared set of TFDS and decodes its images."""
    import tensorflow_datasets as tfds

    with _damage_as_data_error(folder):
        builder: Builder = tfds.builder_from_directory(str(folder))
        if builder.name != name:
            raise DataError(str(folder), f"the prepared set {name}", shortened(builder.name))
        splits = builder.info.splits
        test = next((split for split in ("test", "validation") if split in splits), None)
        features = image_features(name, builder)
        if "train" not in splits or test is None:
            given = f"only {shortened(', '.join(splits))}"
            raise DataError(str(folder), "a split train and one of test, validation", given)
        train_images, train_labels = _read_split(folder, builder, "train", features)
        test_images, test_labels = _read_split(folder, builder, test, features)
    source = f"TensorFlow Datasets {builder.info.full_name}, splits train and {test}"
    arrays = train_images, train_labels, test_images, test_labels
    return make_dataset(name, *arrays, classes=features.classes, source=source)


def _check_features(folder: Path) -> None:
    """Requires features of TFDS itself, in all versions of a set.

    TFDS imports the module of each class that ``features.json`` names. The file may come from a stranger, and importing
    a module runs its code.
    """
    # TFDS takes the name of a configuration from this file. A path in its place would lead it to other folders.
    default = folder / ".config" / "metadata.json"
    if default.exists():
        with open(default, "rb", opener=regular_file) as file:
            name = json.loads(file.read()).get("default_config_name", "")
        if os.path.basename(name) != name or name in (".", ".."):
            raise DataError(str(default), "the name of a configuration", shortened(name))
    # A set is <name>/<version> or <name>/<configuration>/<version>. This pattern also follows links, as TFDS does.
    for path in (path for depth in range(3) for path in folder.glob("*/" * depth + "features.json")):
        with open(path, "rb", opener=regular_file) as file:
            names = _class_names(json.loads(file.read()))
        if foreign := [name for name in names if not name.startswith("tensorflow_datasets.")]:
            raise DataError(str(path), "features of TFDS itself", shortened(foreign[0]))


def _class_names(value: JsonValue) -> Iterator[str]:
    """The names of classes in ``features.json``, also in a text that is JSON itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            yield from _class_names(json.loads(value))
    elif isinstance(value, list):
        for entry in value:
            yield from _class_names(entry)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name in ("type", "pythonClassName", "python_class_name") and isinstance(entry, str):
                yield entry
            else:
                yield from _class_names(entry)


def _read_split(folder: Path, builder: Builder, split: str, features: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
    """The images and the labels of one split, as two arrays."""
    number = builder.info.splits[split].num_examples
    images, labels = np.empty(0, np.uint8), np.empty(number, np.int32)
    count = 0
    for example in _examples(folder, builder, split):
        image = np.asarray(example[features.image_key])
        # The first image shows the shape and type of all.
        if count == 0:
            images = np.empty((number, *image.shape), image.dtype)
        elif image.shape != images.shape[1:]:
            expected = f"images of one size, {images.shape[1:]} as the first"
            raise DataError(f"{folder}, {split} image {count}", expected, image.shape)
        images[count], labels[count] = image, example[features.label_key]
        count += 1
    if count != number:
        raise DataError(f"{folder}, {split}", f"{number} images", count)
    return images, labels


def _examples(folder: Path, builder: Builder, split: str) -> Iterator[Mapping[str, ArrayLike]]:
    """The decoded examples of one split."""
    import tensorflow_datasets as tfds

    file_format = builder.info.file_format.value
    if file_format == "array_record":
        source = builder.as_data_source(split=split)
        # Reading examples one by one would take twice as long.
        for start in range(0, len(source), BATCH):
            yield from source.__getitems__(range(start, min(start + BATCH, len(source))))
    elif file_format == "tfrecord" and find_spec("tensorflow"):
        yield from tfds.as_numpy(builder.as_dataset(split=split))
    else:
        remedy = "Prepare it with file_format='array_record', or pip install tensorflow to read tfrecord."
        raise DataError(str(folder), "the file format array_record", file_format, remedy)


@contextmanager
def _damage_as_data_error(folder: Path) -> Iterator[None]:
    """Turns any error that TFDS raises for a damaged folder into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        remedy = "Delete the folder and prepare it again."
        raise DataError(str(folder), "a prepared TFDS set that can be read", f"“{shortened(error)}”", remedy) from error


def _fingerprint(folder: Path) -> str:
    """A checksum of a prepared set's files and their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
