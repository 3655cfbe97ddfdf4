"""The full MNIST data set, read from its four IDX files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn import load_dataset


class Mnist(NamedTuple):
    """Images as float32 rows of 784 numbers in [0, 1], and labels as int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    folder: Path


def read_mnist(folder: Path) -> Mnist:
    """Reads MNIST from a folder with its four IDX files."""
    data = load_dataset("mnist", folder)
    train_images, test_images = (
        images.reshape(-1, 784).astype(np.float32) / 255 for images in (data.train_images, data.test_images)
    )
    return Mnist(train_images, data.train_labels, test_images, data.test_labels, folder)
