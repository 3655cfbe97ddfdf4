"""``functional-nn train --keep-best``, and the learning rate in what a run writes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cli.conftest import reported

from functional_nn.cli import run
from functional_nn.storage import run_folder

pytestmark = pytest.mark.usefixtures("no_pages")
TOO_FAST = ["--learning-rate", "4", "--epochs", "6", "--validation", "0.2", "--batch-size", "24"]
"""Flags of a run whose best epoch is not the last one."""


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def result_of(folder) -> dict:
    run_folder.verify_run_folder(folder)
    return json.loads((folder / "result.json").read_text())


def check_best_is_kept(folder):
    """Parameters and metrics of a run are those of its best epoch, which is not the last one."""
    rows, result = rows_of(folder), result_of(folder)
    losses = [row["validation_loss"] for row in rows]
    best = 1 + losses.index(min(losses))
    assert best < len(rows)
    assert (result["kept_epoch"], result["epochs"]) == (best, len(rows))
    assert {name: result[name] for name in ("train_loss", "validation_loss")} == {
        name: rows[best - 1][name] for name in ("train_loss", "validation_loss")
    }
    kept = load_file(folder / "model.safetensors")
    saved = load_file(folder / "checkpoints" / f"{best:010d}.checkpoint.safetensors")
    for name, array in kept.items():
        np.testing.assert_array_equal(array, saved[f"train_state/{name}"])
    return best, result


def test_the_best_epoch_is_kept_and_reported(tiny, tmp_path, capsys):
    best_folder, short_folder = tmp_path / "best", tmp_path / "short"
    assert run([*tiny, *TOO_FAST, "--keep-best", "--out", str(best_folder)]) == 0
    best, result = check_best_is_kept(best_folder)
    last_line = f"test accuracy {result['test_accuracy']:.4f} in epoch {best}, with the lowest loss of 6 epochs"
    assert last_line in capsys.readouterr().out
    assert f"The parameters are those of epoch {best}, the best one." in reported(best_folder)
    # A run that ends with this epoch has the same parameters, and evaluates the same test examples.
    assert run([*tiny, *TOO_FAST, "--epochs", str(best), "--out", str(short_folder)]) == 0
    expected = result_of(short_folder)
    assert result["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
    assert result["test_accuracy"] == expected["test_accuracy"]
    files = [(folder / "model.safetensors").read_bytes() for folder in (best_folder, short_folder)]
    assert files[0] == files[1]


def test_the_best_epoch_is_kept_by_a_resumed_run(tiny, tmp_path, monkeypatch):
    append = run_folder.append_metrics

    def interrupted(folder, metrics):
        append(folder, metrics)
        if metrics["epoch"] == 5:
            raise KeyboardInterrupt

    command = [*tiny, *TOO_FAST, "--keep-best", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        assert run(command) == 130
    best, result = check_best_is_kept(tmp_path / "run")
    assert result["status"] == "interrupted"
    assert result["test_loss"] is None  # the test examples are evaluated at the end of a run
    command.remove("--keep-best")  # it goes on with its own settings
    assert run([*command, "--resume"]) == 0
    again, result = check_best_is_kept(tmp_path / "run")
    assert (again, result["restored_epochs"]) == (best, 5)


@pytest.mark.slow
def test_the_last_epoch_is_kept_if_no_loss_is_finite(tiny, tmp_path, capsys):
    flags = ["--learning-rate", "1e38", "--epochs", "3", "--keep-best", "--out", str(tmp_path / "run")]
    assert run([*tiny, *flags]) == 1
    result = result_of(tmp_path / "run")
    assert (result["status"], result["kept_epoch"]) == ("non-finite", len(rows_of(tmp_path / "run")))
    assert "No epoch has a finite loss, so --keep-best keeps the last one." in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--out", "run", "--checkpoint-minutes", "1"]])
def test_keep_best_needs_a_checkpoint_of_every_epoch(tiny, tmp_path, monkeypatch, refused, flags):
    monkeypatch.chdir(tmp_path)
    refused([*tiny, "--keep-best", *flags], "--keep-best: expected")
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_that_was_not_saved_is_named(tiny, tmp_path, capsys):
    command = [*tiny, *TOO_FAST, "--out", str(tmp_path / "run")]
    assert run([*command, "--checkpoint-minutes", "60"]) == 0
    assert run([*command, "--keep-best", "--resume"]) == 0
    losses = [row["validation_loss"] for row in rows_of(tmp_path / "run")]
    best = 1 + losses.index(min(losses))
    assert result_of(tmp_path / "run")["kept_epoch"] == 1 != best
    assert f"Epoch {best} was better than epoch 1, but it has no checkpoint that is whole." in capsys.readouterr().err


def test_the_learning_rate_is_in_metrics_result_and_table(tiny, tmp_path, capsys):
    assert run([*tiny, "--schedule", "step", "--epochs", "4", "--out", str(tmp_path / "run")]) == 0
    assert [row["learning_rate"] for row in rows_of(tmp_path / "run")] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert result_of(tmp_path / "run")["learning_rate"] == pytest.approx(0.001)
    assert [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[3:7]] == [
        f"learning rate {rate}" for rate in (0.1, 0.1, 0.01, 0.001)
    ]
    assert "learning rate by epoch: " in reported(tmp_path / "run")
