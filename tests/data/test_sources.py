"""Loading by name: what is found where, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from tests.other_process import python

from functional_nn import load_dataset
from functional_nn.core.errors import DataError, InputError
from functional_nn.data import Split, make_dataset, sources, write_idx

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([0, 2, 1], np.uint8)


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", IMAGES)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", LABELS)
    return folder


def test_idx_files_of_ones_own(tmp_path):
    dataset = load_dataset("my-letters", write_files(tmp_path / "letters"))
    assert dataset.train_images.shape == (3, 4, 5, 1)
    assert dataset.classes == 3
    assert str(tmp_path / "letters") in dataset.source
    np.testing.assert_array_equal(dataset.test_labels, LABELS)


def test_damaged_debian_files_are_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.INSTALLED, "fashion_mnist", (write_files(tmp_path / "fashion"), "Debian's package"))
    with pytest.raises(DataError, match="MD5"):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": IMAGES.astype(np.int32)}, r"training images: expected uint8 \(.*got int32"),
        ({"test_images": IMAGES[0]}, r"test images: .*got uint8 of shape \(4, 5\)"),
        ({"test_images": IMAGES[:, 1:]}, r"test images: expected .*size \(4, 5, 1\), got .*\(3, 3, 5, 1\)"),
        ({"train_labels": LABELS[:2]}, r"training labels: expected an integer for each of the 3 images, got .*\(2,\)"),
        ({"train_labels": LABELS[:, None]}, r"training labels: expected an integer for each .*\(3, 1\)"),
        ({"test_labels": np.array([0, -1, 0])}, r"test labels: expected labels in 0 \.\. 2, got -1"),
        ({"train_labels": np.array([0, 2**40, 0]), "classes": 3}, "training labels: .*got 1099511627776"),
        ({"test_labels": np.array([0, 10**6, 0])}, "test labels: expected labels below 1,000,000, got 1000000"),
        ({"classes": 10**6 + 1}, "classes: expected a positive integer up to 1,000,000, got 1000001"),
        ({"classes": 2}, r"labels in 0 \.\. 1, got 2"),
    ],
)
def test_arrays_that_make_no_data_set(change, words):
    arrays = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS}
    with pytest.raises(DataError, match=words):
        make_dataset("mine", **{**arrays, **change}, source="a test")


def test_validation_examples_of_too_many_or_too_few_labels():
    for labels in (45, 35):
        words = rf"training data: expected as many labels as examples, got .*\(40, 3\), .*\({labels},\)"
        with pytest.raises(InputError, match=words):
            Split(np.zeros((40, 3)), np.zeros(labels)).with_validation(0.2)


def test_lists_can_have_validation_examples():
    split = Split(np.zeros((8, 2)).tolist(), [0, 1] * 4).with_validation(0.25)
    assert (split.train_x.shape, split.train_labels.shape, split.validation_x.shape) == ((6, 2), (6,), (2, 2))
    assert sorted(split.validation_labels) == [0, 1]


@pytest.mark.parametrize(
    "name", ["../mnist", "..", ".", "a/b", "a\\b", "/etc/passwd", "", "-x", "mnist\n", "mnist:1.0.0", "a b", "a.b"]
)
def test_path_traversal(name, tmp_path):
    for folder in (None, write_files(tmp_path)):
        with pytest.raises(DataError, match="data set: expected a name of at most 200 letters"):
            load_dataset(name, folder)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected a folder, got nothing there"):
        load_dataset("mnist", tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a folder, got a file"):
        load_dataset("mnist", tmp_path / "file")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_no_network_fails_at_once_with_three_ways(name, tmp_path, monkeypatch):
    monkeypatch.delitem(sources.INSTALLED, "fashion_mnist")
    with pytest.raises(DataError, match="no network") as caught:
        load_dataset(name)
    message = str(caught.value)
    for way in ("(1) connect", "(2) give data_dir", "train-images-idx3-ubyte.gz", "(3)", "mnist5k"):
        assert way in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert not (tmp_path / "tfds").exists()


def test_an_unknown_name_is_never_another_set(tmp_path):
    with pytest.raises(DataError, match="Did you mean mnist"):
        load_dataset("mnits")
    for name in ("Mnist", "fashion-mnist", "no_such_set"):
        with pytest.raises(DataError, match="Known: cifar10, "):
            load_dataset(name)


def test_a_folder_of_that_name_is_told_how_to_load(tmp_path, monkeypatch):
    def unknown(name):
        raise DataError("data set", "a known one", name)

    monkeypatch.setattr(sources, "load_tfds", unknown)
    monkeypatch.chdir(tmp_path)
    for folder in (False, True):
        with pytest.raises(DataError, match="got shapes") as caught:
            load_dataset("shapes")
        assert ("write folder:shapes" in str(caught.value)) == folder
        (tmp_path / "shapes").mkdir(exist_ok=True)


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "table.csv").write_text("a,b\n" + "1,x\n2,y\n" * 5)
    assert load_dataset("csv:~/table.csv", label="b").class_names == ("x", "y")
    with pytest.raises(DataError, match=f"{tmp_path}/nothing"):
        load_dataset("mnist", data_dir="~/nothing")


def test_importing_is_quick_and_the_embedded_set_needs_no_tfds():
    program = (
        "import sys, functional_nn as fnn; fnn.load_dataset();"
        "late = {'tensorflow_datasets', 'tensorflow', 'PIL', 'requests', 'jax', 'optax', 'IPython'} & set(sys.modules);"
        "assert not late, late"
    )
    python(program)


def test_sizes_and_equal_classes():
    dataset = load_dataset()
    assert dataset.train_images.shape == (4_000, 28, 28, 1)
    assert dataset.test_images.shape == (1_000, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
    assert dataset.classes == 10
    assert np.bincount(dataset.train_labels).tolist() == [400] * 10
    assert np.bincount(dataset.test_labels).tolist() == [100] * 10
