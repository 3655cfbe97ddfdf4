"""Messages about files: one line, without codes for the terminal, and little of what a file holds."""

import numpy as np
import PIL.Image
import pytest

from functional_nn import DataError, InputError, cli, load_dataset
from functional_nn.bench.records import read_records
from functional_nn.core.errors import short_repr, shortened
from functional_nn.core.validation import shown
from functional_nn.data import read_idx, write_idx
from functional_nn.data.dataset import make_dataset
from functional_nn.data.images import read_image

ESCAPE = "\x1b[31m\x07"


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 10**6, ESCAPE * 100, b"\x1b" * 500, list(range(10**5)), {"a": "\n" * 900}])
def test_a_value_is_cut_to_80_printable_characters(value):
    for text in (shown(value), short_repr(value), shortened(value)):
        assert len(text) <= 80
        assert text.isprintable()


def test_values_that_python_cannot_write():
    assert short_repr(nested(100_000)) == "a list that is too large to show"
    assert short_repr(int("9" * 4000) ** 2) == "a int that is too large to show"
    assert short_repr([1, "a"]) == "[1, 'a']"


def test_an_error_has_no_control_characters():
    error = InputError(f"x{ESCAPE}", "one line", "two\nlines \udcff", "Über α → β “…”.")
    assert str(error) == r"x\x1b[31m\x07: expected one line, got two\nlines \udcff. Über α → β “…”."


def test_names_of_folders_with_idx_files(tmp_path, capsys):
    folder = tmp_path / ESCAPE
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as error:
        load_dataset("mine", folder)
    assert str(error.value).isprintable()
    (folder / "train-labels-idx1-ubyte").write_bytes(ESCAPE.encode())
    with pytest.raises(DataError) as error:
        read_idx(folder / "train-labels-idx1-ubyte")
    assert str(error.value).isprintable()
    assert cli.run(["train", "--dataset", "mine", "--data-dir", str(folder)]) == 2
    assert capsys.readouterr().err.strip().isprintable()


def test_records_of_measurements(tmp_path):
    path = tmp_path / "records.jsonl"
    for line in ('{"a": "' + "x" * 500 + '"}', f'"{ESCAPE}"', ESCAPE + "x" * 500, "[" * 100_000):
        path.write_text(line)
        with pytest.raises(DataError, match="line 1") as error:
            read_records(path)
        assert str(error.value).isprintable()
        assert "x" * 81 not in str(error.value)


def test_images(tmp_path):
    path = tmp_path / "image.png"
    PIL.Image.new("L", (28, 28), 0).save(path)
    path.write_bytes(path.read_bytes()[:50] + ESCAPE.encode() * 100)
    with pytest.raises(DataError) as error:
        read_image(path, (28, 28, 1), digits=True)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < len(str(path)) + 250


def test_data_sets():
    images, labels = np.zeros((1, 2, 2), np.uint8), np.zeros(1, int)
    with pytest.raises(DataError) as error:
        make_dataset("mine", images, labels, images, labels, classes="x" * 500, source="here")  # pyright: ignore
    assert "x" * 81 not in str(error.value)
    with pytest.raises(DataError) as error:
        load_dataset("x/" * 500)
    assert len(str(error.value)) < 250
