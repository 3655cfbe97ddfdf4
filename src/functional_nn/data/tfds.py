"""Image-classification sets of TensorFlow Datasets (TFDS), without TensorFlow where the set allows it.

Loading, download and preparation.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import numpy as np

from functional_nn.core.errors import DataError, InputError, check_data, reading, shortened, shown
from functional_nn.core.texts import suggest
from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.idx import FILE_STEMS, MAXIMUM_BYTES, read_idx, read_idx_folder, write_idx
from functional_nn.data.images import decode_image, quiet_decoders
from functional_nn.data.records import read_records
from functional_nn.storage.files import (
    LINK,
    filled_bytes,
    folder_to_write,
    kept_open,
    make_folder,
    move,
    names_in,
    opened,
    parsed,
    read_file,
    temporary_folder,
    unchanged,
)


def load_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads an image-classification set of TFDS, and downloads it if necessary.

    Args:
        name: TFDS's name of it, such as ``mnist`` or ``cifar10``.
        data_dir: a folder with the prepared set, which is only read; None for TFDS's own (``$TFDS_DATA_DIR``,
            else ``~/tensorflow_datasets``), where a missing set is stored as IDX files.

    Returns:
        The data set; its test split is TFDS's ``test`` or, if there is none, ``validation``.

    Raises:
        DataError: if the set is unknown, cannot be downloaded, or is not images of one size with a label each.
    """
    root = default_folder() if data_dir is None else Path(data_dir)
    source = f"the files that TensorFlow Datasets downloads, in {root / name}"
    if os.path.islink(root / name):
        raise DataError(str(root / name), "a folder", LINK, "Give data_dir the folder that has the set.")
    if data := read_idx_folder(root / name, name, source):
        return data
    if folder := find_prepared(name, root):
        with quiet():
            return _read(name, root, folder)
    if data_dir is not None:
        raise unavailable(name, f"neither IDX files nor a prepared TFDS set in {data_dir}")
    return download(name, root, source)


def default_folder() -> Path:
    """The folder of prepared sets if no other is given."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


IMPORT_LOCK = threading.Lock()
"""Held while TFDS works, and while another thread imports modules. For moments, TFDS replaces Python's ``__import__``
by one that delays imports. It does so in all threads, and an import in another thread could fail."""


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the messages of TFDS and the warnings of the packages that it imports. Its progress bars stay."""
    logger = logging.getLogger("absl")
    with IMPORT_LOCK, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Finds the newest prepared version of a set in a TFDS folder.

    Args:
        name: TFDS's name of it.
        data_dir: TFDS's folder, with ``<name>/<version>`` in it, or that innermost folder itself.

    Returns:
        The folder that holds ``dataset_info.json``; None if there is none.

    Raises:
        DataError: if there are several configurations of it.
    """
    prepared = [path.parent for level in ("*", "*/*") for path in (data_dir / name).glob(f"{level}/features.json")]
    if len({folder.parent for folder in prepared}) > 1:
        given = shortened(", ".join(sorted(str(folder.relative_to(data_dir)) for folder in prepared)))
        raise DataError(str(data_dir / name), "one configuration", given, "Give data_dir the folder of a version.")
    # In a shared folder, anybody can put files beside the sets of others. So the folder itself comes last.
    itself = data_dir if (data_dir / "dataset_info.json").is_file() else None
    return max(prepared, key=lambda folder: list(map(int, re.findall(r"\d+", folder.name))), default=itself)


def _read(name: str, data_dir: Path, folder: Path) -> Dataset:
    """Reads a prepared set of TFDS and decodes its images. No link inside of ``data_dir`` is followed.

    Its files may come from a stranger. So TFDS does not read them: it imports the modules that they name, opens files
    that they name, and decodes all features, also those that are of no use here.
    """
    remedy = "Prepare the set again, in another folder."
    with reading(folder, "a prepared TFDS set that can be read", remedy, errors=Exception), ExitStack() as stack:
        for place in accumulate((data_dir, *folder.relative_to(data_dir).parts), truediv):
            stack.enter_context(kept_open(place))
        stack.enter_context(unchanged([folder / file for file in names_in(folder)]))
        about, features = (parsed(read_file(folder / file)) for file in ("dataset_info.json", "features.json"))
        check_data(str(folder), about["name"], f"the prepared set {name}", about["name"] == name)
        keys = about.get("supervisedKeys", {}).get("tuple", {}).get("items", ())
        known = features.get("featuresDict", {}).get("features", {})
        kind = image_features(name, known, [key.get("featureKey") for key in keys])
        sizes = {split["name"]: sum(map(int, split.get("shardLengths", ()))) for split in about["splits"]}
        test = next((split for split in ("test", "validation") if split in sizes), None)
        if "train" not in sizes or test is None:
            raise DataError(str(folder), "a split train and one of test, validation", shown([*sizes]))
        file_format = about.get("fileFormat")
        train_images, train_labels = _read_split(folder / f"{name}-train", file_format, sizes["train"], kind)
        most = MAXIMUM_BYTES - train_images.nbytes
        test_images, test_labels = _read_split(folder / f"{name}-{test}", file_format, sizes[test], kind, most)
        source = f"TensorFlow Datasets {name}/{shortened(about['version'])}, splits train and {test}"
    arrays = train_images, train_labels, test_images, test_labels
    return make_dataset(name, *arrays, classes=kind.classes, source=source)


class ImageFeatures(NamedTuple):
    """The keys of the image and of its label in each example, the image's channels, and the number of classes."""

    image_key: str
    label_key: str
    channels: int
    classes: int


