"""A labeled set of images, split in two, and the checks every one of them passes."""

from __future__ import annotations

import re
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from functional_nn.core.errors import DataError, short_repr


class Dataset(NamedTuple):
    """Images and their labels, for training and for testing; build one with `make_dataset`.

    Attributes:
        name: what it is loaded by.
        train_images: uint8 (number, height, width, channels).
        train_labels: int32 (number,), each in 0 .. classes - 1.
        test_images: as train_images.
        test_labels: as train_labels.
        classes: how many classes there are.
        source: where it came from, in words.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    source: str

    def describe(self) -> str:
        """One line for people: name, sizes, source."""
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and {len(self.test_images):,} test images, "
            f"{height}x{width}x{channels}, {self.classes} classes, from {self.source}"
        )


def make_dataset(
    name: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int | None = None,
    source: str,
) -> Dataset:
    """Checks the four arrays and makes a `Dataset` of them.

    Args:
        name: what it is loaded by.
        train_images: uint8 (number, height, width, channels), or without the channels, which makes them one.
        train_labels: integers (number,).
        test_images: as train_images, of the same height, width and channels.
        test_labels: as train_labels.
        classes: how many classes there are; None for the largest label plus one.
        source: where it came from, in words.

    Returns:
        The data set, its labels as int32.

    Raises:
        DataError: if an array has the wrong type or shape, is empty, or does not fit the others.

    >>> pixels = np.zeros((2, 28, 28), np.uint8)
    >>> labels = np.array([3, 1])
    >>> make_dataset("mine", pixels, labels, pixels, labels, source="a doctest").describe()
    'mine: 2 training and 2 test images, 28x28x1, 4 classes, from a doctest'
    """
    train_images, train_labels, test_images, test_labels = (
        _as_array(f"{name} {argument}", array)
        for argument, array in (
            *(("training images", train_images), ("training labels", train_labels)),
            *(("test images", test_images), ("test labels", test_labels)),
        )
    )
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, Integral) or classes < 1):
        raise DataError(f"{name} classes", "a positive integer", short_repr(classes))
    train_images, test_images = (
        _check_images(f"{name} {split} images", images)
        for split, images in (("training", train_images), ("test", test_images))
    )
    if train_images.shape[1:] != test_images.shape[1:]:
        size = train_images.shape[1:]
        raise DataError(f"{name} test images", f"the training images' size {size}", test_images.shape[1:])
    for split, images, labels in (
        ("training", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        _check_labels(f"{name} {split} labels", labels, len(images))
    if classes is None:
        classes = 1 + int(max(train_labels.max(), test_labels.max()))
    for split, labels in (("training", train_labels), ("test", test_labels)):
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label < classes:
                raise DataError(f"{name} {split} labels", f"labels in 0 .. {classes - 1}", label)
    return Dataset(
        name,
        train_images,
        train_labels.astype(np.int32),
        test_images,
        test_labels.astype(np.int32),
        classes,
        source,
    )


def check_name(name: str) -> None:
    """Refuses a data set's name that could be a path.

    >>> check_name("fashion_mnist")
    >>> check_name("../mnist")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.DataError: data set: expected a name of letters, digits, _ and -, got '../mnist'. ...
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        remedy = "A folder goes into data_dir."
        raise DataError("data set", "a name of letters, digits, _ and -", short_repr(name), remedy)


def _as_array(argument: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise DataError(argument, "an array", short_repr(value)) from None


def _check_images(argument: str, images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4:
        expected = "uint8 (number, height, width, channels)"
        raise DataError(argument, expected, f"{images.dtype} {images.shape}")
    if images.size == 0:
        raise DataError(argument, "at least one pixel", images.shape)
    return images


def _check_labels(argument: str, labels: np.ndarray, images: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(argument, "integers (number,)", f"{labels.dtype} {labels.shape}")
    if len(labels) != images:
        raise DataError(argument, f"as many labels as images, {images}", len(labels))


class Split(NamedTuple):
    """Training and test examples as arrays, for data that are not a ``Dataset``."""

    train_x: Any
    train_labels: Any
    test_x: Any
    test_labels: Any
