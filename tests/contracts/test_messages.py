"""Messages about files: one line, without codes for the terminal, and little of what a file holds."""

import numpy as np
import pytest

from functional_nn import DataError, InputError, cli, load_dataset
from functional_nn.core.errors import shortened, shown
from functional_nn.data import read_idx, write_idx

ESCAPE = "\x1b[31m\x07"


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 10**6, ESCAPE * 100, b"\x1b" * 500, list(range(10**5)), {"a": "\n" * 900}])
def test_a_value_is_cut_to_80_printable_characters(value):
    for text in (shown(value), shortened(value)):
        assert len(text) <= 80
        assert text.isprintable()


def test_values_that_python_cannot_write():
    assert shown(nested(100_000)) == "a list that is too large to show"
    assert shown(int("9" * 4000) ** 2) == "a int that is too large to show"
    assert shown([1, "a"]) == "[1, 'a']"


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