def image_features(name: str, features: Mapping[str, Any], keys: Sequence[str] | None) -> ImageFeatures:
    """What an example of a set consists of, from what ``features.json`` has about it.

    Raises:
        DataError: if the set does not consist of images of bytes with a class label each.
    """
    image_key, label_key, *more = keys or ("image", "label")
    image, label = features.get(image_key, {}).get("image"), features.get(label_key, {}).get("classLabel")
    if more or not image or not label or image["dtype"] != "uint8":
        raise DataError(f"data set {name}", "a set of images of bytes with a class label each", shortened(features))
    return ImageFeatures(image_key, label_key, int(image["shape"]["dimensions"][-1]), int(label["numClasses"]))


def _read_split(
    place: Path, file_format: str, number: int, kind: ImageFeatures, most: int = MAXIMUM_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The images, of at most so many bytes, and the labels of one split, as two arrays."""
    from tensorflow_datasets.proto import tf_example_pb2

    proto: Any = tf_example_pb2  # which says nothing about its classes
    images, labels = np.empty(0, np.uint8), np.empty(number, np.int32)
    count = 0
    with quiet_decoders(), _records(place, file_format) as (size, records):
        left = FEW_BYTES + MOST_TIMES * size
        for record in records:
            example: Any = proto.Example.FromString(record).features.feature
            image_place = f"{place}, image {count}"
            content = example[kind.image_key].bytes_list.value[0]
            left -= len(content)
            if left < 0:
                given = f"more than that for {size:,} bytes: nearly all images are alike"
                raise DataError(str(place), f"images of at most {MOST_TIMES} times the bytes of the set's files", given)
            image = decode_image(content, image_place, kind.channels)
            # The first image shows the shape and type of all.
            if count == 0:
                if number * image.nbytes > most:
                    given = f"{number:,} images of {image.nbytes:,} bytes"
                    raise DataError(image_place, f"at most {MAXIMUM_BYTES:,} bytes of images in all splits", given)
                images = np.empty((number, *image.shape), image.dtype)
            expected = f"images of one size, {images.shape[1:]} as the first"
            check_data(image_place, image, expected, image.shape == images.shape[1:])
            images[count], labels[count] = image, example[kind.label_key].int64_list.value[0]
            count += 1
    check_data(str(place), count, f"{number} images", count == number)
    return images, labels


FEW_BYTES, MOST_TIMES = 2**20, 10
"""PNG and JPEG images of more bytes than the first number have at most this many times the bytes of the files that they
are in. They are compressed already, so only images that are nearly all alike have more."""


@contextmanager
def _records(place: Path, file_format: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The number of bytes, and the records, of one split: of the files whose names begin with this path."""
    if file_format != "array_record" and not (file_format == "tfrecord" and find_spec("tensorflow")):
        remedy = "Prepare it with file_format='array_record', or pip install tensorflow to read tfrecord."
        raise DataError(str(place.parent), "the file format array_record", shortened(file_format), remedy)
    names = sorted(name for name in names_in(place.parent) if name.startswith(f"{place.name}.{file_format}-"))
    with ExitStack() as stack:
        # A reader would follow a link, and wait for the other end of a pipe. So it gets files that are open.
        files = [stack.enter_context(opened(place.parent / name)) for name in names]
        descriptors = [file.fileno() for file in files] if os.path.exists("/dev/fd") else []  # not in Windows
        paths = [f"/dev/fd/{number}" for number in descriptors] or [file.name for file in files]
        # A file may have several names, and holes.
        sizes = {os.fstat(file.fileno()).st_ino: filled_bytes(file.fileno()) for file in files}
        if file_format == "array_record":
            records = stack.enter_context(closing(read_records(paths, descriptors)))
        else:
            tensorflow: Any = import_module("tensorflow")
            records = tensorflow.data.TFRecordDataset(paths).as_numpy_iterator()
        yield sum(sizes.values()), records


NAMES = ("mnist5k", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")
"""The data sets that help texts list. Any image-classification set of TFDS can be loaded."""

IDX_NAMES = tuple(f"{stem}-ubyte.gz" for stem in FILE_STEMS)
HOME_PAGE = "https://www.tensorflow.org/datasets"


@quiet()
def download(name: str, data_dir: Path, source: str) -> Dataset:
    """Downloads a set of TFDS, decodes it, and stores it as IDX files in ``<data_dir>/<name>``.

    Args:
        name: TFDS's name of it.
        data_dir: the TFDS folder to write into.
        source: where it came from, in words.

    Raises:
        DataError: if the set is unknown, is not an image-classification set, or cannot be downloaded or prepared.
    """
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        remedy = suggest(name, {*NAMES, *difflib.get_close_matches(name, known)})
        raise DataError("data set", "mnist5k or a set of TensorFlow Datasets", name, remedy)
    builder_class: Any = tfds.builder_cls(name)  # the annotations of TFDS leave out much of what it has
    mnist: Any = tfds.builder_cls("mnist")
    try:
        # In data_dir, there may be a set of a stranger, which TFDS would read.
        with temporary_folder("tfds-") as empty:
            builder = builder_class(data_dir=str(empty))
        features = builder.info.features.to_json()["content"]
        image_features(name, features.get("features", features), builder.info.supervised_keys)
        known_urls = builder.url_infos or {}
        # The builders of MNIST-like sets share the code that reads IDX files, and that code needs TensorFlow.
        is_mnist_like = builder_class._split_generators is mnist._split_generators
        urls = [urljoin(builder.URL, file) for file in IDX_NAMES] if is_mnist_like else list(known_urls)
        # Without a network TFDS itself would try for minutes.
        if not reachable(next(iter(urls), HOME_PAGE)):
            raise unavailable(name, f"no network, and nothing prepared in {data_dir}")
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        data_dir.mkdir(parents=True, exist_ok=True)
        # Others may write to this folder, too. So no link in it is followed.
        with kept_open(data_dir), temporary_folder(".download-", above=data_dir) as download_dir:
            if is_mnist_like:
                manager = tfds.download.DownloadManager(download_dir=str(download_dir), url_infos=known_urls)
                arrays = [read_idx(manager.download(url)) for url in urls]
            else:
                builder = builder_class(data_dir=str(download_dir))
                builder.download_and_prepare(download_dir=str(download_dir), file_format="array_record")
                arrays = _read(name, download_dir, Path(builder.data_path)).split()[:4]
            # They are decoded once, and get their places when all of them are whole.
            complete, folder = download_dir / "complete", data_dir / name
            make_folder(complete)
            with kept_open(complete):
                for file, array in zip(IDX_NAMES, arrays, strict=True):
                    write_idx(complete / file.removesuffix(".gz"), array)
                data = read_idx_folder(complete, name, source)
                assert data is not None  # the files were written above
                with folder_to_write("data_dir", folder):  # not into one of another user
                    for file in names_in(complete):
                        move(complete / file, folder / file)
            return data
    except (DataError, InputError):
        raise
    except ImportError as error:
        raise unavailable(name, f"a TFDS builder that needs more than is installed (“{error}”)") from error
    except Exception as error:  # builders raise whatever their libraries do
        raise unavailable(name, f"a failure to download or prepare it (“{shortened(error)}”)") from error


def unavailable(name: str, given: str) -> DataError:
    """The error for a data set that cannot be loaded. It lists the ways to get the set."""
    alternative = "use the embedded mnist5k, which needs neither"
    if name == "fashion_mnist":
        alternative = f"install Debian's package (apt install dataset-fashion-mnist), or {alternative}"
    return DataError(
        f"data set {name}",
        "its files or a network to download them",
        given,
        f"Three ways to get it: (1) connect to the network and run again: TFDS downloads it (some sets also "
        f"need pip install tensorflow to be prepared); (2) give data_dir (--data-dir) with the IDX files "
        f"{', '.join(IDX_NAMES)} (gzipped or not) or with a folder that TFDS prepared; (3) {alternative}.",
    )


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a host answers within some seconds, beside the lookup of its name. Proxies are used."""
    import requests

    try:
        return requests.head(url, timeout=seconds).status_code < 500
    except requests.RequestException:
        return False
