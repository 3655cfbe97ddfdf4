"""Builders of TensorFlow Datasets (TFDS): calling them quietly, and the features of an image-classification set."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple, TypeAlias

from functional_nn.core.errors import DataError, shortened

Builder: TypeAlias = Any
"""A builder of TFDS. The annotations of TFDS itself leave out much of what a builder has."""


class ImageFeatures(NamedTuple):
    """The keys of the image and the label in each example of a set, and the number of classes."""

    image_key: str
    label_key: str
    classes: int


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the messages of TFDS and the warnings of the packages that it imports. Its progress bars stay."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def image_features(name: str, builder: Builder) -> ImageFeatures:
    """Finds the features of an image-classification set.

    Raises:
        DataError: if the set does not consist of images with a class label each.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if isinstance(features, tfds.features.FeaturesDict) and len(keys) == 2:
        image_key, label_key = keys
        by_key = dict(features.items())
        label = by_key.get(label_key)
        if isinstance(by_key.get(image_key), tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return ImageFeatures(image_key, label_key, int(label.num_classes or 0))
    raise DataError(f"data set {name}", "a set of images with a class label each", shortened(features))
