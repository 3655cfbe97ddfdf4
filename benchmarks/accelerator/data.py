"""MNIST's four files for the peers: the given ones, or as many images made from those that the package has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import functional_nn as fnn
from benchmarks.mnist import MADE_UP

IMAGES, TEST_IMAGES = 60_000, 10_000
IMAGES_SMALL, TEST_IMAGES_SMALL = 320, 100


def make_files(folder: Path, *, small: bool, source: Path | None) -> None:
    """Writes files in MNIST's format, and a mark that they are not MNIST.

    With a source, the images are MNIST's. Without, they are the digits of `mnist5k`, repeated: times do not depend on
    what an image shows. Small files have the first images only.

    Raises:
        DataError: if the source lacks MNIST's files.
    """
    data = fnn.load_dataset("mnist5k") if source is None else fnn.load_dataset("mnist", source)
    train, test = (IMAGES_SMALL, TEST_IMAGES_SMALL) if small else (IMAGES, TEST_IMAGES)
    for part, count, images, labels in (
        ("train", train, data.train_images, data.train_labels),
        ("t10k", test, data.test_images, data.test_labels),
    ):
        rows = np.arange(count) % len(images)
        fnn.data.write_idx(folder / f"{part}-images-idx3-ubyte", images[rows, ..., 0])
        fnn.data.write_idx(folder / f"{part}-labels-idx1-ubyte", labels[rows].astype(np.uint8))
    (folder / MADE_UP).touch()
