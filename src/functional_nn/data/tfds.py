"""Image-classification sets of TensorFlow Datasets (TFDS), prepared and read without TensorFlow."""

from __future__ import annotations

import difflib
import hashlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from functional_nn.core.errors import DataError, shortened, suggest
from functional_nn.data.cache import cached
from functional_nn.data.dataset import Dataset, check_name, make_dataset
from functional_nn.data.idx import read_idx

NAMES = ("mnist5k", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")
"""The data sets worth listing; any image-classification set of TFDS can be named."""

IDX_NAMES = tuple(
    f"{split}-{content}-ubyte.gz" for split in ("train", "t10k") for content in ("images-idx3", "labels-idx1")
)
HOME_PAGE = "https://www.tensorflow.org/datasets"
BATCH = 1000


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's messages and the warnings of what it imports from the user; its progress bars stay."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns whatever TFDS raises over a damaged folder into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        remedy = "Delete the folder and prepare it again."
        raise DataError(str(folder), "a prepared TFDS set that can be read", f"“{shortened(error)}”", remedy) from error


def load_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads an image-classification set of TFDS, downloading it if need be.

    Args:
        name: TFDS's name of it, such as ``mnist`` or ``cifar10``.
        data_dir: a folder with the prepared set, which is only read; None for TFDS's own (``$TFDS_DATA_DIR``,
            else ``~/tensorflow_datasets``), where a missing set is prepared.

    Returns:
        The data set; its test split is TFDS's ``test`` or, for want of one, ``validation``. The decoded
        arrays are kept in the cache.

    Raises:
        DataError: if the set is unknown, cannot be had, or is not images of one size with a label each.
    """
    check_name(name)
    if data_dir is not None:
        folder = find_prepared(name, Path(data_dir))
        if folder is None:
            raise unavailable(name, f"neither IDX files nor a prepared TFDS set in {data_dir}")
    else:
        folder = find_prepared(name, default_folder()) or _download(name, default_folder())
    return cached(name, _fingerprint(folder), lambda: _read(name, folder))


def default_folder() -> Path:
    """Where TFDS keeps prepared sets when nothing else is said."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")))


def unavailable(name: str, given: str) -> DataError:
    """The error for a data set that cannot be had, with the ways to get it."""
    here = "use the embedded mnist5k, which needs neither"
    if name == "fashion_mnist":
        here = f"install Debian's package (apt install dataset-fashion-mnist), or {here}"
    return DataError(
        f"data set {name}",
        "its files or a network to download them",
        given,
        f"Three ways to get it: (1) connect to the network and run again: TFDS downloads it (some sets also "
        f"need pip install tensorflow to be prepared); (2) give data_dir (--data-dir) with the IDX files "
        f"{', '.join(IDX_NAMES)} (gzipped or not) or with a folder that TFDS prepared; (3) {here}.",
    )


@_quiet()
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
        return data_dir
    if not name.isidentifier():
        return None
    with _reading(data_dir / name):
        try:
            return Path(read_only_builder.builder_from_files(name, data_dir=str(data_dir)).data_path)
        except registered.DatasetNotFoundError:
            return None


