"""Labeled data, split into training and test examples, and the checks that a data set passes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from functional_nn.core.counts import is_count
from functional_nn.core.errors import DataError, short_repr

if TYPE_CHECKING:
    from functional_nn.core.masked import Value

# The command reads data while it imports JAX, so this module must not import JAX at its top.


class Dataset(NamedTuple):
    """Images and their labels, for training and for testing; build one with `make_dataset`.

    Attributes:
        name: what it is loaded by.
        train_images: uint8 (number, height, width, channels).
        train_labels: int32 (number,), each in 0 .. classes - 1.
        test_images: as train_images.
        test_labels: as train_labels.
        classes: the number of classes.
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
        """Describes the data set in one line: name, sizes, shape of an image, classes, source."""
        return f"{self.name}: {self._sizes()}, from {self.source}"

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self._sizes()}>"

    def _sizes(self) -> str:
        size = "x".join(str(length) for length in self.train_images.shape[1:])
        train, test = len(self.train_images), len(self.test_images)
        return f"{train:,} training and {test:,} test images, {size}, {self.classes} classes"


class Split(NamedTuple):
    """Training and test examples as arrays, for data that are not a ``Dataset``.

    Attributes:
        train_x: what the network takes: an array, a ``Masked`` sequence, or a tuple of these.
        train_labels: an array with one label for each example.
        test_x: as train_x.
        test_labels: as train_labels.

    >>> Split(np.zeros((60, 4)), np.zeros(60, int), np.zeros((30, 4)), np.zeros(30, int))
    <Split: training examples float64 of shape (60, 4), labels int64 of shape (60,); test examples float64 of shape
    (30, 4), labels int64 of shape (30,)>
    """

    train_x: Value
    train_labels: Value
    test_x: Value
    test_labels: Value

    def __repr__(self) -> str:
        train = f"training examples {_in_words(self.train_x)}, labels {_in_words(self.train_labels)}"
        test = f"test examples {_in_words(self.test_x)}, labels {_in_words(self.test_labels)}"
        return f"<Split: {train}; {test}>"


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
        train_images: uint8 (number, height, width, channels), or (number, height, width) for gray images.
        train_labels: integers (number,).
        test_images: as train_images, of the same height, width and channels.
        test_labels: as train_labels.
        classes: the number of classes; None for the largest label plus one.
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
    if classes is not None and not is_count(classes):
        raise DataError(f"{name} classes", "a positive integer", short_repr(classes))
    train_images = _checked_images(f"{name} training images", train_images)
    test_images = _checked_images(f"{name} test images", test_images)
    if train_images.shape[1:] != test_images.shape[1:]:
        size = train_images.shape[1:]
        raise DataError(f"{name} test images", f"the training images' size {size}", test_images.shape[1:])
    train_labels = _checked_labels(f"{name} training labels", train_labels, len(train_images))
    test_labels = _checked_labels(f"{name} test labels", test_labels, len(test_images))
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


def _as_array(argument: str, value: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise DataError(argument, "an array", short_repr(value)) from None


def _checked_images(argument: str, value: ArrayLike) -> np.ndarray:
    """The images as bytes with four axes: number, height, width, channels."""
    images = _as_array(argument, value)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4:
        expected = "uint8 (number, height, width, channels)"
        raise DataError(argument, expected, f"{images.dtype} {images.shape}")
    if images.size == 0:
        raise DataError(argument, "at least one pixel", images.shape)
    return images


def _checked_labels(argument: str, value: ArrayLike, images: int) -> np.ndarray:
    """The labels as an array of integers with one axis, one for each image."""
    labels = _as_array(argument, value)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(argument, "integers (number,)", f"{labels.dtype} {labels.shape}")
    if len(labels) != images:
        raise DataError(argument, f"as many labels as images, {images}", len(labels))
    return labels


def _in_words(value: object) -> str:
    """An array, or a pytree of arrays, by types and shapes."""
    from functional_nn.core.masked import Masked
    from functional_nn.core.validation import shown

    if isinstance(value, Masked):
        return f"masked {shown(value.values)}"
    if isinstance(value, tuple):
        return f"({', '.join(_in_words(part) for part in value)})"
    return shown(value)
