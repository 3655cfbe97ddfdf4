"""Messages about files: one line, without codes for the terminal, and little of what a file holds."""

import numpy as np
import pytest

from functional_nn import DataError, InputError, cli, dense, exchange, load_dataset, names, storage
from functional_nn.core.errors import shortened, shown
from functional_nn.core.validation import check_choice
from functional_nn.data import read_idx, write_idx
from functional_nn.training.precision import as_precision

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


LONG = "x" * 10**6


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_dataset(LONG),
        lambda: load_dataset(f"folder:{LONG}"),
        lambda: load_dataset("folder:" + "x/" * 10**5),
        lambda: load_dataset("mnist", LONG),
        lambda: exchange.load(LONG),
        lambda: exchange.from_torch(dense(1), LONG, (1,)),
        lambda: storage.restore_checkpoint(LONG, {}),
        lambda: storage.load_parameters(LONG, ({}, {})),
        lambda: as_precision(LONG),
        lambda: check_choice("non_finite", LONG, names.NON_FINITE),
        lambda: check_choice("non_finite", np.zeros(2), names.NON_FINITE),
    ],
)
def test_long_texts_are_refused_in_a_short_sentence(call):
    with pytest.raises(InputError) as error:
        call()
    assert len(str(error.value)) < 400
