"""The data of the workloads: MNIST, read from its four IDX files, or made up; and Shakespeare's sonnets in windows."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import w6, w7
from functional_nn import load_dataset
from functional_nn.data import Dataset, write_idx

MADE_UP = "made_up"
"""A file of this name says that the images of a folder are not all of MNIST's, so that checksums are not compared."""


class Mnist(NamedTuple):
    """Images as float32 rows of 784 numbers in [0, 1], and labels as int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    folder: Path


def read_mnist(folder: Path) -> Mnist:
    """Reads MNIST from a folder with its four IDX files."""
    data = load(folder)
    train_images, test_images = (
        images.reshape(-1, 784).astype(np.float32) / 255 for images in (data.train_images, data.test_images)
    )
    return Mnist(train_images, data.train_labels, test_images, data.test_labels, folder)


def load(folder: Path) -> Dataset:
    """The data set of a folder with four IDX files: MNIST, or one that says that it is made up."""
    return load_dataset(MADE_UP if (folder / MADE_UP).exists() else "mnist", folder)


IMAGES, TEST_IMAGES = 60_000, 10_000
IMAGES_SMALL, TEST_IMAGES_SMALL = 320, 100


def make_files(folder: Path, *, small: bool, source: Path | None) -> None:
    """Writes files in MNIST's format, and a mark that they are not MNIST.

    With a source, the images are MNIST's. Without, they are the digits of `mnist5k`, repeated: times do not depend on
    what an image shows. Small files have the first images only.

    Raises:
        DataError: if the source lacks MNIST's files.
    """
    data = load_dataset("mnist5k") if source is None else load_dataset("mnist", source)
    train, test = (IMAGES_SMALL, TEST_IMAGES_SMALL) if small else (IMAGES, TEST_IMAGES)
    for part, count, images, labels in (
        ("train", train, data.train_images, data.train_labels),
        ("t10k", test, data.test_images, data.test_labels),
    ):
        rows = np.arange(count) % len(images)
        write_idx(folder / f"{part}-images-idx3-ubyte", images[rows, ..., 0])
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels[rows].astype(np.uint8))
    (folder / MADE_UP).touch()


TEXT = Path(__file__).resolve().parents[1] / "examples" / "data" / "sonnets.txt"
HELD_OUT = "no longer mourn for me when i am dead"
"""The line with which the last seven sonnets begin, in lower case."""


class Sonnets(NamedTuple):
    """Windows as int32, (windows, time + 1): the network reads all tokens but the last, and predicts all but the first.

    Args:
        train: one window every few characters, as many as full batches have.
        test: the held-out sonnets, in windows that do not overlap.
    """

    train: np.ndarray
    test: np.ndarray


def read_sonnets() -> Sonnets:
    """The windows of the text in `examples/data/sonnets.txt`, of which the last seven sonnets are held out."""
    return _windows_of(TEXT.read_text("ascii"), w6.SIZES, w6.STRIDE)


def read_letters() -> Sonnets:
    """The same text in lower case, with a space for all that lies between two words."""
    return _windows_of(re.sub("[^a-z]+", " ", TEXT.read_text("ascii").lower()), w7.SIZES, w7.STRIDE)


def share_of_right_characters(logits: np.ndarray, windows: np.ndarray) -> float:
    """How often the largest logit is that of the next character."""
    return float(np.mean(logits.argmax(axis=-1) == windows[:, 1:]))


def _windows_of(text: str, sizes: w6.LanguageSizes, stride: int) -> Sonnets:
    characters = sorted(set(text))
    tokens = np.array([characters.index(character) for character in text], np.int32)
    held_out = text.lower().index(HELD_OUT)
    train, test = _windows(tokens[:held_out], sizes.time, stride), _windows(tokens[held_out:], sizes.time, sizes.time)
    return Sonnets(train[: len(train) // sizes.batch * sizes.batch], test)


def _windows(tokens: np.ndarray, time: int, stride: int) -> np.ndarray:
    starts = np.arange(0, len(tokens) - time, stride)
    return tokens[starts[:, None] + np.arange(time + 1)]
