"""``functional-nn predict``: image files of any kind, and run folders in any state."""

import pickle
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from tests.cli.conftest import result_of
from tests.storage.manifests import sign_run

from functional_nn import load_dataset
from functional_nn.cli import run
from functional_nn.storage.arrays import packed

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Three test digits of each class, and their labels."""
    data = load_dataset("mnist5k")
    some = np.concatenate([np.flatnonzero(data.test_labels == label)[:3] for label in range(10)])
    return data.test_images[some, ..., 0], data.test_labels[some]


@pytest.fixture
def predicted(finished, tmp_path):
    """The classes that ``predict`` gives images, each saved by ``save(image, path)`` under the ending."""

    def classes(images, ending="png", **save):
        paths = [tmp_path / f"{number:02}.{ending}" for number in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(path, **save)
        return np.array([row["class"] for row in result_of(["predict", finished.folder, *paths], tmp_path)])

    return classes


# Images


def by_hand(finished, images) -> np.ndarray:
    """The classes of the network in the run folder, computed without the package."""
    w = load_file(finished.folder / "model.safetensors")
    x = images.reshape(len(images), -1) / 255
    for number in range(2):
        x = x @ w[f"params/dense_{number}/weight"] + w[f"params/dense_{number}/bias"]
        x = np.maximum(x, 0) if number == 0 else x
    return x.argmax(axis=1)


def test_a_saved_digit_is_the_array_it_came_from(finished, predicted, digits):
    images, labels = digits
    expected = by_hand(finished, images)
    assert (expected == labels).mean() > 0.8
    np.testing.assert_array_equal(predicted(images), expected)


def test_the_table_shows_the_best_classes_of_every_image(finished, digits, tmp_path, capsys):
    images, _ = digits
    paths = [tmp_path / "a.png", tmp_path / f"a {'long ' * 20}name.png"]
    for image, path in zip(images, paths, strict=False):
        PIL.Image.fromarray(image).save(path)
    rows = result_of(["predict", finished.folder, *paths], tmp_path)
    head, *table = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "probability", "next", "best"]
    assert max(map(len, [head, *table])) <= 80
    for path, line, row in zip(paths, table, rows, strict=True):
        name, class_, share, *others = re.split("  +", line)
        assert str(path).endswith(name.removeprefix("…"))
        assert (row["image"], row["class"]) == (str(path), int(class_))
        probabilities = np.array(row["probabilities"])
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        first, second, third = probabilities.argsort()[::-1][:3]
        assert (int(class_), share) == (first, f"{probabilities[first]:.2%}")
        expected = f"{second} ({probabilities[second]:.2%}), {third} ({probabilities[third]:.2%})"
        assert others == [expected]


def test_files_that_are_no_images(finished, digits, tmp_path, refused):
    (tmp_path / "text.png").write_text("seven")
    (tmp_path / "empty.png").write_bytes(b"")
    PIL.Image.fromarray(digits[0][0]).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    for name in ("text.png", "empty.png", "half.png"):
        refused(["predict", finished.folder, tmp_path / "whole.png", tmp_path / name], name, "image")
    missing = tmp_path / "missing" / "rows.json"
    refused(["predict", finished.folder, tmp_path / "whole.png", "--json", missing], "--json")
    refused(["predict", finished.folder, tmp_path / "none.png"], "none.png", "No such file")
    refused(["predict", finished.folder, tmp_path], str(tmp_path))
    refused(["predict", finished.folder, tmp_path / ("x" * 300)], "too long")


def test_control_characters_in_names_reach_no_terminal(finished, digits, tmp_path, capsys):
    path = tmp_path / "a\n\x1b]0;b\x07.png"
    PIL.Image.fromarray(digits[0][0]).save(path)
    assert run(["predict", str(finished.folder), str(path)]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert r"a\n\x1b]0;b\x07.png" in row


# Run folders


@pytest.fixture
def copy(finished, digits, tmp_path):
    """A copy of the run to damage, and an image."""
    folder, image = tmp_path / "copy", tmp_path / "digit.png"
    folder.mkdir()
    for name in ("config.json", "metrics.jsonl", "model.safetensors", "result.json"):
        shutil.copy(finished.folder / name, folder)
    PIL.Image.fromarray(digits[0][0]).save(image)
    return folder, image


def test_folders_without_a_run(tmp_path, copy, refused):
    folder, image = copy
    refused(["predict", tmp_path / "missing", image], "missing", "functional-nn train --out")
    refused(["predict", image, image], "digit.png")
    (folder / "model.safetensors").unlink()
    refused(["predict", folder, image], "model.safetensors")
    (folder / "model.safetensors").mkdir()
    refused(["predict", folder, image], "model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content.replace(b"[784,64]", b"[64,784]"),
        lambda content: pickle.dumps({"params": 1}),
    ],
)
def test_damaged_parameters(copy, refused, damage):
    folder, image = copy
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(["predict", folder, image], str(path), "belongs to result.json")
    sign_run(folder)
    refused(["predict", folder, image], str(path))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "result.json"])
def test_files_that_belong_together_are_tied(copy, refused, name):
    """Another activation in the configuration would give other predictions; every byte is looked at here."""
    folder, image = copy
    path = folder / name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused(["predict", folder, image], str(path))
    path.unlink()
    refused(["predict", folder, image], str(path))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "model.safetensors: expected finite numbers, got NaN or infinity in params/dense_1/bias"),
        (3e38, "digit.png: expected finite outputs of the network"),
    ],
)
def test_numbers_that_are_not_finite_are_no_answer(copy, refused, value, words):
    folder, image = copy
    path = folder / "model.safetensors"
    arrays = load_file(path)
    arrays["params/dense_1/bias"][3] = arrays["params/dense_1/weight"][:] = value
    path.write_bytes(packed(arrays, {}))
    sign_run(folder)
    refused(["predict", folder, image], words)