@_quiet()
def prepare_arrays(name: str, arrays: Iterable[np.ndarray], data_dir: str | os.PathLike[str]) -> Path:
    """Writes arrays as one of TFDS's MNIST-like sets, without TensorFlow, in their own order.

    TFDS shuffles what it prepares; here that is switched off, so that a training run sees the same order, and ends
    with the same bits, as from IDX files.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        arrays: training images, training labels, test images, test labels, as `make_dataset` takes them.
        data_dir: the TFDS folder to write into.

    Returns:
        The folder of the prepared set.

    Raises:
        DataError: if the arrays do not make a data set.
    """
    import tensorflow_datasets as tfds

    dataset = make_dataset(name, *arrays, source="arrays")
    mnist_like: Any = tfds.builder_cls(name)

    class ArrayBuilder(mnist_like, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = mnist_like.name

        def _info(self) -> Any:
            known = super()._info()
            return tfds.core.DatasetInfo(
                builder=self,
                description=known.description,
                features=known.features,
                supervised_keys=known.supervised_keys,
                homepage=known.homepage,
                citation=known.citation,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            return {
                "train": _png_examples(dataset.train_images, dataset.train_labels),
                "test": _png_examples(dataset.test_images, dataset.test_labels),
            }

    with _download_folder(Path(data_dir)) as download_dir:
        builder = ArrayBuilder(data_dir=str(data_dir))
        builder.download_and_prepare(download_dir=download_dir, file_format="array_record")
    return Path(builder.data_path)


def _png_examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    from PIL import Image

    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image[..., 0]).save(png, "PNG")
        yield index, {"image": png.getvalue(), "label": int(label)}


@_quiet()
def _download(name: str, data_dir: Path) -> Path:
    """Prepares a set from the network, which is probed first, for TFDS itself retries for minutes."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        remedy = suggest(name, {*NAMES, *difflib.get_close_matches(name, known)})
        raise DataError("data set", "mnist5k or a set of TensorFlow Datasets", name, remedy)
    builder_class: Any = tfds.builder_cls(name)
    mnist: Any = tfds.builder_cls("mnist")
    try:
        builder = builder_class(data_dir=str(data_dir))
        _check_features(name, builder)
        known_urls = builder.url_infos or {}
        is_mnist_like = builder_class._split_generators is mnist._split_generators
        urls = [urljoin(builder.URL, file) for file in IDX_NAMES] if is_mnist_like else list(known_urls)
        if not reachable(next(iter(urls), HOME_PAGE)):
            raise unavailable(name, f"no network, and nothing prepared in {data_dir}")
        with _download_folder(data_dir) as download_dir:
            if is_mnist_like:
                manager: Any = tfds.download.DownloadManager(download_dir=download_dir, url_infos=known_urls)
                arrays = [read_idx(manager.download(url)) for url in urls]
                return prepare_arrays(name, arrays, data_dir)
            builder.download_and_prepare(download_dir=download_dir, file_format="array_record")
            return Path(builder.data_path)
    except DataError:
        raise
    except ImportError as error:
        raise unavailable(name, f"a TFDS builder that needs more than is installed (“{error}”)") from error
    except Exception as error:
        raise unavailable(name, f"a failure to download or prepare it (“{shortened(error)}”)") from error


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a host answers within so many seconds, looking up its name included; proxies are honored."""
    import requests

    answers: list[int] = []

    def ask() -> None:
        try:
            answers.append(requests.head(url, timeout=seconds).status_code)
        except requests.RequestException:
            answers.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(status < 500 for status in answers)


@_quiet()
def _read(name: str, folder: Path) -> Dataset:
    """Reads a prepared set of TFDS and decodes its images."""
    import tensorflow_datasets as tfds

    with _reading(folder):
        builder: Any = tfds.builder_from_directory(str(folder))
        if builder.name != name:
            raise DataError(str(folder), f"the prepared set {name}", shortened(builder.name))
        image_key, label_key = _check_features(name, builder)
        splits = builder.info.splits
        test = next((split for split in ("test", "validation") if split in splits), None)
        if "train" not in splits or test is None:
            given = f"only {shortened(', '.join(splits))}"
            raise DataError(str(folder), "a split train and one of test, validation", given)
        arrays = [
            array
            for split in ("train", test)
            for array in _stack(folder, split, splits[split].num_examples, builder, image_key, label_key)
        ]
        classes = builder.info.features[label_key].num_classes
    source = f"TensorFlow Datasets {builder.info.full_name}, splits train and {test}"
    return make_dataset(name, *arrays, classes=classes, source=source)


def _check_features(name: str, builder: Any) -> tuple[str, str]:
    """The names of a set's image and its label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if isinstance(features, tfds.features.FeaturesDict) and len(keys) == 2:
        image, label = (dict(features.items()).get(key) for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise DataError(f"data set {name}", "a set of images with a class label each", shortened(features))


def _stack(
    folder: Path, split: str, number: int, builder: Any, image_key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """The images and the labels of one split, as two arrays."""
    images, labels = np.empty(0, np.uint8), np.empty(number, np.int32)
    count = 0
    for example in _examples(folder, builder, split):
        image = np.asarray(example[image_key])
        if count == 0:
            images = np.empty((number, *image.shape), image.dtype)
        elif image.shape != images.shape[1:]:
            expected = f"images of one size, {images.shape[1:]} as the first"
            raise DataError(f"{folder}, {split} image {count}", expected, image.shape)
        images[count], labels[count] = image, example[label_key]
        count += 1
    if count != number:
        raise DataError(f"{folder}, {split}", f"{number} images", count)
    return images, labels


def _examples(folder: Path, builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The decoded examples of one split, read in batches: one by one takes twice as long."""
    import tensorflow_datasets as tfds

    file_format = builder.info.file_format.value
    if file_format == "array_record":
        source = builder.as_data_source(split=split)
        for start in range(0, len(source), BATCH):
            yield from source.__getitems__(range(start, min(start + BATCH, len(source))))
    elif file_format == "tfrecord" and find_spec("tensorflow"):
        yield from tfds.as_numpy(builder.as_dataset(split=split))
    else:
        remedy = "Prepare it with file_format='array_record', or pip install tensorflow to read tfrecord."
        raise DataError(str(folder), "the file format array_record", file_format, remedy)


def _fingerprint(folder: Path) -> str:
    """A checksum of a prepared set's files and their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def _download_folder(data_dir: Path) -> Iterator[str]:
    """A folder for what TFDS downloads on the way to a prepared set; nothing of it stays.

    TFDS shows its progress there, unless standard error is no terminal.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir, ignore_cleanup_errors=True) as folder:
        yield folder
