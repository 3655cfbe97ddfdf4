"""``config.json`` of a run with anything in it: one line says what is wrong, whatever JSON can hold."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from functional_nn import DataError, cli
from functional_nn.configuration.settings import DEFAULTS, Configuration
from functional_nn.storage.files import signed_text
from functional_nn.storage.run_folder import read_configuration

GOOD = DEFAULTS | {"dataset": "mnist", "hidden": [8], "activation": "relu", "classes": 10, "image_shape": [28, 28, 1]}
NAMES = [field.name for field in fields(Configuration)]
FREE_TEXTS = ("dataset", "data_dir", "label", "freeze")

# As JSON texts. Python's JSON takes integers of 4,300 digits.
NO_VALUES = {
    "10**18": "1" + "0" * 18,
    "10**400": "1" + "0" * 400,
    "nested": "[" * 20 + "]" * 20,
    "a list of a list": "[[3]]",
    "a dict": '{"a": 1}',
    "-1": "-1",
}


def written(folder: Path, **changes: str) -> Path:
    """A run folder with only a configuration, in which some values are these JSON texts."""
    values = GOOD | {name: json.loads(text) for name, text in changes.items()}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(signed_text(values))
    return folder


def read(folder: Path) -> Configuration:
    return Configuration.from_dict(read_configuration(folder), folder / "config.json")


def test_the_good_one_is_read(tmp_path):
    configuration = read(written(tmp_path))
    assert (configuration.hidden, configuration.dropout, configuration.clip_norm) == ((8,), 0.0, None)


def test_a_value_that_was_removed_is_named(tmp_path):
    with pytest.raises(DataError, match="got one with hidden missing"):
        read(written(tmp_path, hidden="null"))


@pytest.mark.parametrize("value", NO_VALUES)
@pytest.mark.parametrize("name", NAMES)
def test_values_that_no_flag_takes(tmp_path, name, value):
    with pytest.raises(DataError) as error:
        read(written(tmp_path, **{name: NO_VALUES[value]}))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: expected a run's configuration, got one with {name} ")
    assert message.isprintable()
    assert len(message) < len(str(tmp_path)) + 400


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FREE_TEXTS])
def test_texts_that_no_flag_takes(tmp_path, name):
    for text in ("\x1b[31m", "x" * 10_000):
        with pytest.raises(DataError, match=f"one with {name} ") as error:
            read(written(tmp_path, **{name: json.dumps(text)}))
        assert str(error.value).isprintable()
        assert "x" * 81 not in str(error.value)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "shift", "devices", "dropout", "learning_rate"])
def test_true_is_no_number(tmp_path, name):
    with pytest.raises(DataError, match=f"one with {name} True"):
        read(written(tmp_path, **{name: "true"}))


@pytest.fixture
def unsigned(monkeypatch):
    """Leaves out the checksums of a run folder, which refuse a changed configuration before it is looked at."""
    monkeypatch.setattr("functional_nn.storage.run_folder.verify_run_folder", lambda *about: None)


IMAGE_SHAPES = [
    *("null", '"abc"', "[28, 28]", "[28, 28, 0]", "[28, 28, true]"),
    *("[100000, 100000, 1]", "[[28], 28, 1]", "[" * 20 + "]" * 20),
]
CLASSES = ["-1", "[[3]]", "0", "true", '"10"', "null", "1.5", "10.0"]


@pytest.mark.parametrize(
    ("name", "text"),
    [*(("classes", text) for text in CLASSES), *(("image_shape", text) for text in IMAGE_SHAPES)],
)
def test_predict_refuses_classes_and_image_shapes_that_are_none(unsigned, tmp_path, capsys, name, text):
    folder = written(tmp_path / "run", **{name: text})
    assert cli.run(["predict", str(folder), str(tmp_path / "digit.png")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"Error: {folder / 'config.json'}: expected a run's configuration")
    assert name in captured.err
    assert len(captured.err) < len(str(tmp_path)) + 400
