"""The folder of a run: what is written when, and what is not overwritten."""

import json
import math
import tracemalloc

import jax
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.storage import run_folder
from functional_nn.storage.files import write_json

EPOCH = {"epoch": 1, "train_loss": 0.5, "test_loss": 0.25, "test_accuracy": 0.75, "seconds": 0.125}


def opened(folder, resume=False):
    with run_folder.opened_run_folder(folder, resume):
        pass


def test_an_opened_folder_stays_empty_and_a_new_one_leaves_unless_it_is_used(tmp_path):
    (tmp_path / "old").mkdir()
    opened(tmp_path / "old")
    opened(tmp_path / "a" / "b")
    assert list((tmp_path / "old").iterdir()) == []
    assert list((tmp_path / "a").iterdir()) == []


def test_a_folder_with_a_run_is_refused_and_kept(tmp_path):
    run_folder.create_run_folder(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="Use another folder"):
        opened(tmp_path)
    assert run_folder.read_configuration(tmp_path) == {"seed": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "metrics.jsonl"]


def test_a_run_goes_on_only_from_checkpoints(tmp_path):
    opened(tmp_path, resume=True)
    run_folder.create_run_folder(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="--resume: expected a run with checkpoints"):
        opened(tmp_path, resume=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "0000000001.checkpoint.safetensors").touch()
    opened(tmp_path, resume=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"Use another folder\. With --resume the run in it goes on"):
        opened(tmp_path)


def test_leftovers_go_and_other_files_are_kept(tmp_path):
    for name in ("notes.txt", ".mine.tmp", ".config.json.1.functional_nn.tmp"):
        (tmp_path / name).write_text("mine")
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_refused_run_leaves_the_half_written_file_of_another_command(tmp_path):
    """Such as that of ``report``, which needs no lock."""
    run_folder.create_run_folder(tmp_path, {})
    (half := tmp_path / ".report.functional_nn.tmp").touch()
    with pytest.raises(InputError, match="a folder without a run in it"):
        opened(tmp_path)
    assert half.exists()


def test_what_is_not_finite_becomes_null(tmp_path):
    run_folder.append_metrics(tmp_path, EPOCH | {"train_loss": math.inf, "test_accuracy": math.nan})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["train_loss"], line["test_accuracy"], line["test_loss"]) == (None, None, 0.25)
    nested = {"a": [1, math.nan, {"b": (-math.inf, "x", None, True)}], "c": "NaN"}
    write_json(tmp_path / "file", nested)
    read = json.loads((tmp_path / "file").read_text(), parse_constant=pytest.fail)
    assert read == {"a": [1, None, {"b": [None, "x", None, True]}], "c": "NaN"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_configurations_that_are_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json.*functional-nn train --out"):
        run_folder.read_configuration(tmp_path)


@pytest.fixture
def trained():
    """Parameters and state of a network with both."""
    return fnn.models.mlp(3, hidden=(5,), batch_norm=True).init(jax.random.key(0), (6, 6, 1))


@pytest.mark.parametrize("value", ['"x"', "[1]", "1" + "0" * 400, "NaN"])
def test_metrics_that_are_no_numbers(tmp_path, value):
    run_folder.create_run_folder(tmp_path, {})
    run_folder.append_metrics(tmp_path, EPOCH)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(f'{{"epoch": 2, "train_loss": {value}}}\n')
    with pytest.raises(DataError, match="line 2: expected the metrics of epoch 2, as numbers"):
        run_folder.read_metrics(tmp_path)


def test_rows_of_too_many_entries_are_refused(tmp_path, monkeypatch):
    """A line of 128 MiB would take gigabytes."""
    run_folder.append_metrics(tmp_path, EPOCH)
    run_folder.create_layer_statistics(tmp_path, [{"epoch": 1, "examples": 1, "outputs": {}, "gradients": {}}])
    monkeypatch.setattr("functional_nn.storage.files.MOST_ENTRIES", 2)
    with pytest.raises(DataError, match="line 1: expected the metrics of epoch 1, as numbers"):
        run_folder.read_metrics(tmp_path)
    with pytest.warns(UserWarning, match="is damaged, and is left out"):
        assert run_folder.read_layer_statistics(tmp_path) == []


def test_damaged_rows_have_one_warning(tmp_path):
    row = {"epoch": 1, "examples": 1, "outputs": {}, "gradients": {}}
    run_folder.create_layer_statistics(tmp_path, [row])
    with open(tmp_path / "layer_statistics.jsonl", "ab") as file:
        file.write(b"{}\n" * 3000)
    with pytest.warns(UserWarning, match=r"line 2: it is damaged, and is left out\. .* 2,999 more") as warned:
        assert run_folder.read_layer_statistics(tmp_path) == [row]
    assert len(warned) == 1


def test_statistics_of_an_epoch_are_read_once(tmp_path):
    """The page of a run of 3 epochs showed lines of 4."""
    rows = [{"epoch": epoch, "examples": 1, "outputs": {}, "gradients": {}} for epoch in (1, 2, 2, 1, 3)]
    run_folder.create_layer_statistics(tmp_path, rows)
    with pytest.warns(UserWarning, match=r"line 3: it is damaged, and is left out\. .* 1 more"):
        assert [row["epoch"] for row in run_folder.read_layer_statistics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("end", [*(bytes([10 ^ 1 << bit]) for bit in range(8)), b"", b"[3", b'{"epoch": 3'])
def test_a_row_without_its_end_is_damaged_and_a_half_written_one_is_not(tmp_path, end):
    row = {"epoch": 1, "examples": 1, "outputs": {"a": {"units": 1, "dead": 0}}, "gradients": {}}
    run_folder.create_layer_statistics(tmp_path, [row, row | {"epoch": 2}])
    path = tmp_path / "layer_statistics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.removesuffix(b"\n") + end)
    with pytest.warns(UserWarning, match="line 2: it is damaged"):
        assert run_folder.read_layer_statistics(tmp_path) == [row]
    path.write_bytes(content[:-3])  # as a killed run leaves it
    assert run_folder.read_layer_statistics(tmp_path) == [row]


def test_no_row_is_read_after_a_damaged_one(tmp_path):
    """As a list, the lines of a file of 128 MiB took 3.8 GiB."""
    (tmp_path / "metrics.jsonl").write_bytes(b"1\n" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="line 1: expected the metrics of epoch 1, as numbers"):
        run_folder.read_metrics(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_changed_or_a_missing_file_is_named(tmp_path, trained):
    run_folder.create_run_folder(tmp_path, {"seed": 1})
    with pytest.raises(DataError, match=r"result\.json: expected the result of a run"):
        run_folder.verify_run_folder(tmp_path)
    run_folder.finish_run_folder(tmp_path, *trained, [EPOCH], {})
    run_folder.append_metrics(tmp_path, EPOCH)
    with pytest.raises(DataError, match=r"metrics\.jsonl: expected the file that belongs to result\.json"):
        run_folder.verify_run_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json: expected a file of the run"):
        run_folder.verify_run_folder(tmp_path)
