"""Download and preparation of sets of TensorFlow Datasets (TFDS), without TensorFlow where the set allows it."""

from __future__ import annotations

import difflib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import numpy as np

from functional_nn.core.errors import DataError, shortened
from functional_nn.core.suggestions import suggest
from functional_nn.data.dataset import make_dataset
from functional_nn.data.idx import read_idx
from functional_nn.data.tfds_builder import Builder, image_features, quiet

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetInfo

NAMES = ("mnist5k", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")
"""The data sets that help texts list. Any image-classification set of TFDS can be loaded."""

IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
HOME_PAGE = "https://www.tensorflow.org/datasets"


@quiet()
def download(name: str, data_dir: Path) -> Path:
    """Downloads and prepares a set of TFDS.

    Args:
        name: TFDS's name of it.
        data_dir: the TFDS folder to write into.

    Returns:
        The folder of the prepared set.

    Raises:
        DataError: if the set is unknown, is not an image-classification set, or cannot be downloaded or prepared.
    """
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        remedy = suggest(name, {*NAMES, *difflib.get_close_matches(name, known)})
        raise DataError("data set", "mnist5k or a set of TensorFlow Datasets", name, remedy)
    builder_class: Builder = tfds.builder_cls(name)
    mnist: Builder = tfds.builder_cls("mnist")
    try:
        builder = builder_class(data_dir=str(data_dir))
        image_features(name, builder)
        known_urls = builder.url_infos or {}
        # The builders of MNIST-like sets share the code that reads IDX files, and that code needs TensorFlow.
        is_mnist_like = builder_class._split_generators is mnist._split_generators
        urls = [urljoin(builder.URL, file) for file in IDX_NAMES] if is_mnist_like else list(known_urls)
        # Without a network TFDS itself would try for minutes.
        if not reachable(next(iter(urls), HOME_PAGE)):
            raise unavailable(name, f"no network, and nothing prepared in {data_dir}")
        with _download_folder(data_dir) as download_dir:
            if is_mnist_like:
                manager = tfds.download.DownloadManager(download_dir=download_dir, url_infos=known_urls)
                arrays = [read_idx(manager.download(url)) for url in urls]
                return prepare_arrays(name, arrays, data_dir)
            builder.download_and_prepare(download_dir=download_dir, file_format="array_record")
            return Path(builder.data_path)
    except DataError:
        raise
    except ImportError as error:
        raise unavailable(name, f"a TFDS builder that needs more than is installed (“{error}”)") from error
    except Exception as error:  # builders raise whatever their libraries do
        raise unavailable(name, f"a failure to download or prepare it (“{shortened(error)}”)") from error


@quiet()
def prepare_arrays(name: str, arrays: Iterable[np.ndarray], data_dir: str | os.PathLike[str]) -> Path:
    """Writes arrays as one of TFDS's MNIST-like sets, without TensorFlow, in their own order.

    TFDS shuffles the sets that it prepares. Here the shuffling is switched off, so that a training run sees the same
    order of examples, and ends with the same bits, as from IDX files.

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
    mnist_like: Builder = tfds.builder_cls(name)

    class ArrayBuilder(mnist_like, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = mnist_like.name

        def _info(self) -> DatasetInfo:
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

        def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, bytes | int]]]]:
            return {
                "train": _png_examples(dataset.train_images, dataset.train_labels),
                "test": _png_examples(dataset.test_images, dataset.test_labels),
            }

    with _download_folder(Path(data_dir)) as download_dir:
        builder = ArrayBuilder(data_dir=str(data_dir))
        builder.download_and_prepare(download_dir=download_dir, file_format="array_record")
    return Path(builder.data_path)


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
    """Whether a host answers within some seconds, including the lookup of its name. Proxies are used."""
    import requests

    answers: list[int] = []

    def ask() -> None:
        with suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds).status_code)

    # The timeout of requests leaves out the lookup of the name, so the whole request runs in a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(status < 500 for status in answers)


def _png_examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, bytes | int]]]:
    from PIL import Image

    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image[..., 0]).save(png, "PNG")
        yield index, {"image": png.getvalue(), "label": int(label)}


@contextmanager
def _download_folder(data_dir: Path) -> Iterator[str]:
    """A temporary folder for the files that TFDS downloads while it prepares a set.

    TFDS draws progress bars on standard error, unless it is not a terminal.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir, ignore_cleanup_errors=True) as folder:
        yield folder
