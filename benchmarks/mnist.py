"""The full MNIST, read from its four IDX files."""

import gzip
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Mnist(NamedTuple):
    """Images as float32 rows of 784 numbers in [0, 1], labels as int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    folder: Path


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file compressed with gzip."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">i4", count=rank, offset=4).tolist())
    return np.frombuffer(content, np.uint8, count=math.prod(shape), offset=4 + 4 * rank).reshape(shape)


def read_mnist(folder: Path) -> Mnist:
    """MNIST from a folder of its four `.gz` files."""
    train_images, train_labels, test_images, test_labels = (read_idx(folder / f"{name}.gz") for name in FILES)
    return Mnist(
        train_images=train_images.reshape(-1, 784).astype(np.float32) / 255,
        train_labels=train_labels.astype(np.int32),
        test_images=test_images.reshape(-1, 784).astype(np.float32) / 255,
        test_labels=test_labels.astype(np.int32),
        folder=folder,
    )
