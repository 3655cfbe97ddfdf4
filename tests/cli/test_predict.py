"""``functional-nn predict``: image files of any kind, and run folders in any state."""

import hashlib
import json
import pickle
import re
import shutil
from importlib import import_module

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file

from functional_nn import load_dataset
from functional_nn.cli import run
from functional_nn.configuration.settings import DEFAULTS
from functional_nn.storage.arrays import packed
from functional_nn.storage.files import signed_text

predict_module = import_module("functional_nn.cli.predict")

DIGITS = 30


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Three test digits of each class, and their labels."""
    data = load_dataset("mnist5k")
    some = np.concatenate([np.flatnonzero(data.test_labels == label)[:3] for label in range(10)])
    return data.test_images[some, ..., 0], data.test_labels[some]


@pytest.fixture
def predicted(finished, tmp_path, capsys):
    """The classes that ``predict`` gives images, each saved by ``save(image, path)`` under the ending."""

    def classes(images, ending="png", **save):
        paths = [tmp_path / f"{number:02}.{ending}" for number in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(path, **save)
        assert run(["predict", str(finished.folder), *map(str, paths), "--json", str(tmp_path / "rows.json")]) == 0
        capsys.readouterr()
        return np.array([row["class"] for row in json.loads((tmp_path / "rows.json").read_text())])

    return classes


def refused(capsys, arguments, *words: str) -> None:
    assert run(["predict", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err


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
    assert run(["predict", str(finished.folder), *map(str, paths), "--json", str(tmp_path / "rows.json")]) == 0
    head, *table = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "probability", "next", "best"]
    assert max(map(len, [head, *table])) <= 80
    rows = json.loads((tmp_path / "rows.json").read_text())
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


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_table_fits_a_terminal_of_80_columns(classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 20)
    table = predict_module._table([f"{'folder/' * number}digit.png" for number in range(20)], probabilities)
    assert max(map(len, table)) <= 80
    assert len(set(table)) == len(table)


def test_files_that_are_no_images(finished, tmp_path, capsys):
    (tmp_path / "text.png").write_text("seven")
    (tmp_path / "empty.png").write_bytes(b"")
    PIL.Image.new("L", (28, 28), 0).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    for name in ("text.png", "empty.png", "half.png"):
        refused(capsys, [finished.folder, tmp_path / name], name, "image")
    refused(capsys, [finished.folder, tmp_path / "none.png"], "none.png", "No such file")
    refused(capsys, [finished.folder, tmp_path], str(tmp_path))
    refused(capsys, [finished.folder, tmp_path / ("x" * 300)], "too long")


def test_without_a_picture_both_arguments_are_named(tmp_path, capsys):
    refused(capsys, [], "RUN")


def test_one_bad_image_among_good_ones_is_named(finished, digits, tmp_path, capsys):
    PIL.Image.fromarray(digits[0][0]).save(tmp_path / "good.png")
    refused(capsys, [finished.folder, tmp_path / "good.png", tmp_path / "bad.png"], "bad.png")


def test_names_that_are_no_text_are_printed(finished, digits, tmp_path, capsys):
    path = tmp_path / "seven \udcff ٧.png"
    PIL.Image.fromarray(digits[0][0]).save(path)
    assert run(["predict", str(finished.folder), str(path), "--json", str(tmp_path / "rows.json")]) == 0
    assert "٧" in capsys.readouterr().out


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


def tied(folder):
    """Makes a changed folder look as if a run had written it like that, so that what comes behind is tested."""
    names = ("config.json", "metrics.jsonl", "model.safetensors")
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "result.json").write_text(signed_text({"files": checksums}))


def test_a_run_folder_can_be_copied(copy):
    assert run(["predict", *map(str, copy)]) == 0


def test_folders_without_a_run(tmp_path, copy, capsys):
    folder, image = copy
    refused(capsys, [tmp_path / "missing", image], "missing", "functional-nn train --out")
    refused(capsys, [image, image], "digit.png")
    (folder / "model.safetensors").unlink()
    refused(capsys, [folder, image], "model.safetensors")
    (folder / "model.safetensors").mkdir()
    refused(capsys, [folder, image], "model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content.replace(b"F32", b"F99"),
        lambda content: content.replace(b"[784,64]", b"[64,784]"),
        lambda content: pickle.dumps({"params": 1}),
    ],
)
def test_damaged_parameters(copy, capsys, damage):
    folder, image = copy
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(capsys, [folder, image], str(path), "belongs to result.json")
    tied(folder)
    refused(capsys, [folder, image], str(path))


def test_parameters_of_another_network_are_listed(copy, capsys):
    folder, image = copy
    path = folder / "model.safetensors"
    other = load_file(path)
    other["params/dense_0/weight"] = np.zeros((784, 32), np.float32)
    other["params/dense_7/bias"] = other.pop("params/dense_1/bias")
    path.write_bytes(packed(other, {}))
    tied(folder)
    refused(
        capsys,
        [folder, image],
        "params/dense_0/weight float32(784, 32) instead of float32(784, 64)",
        "params/dense_1/bias nothing instead of float32(10,)",
        "params/dense_7/bias float32(10,) instead of nothing",
    )


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[" * 100_000, b"\xff\xfe\0\x80"])
def test_configurations_that_are_none(copy, capsys, content):
    folder, image = copy
    (folder / "config.json").write_bytes(content)
    tied(folder)
    refused(capsys, [folder, image], str(folder / "config.json"))


WRONG = {
    "hidden": [None, [0], [1.5]],
    "classes": [],  # wrong ones, and those of other fields, are in tests/configuration
    "image_shape": [],
    "model": ["perceptron"],
    "activation": [None, "rleu"],
    "dropout": [None, 1.5],
    "batch_norm": [None, 2],
    "seed": [None],
}


@pytest.mark.parametrize("name", WRONG)
def test_configurations_with_wrong_entries(copy, capsys, name):
    folder, image = copy
    path = folder / "config.json"
    good = json.loads(path.read_text())
    del good["sha256"]
    for value in WRONG[name]:
        path.write_text(signed_text({**good, name: value}))
        tied(folder)
        refused(capsys, [folder, image], str(path))
    if name not in DEFAULTS or DEFAULTS[name] is None:  # a folder from before a setting has its default
        path.write_text(signed_text({key: value for key, value in good.items() if key != name}))
        tied(folder)
        refused(capsys, [folder, image], str(path), name)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "result.json"])
def test_files_that_belong_together_are_tied(copy, capsys, name):
    """Another activation in the configuration would give other predictions; every byte is looked at here."""
    folder, image = copy
    path = folder / name
    good = path.read_bytes()
    for place in {0, len(good) // 2, len(good) - 1}:
        changed = bytearray(good)
        changed[place] ^= 1
        path.write_bytes(changed)
        refused(capsys, [folder, image], str(path))
    path.unlink()
    refused(capsys, [folder, image], str(path))


def test_parameters_that_are_not_finite_are_no_answer(copy, capsys):
    folder, image = copy
    path = folder / "model.safetensors"
    arrays = load_file(path)
    arrays["params/dense_1/bias"][3] = np.nan
    path.write_bytes(packed(arrays, {}))
    tied(folder)
    refused(capsys, [folder, image], f"{path}: expected finite numbers, got NaN or infinity in params/dense_1/bias")


def test_json_into_a_folder_that_is_missing(copy, tmp_path, capsys):
    refused(capsys, [*copy, "--json", tmp_path / "missing" / "rows.json"], "--json")


def test_batch_norm_and_dropout_are_predicted_as_in_evaluation(tiny, tmp_path, capsys):
    folder, image = tmp_path / "run", tmp_path / "image.png"
    assert run([*tiny, "--batch-norm", "--dropout", "0.5", "--out", str(folder)]) == 0
    PIL.Image.fromarray(np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)).save(image)
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert run(["predict", str(folder), str(image)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert re.search(r"image\.png +\d ", outputs[0])
