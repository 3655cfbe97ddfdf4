"""The embedded data set: what it holds, where it comes from, and that nobody changed it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from functional_nn.data import idx
from functional_nn.data.sources import MNIST5K, load_dataset

SHARED_MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"

SHA256 = {
    "t10k-images-idx3-ubyte.gz": "d6147023a1b75822c16a76d0ef631d099033596dfa677a9537dcd2948732c2fb",
    "t10k-labels-idx1-ubyte.gz": "162d11e7a798e7d8dec532d63a1b12d4fb040bc5292ffdeae1fe5e4cb243ad2e",
    "train-images-idx3-ubyte.gz": "ac0cdb9727cb33e2729ffad732589b918699dc168a10e794b78d3d4a25fe2342",
    "train-labels-idx1-ubyte.gz": "7d0eab0cb879e54c4a0f8c29aeced7db2bed3387b722fb3666c0e4acc10e40f1",
}


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("file", SHA256)
def test_fault_29_checksums(file):
    assert hashlib.sha256((MNIST5K / file).read_bytes()).hexdigest() == SHA256[file]


def test_sizes_and_equal_classes():
    dataset = load_dataset()
    assert dataset.train_images.shape == (4_000, 28, 28, 1)
    assert dataset.test_images.shape == (1_000, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
    assert dataset.classes == 10
    assert np.bincount(dataset.train_labels).tolist() == [400] * 10
    assert np.bincount(dataset.test_labels).tolist() == [100] * 10


def test_training_and_test_digits_are_distinct():
    dataset = load_dataset()
    train, test = rows(dataset.train_images), rows(dataset.test_images)
    assert len(train) == 4_000
    assert len(test) == 1_000
    assert not train & test


def test_the_order_is_shuffled():
    for labels in (load_dataset().train_labels, load_dataset().test_labels):
        assert (labels[:100] != np.sort(labels)[:100]).any()
        assert len(set(labels[:100].tolist())) == 10


def test_small_enough_to_embed():
    assert sum(file.stat().st_size for file in MNIST5K.iterdir()) < 2**20


@pytest.mark.skipif(not SHARED_MNIST.is_dir(), reason="the full MNIST is not beside this tree")
def test_they_are_the_first_500_of_each_class_of_mnists_training_set():
    images, labels, _, _ = idx.read_idx_folder(SHARED_MNIST, "mnist")
    dataset = load_dataset()
    digits = np.concatenate([dataset.train_images, dataset.test_images])
    given = np.concatenate([dataset.train_labels, dataset.test_labels])
    for label in range(10):
        assert rows(digits[given == label]) == rows(images[labels == label][:500])
