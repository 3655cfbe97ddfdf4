"""The full MNIST data set, read from its four IDX files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn import load_dataset
from functional_nn.data import Dataset

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
