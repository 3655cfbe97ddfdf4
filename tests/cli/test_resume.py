"""``functional-nn train --resume``: stopped by a signal or killed, a run goes on and ends as if nothing had been."""

import json
import signal
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.bits import bits
from tests.cli.conftest import result_of
from tests.other_process import started, wait_until

from functional_nn import cli
from functional_nn.cli import run
from functional_nn.configuration.settings import Configuration
from functional_nn.storage import run_folder

pytestmark = pytest.mark.usefixtures("no_pages")


def outcome(folder: Path) -> tuple:
    """What must be the same: parameters, the lines of metrics but for their seconds, and the last checkpoint."""
    newest = max((folder / "checkpoints").glob("[0-9]*"))
    files = (folder / "model.safetensors", folder / "metrics.jsonl", newest)
    return *map(bits, files), sorted(path.name for path in (folder / "checkpoints").iterdir())


def ended_after(folder: Path, process: subprocess.Popen, epochs: int, number: int) -> tuple[int, str, str]:
    """Sends a signal when so many epochs are in the metrics; the exit status, and what was printed."""
    metrics = folder / "metrics.jsonl"
    wait_until(process, lambda: metrics.exists() and metrics.read_text().count("\n") >= epochs)
    process.send_signal(number)
    out, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run([*tiny, "--epochs", "6", "--out", str(folder)]) == 0
    return outcome(folder)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
@pytest.mark.processes
def test_a_signal_saves_and_the_same_command_goes_on(tiny, tmp_path, number, status):
    """``--checkpoint-minutes`` would save nothing for an hour, but for the first epoch and the signal."""
    folder, result = tmp_path / "run", tmp_path / "result.json"
    long = [*tiny, "--epochs", "100000", "--out", folder, "--checkpoint-minutes", "60", "--json", result]
    ended, out, err = ended_after(folder, started(*long), 3, number)
    assert ended == status, err
    assert err.splitlines()[-1] == "Stopped."
    reached = len((folder / "metrics.jsonl").read_text().splitlines())
    assert reached >= 3
    assert f"Interrupted after {reached} of 100000 epochs" in err
    assert "To continue: the same command with --resume.\n" in err
    assert f"after {reached} epochs" in out.splitlines()[-1]
    written = json.loads(result.read_text())
    assert (written["status"], written["epochs"]) == ("interrupted", reached)
    run_folder.verify_run_folder(folder)
    saved = sorted(path.name for path in (folder / "checkpoints").glob("[0-9]*"))
    assert saved[-1] == f"{reached:010d}.checkpoint.safetensors"
    assert (folder / "checkpoints" / "0000000001.checkpoint.safetensors").exists() or len(saved) == 3
    more = [*tiny, "--epochs", str(reached + 2), "--out", str(folder)]
    assert run([*more, "--resume"]) == 0
    assert run([*tiny, "--epochs", str(reached + 2), "--out", str(tmp_path / "whole")]) == 0
    assert outcome(folder)[:3] == outcome(tmp_path / "whole")[:3]


def test_the_same_command_goes_on_after_an_interruption(tiny, whole, tmp_path, monkeypatch, capsys):
    """Interrupted between the checkpoint and the line of metrics, so that one is ahead of the other."""
    append = run_folder.append_metrics

    def interrupted(folder, metrics):
        if metrics["epoch"] == 4:
            raise KeyboardInterrupt
        append(folder, metrics)

    command = [*tiny, "--epochs", "6", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        patched.setattr(run_folder, "finish_run_folder", lambda *arguments: None)
        assert run(command) == 130
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert result_of([*command, "--resume"], tmp_path)["restored_epochs"] == 4
    printed = capsys.readouterr().out
    assert "after 6 epochs, 4 of them from a checkpoint" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:-2]] == ["1", "2", "3", "4", "5", "6"]
    assert outcome(tmp_path / "run") == whole


def test_a_finished_run_and_one_that_never_began(tiny, whole, tmp_path, capsys):
    command = [*tiny, "--epochs", "6", "--out", str(tmp_path / "run"), "--resume"]
    for restored in (0, 6):
        assert run(command) == 0
        assert outcome(tmp_path / "run") == whole
        assert (f"{restored} of them from a checkpoint" in capsys.readouterr().out) == (restored > 0)


def test_a_run_goes_on_without_a_damaged_configuration_as_the_message_says(tiny, whole, tmp_path, refused):
    command, folder = [*tiny, "--epochs", "6", "--out", str(tmp_path / "run"), "--resume"], tmp_path / "run"
    assert run([*tiny, "--epochs", "4", "--out", str(folder)]) == 0
    (folder / "config.json").write_text("{")
    refused(command, "keep only its folder checkpoints, and train with --resume and the same flags")
    for file in filter(Path.is_file, folder.iterdir()):
        file.unlink()
    assert result_of(command, tmp_path)["restored_epochs"] == 4
    assert outcome(folder) == whole


def test_resume_alone_has_the_settings_of_the_run(tiny, whole, tmp_path, refused):
    """Only the data are named again: no folder chooses which files are opened."""
    folder = tmp_path / "run"
    assert run([*tiny, "--epochs", "4", "--out", str(folder)]) == 0
    alone = ["train", "--out", str(folder), "--resume", "--epochs", "6"]
    refused(alone, "--resume: expected the data to train on, by --data-dir", "trained on 'tiny'")
    assert run([*alone, *tiny[3:5]]) == 0
    assert outcome(folder) == whole
    assert json.loads((folder / "config.json").read_text())["optimizer"] == "sgd"
    refused([*alone, *tiny[3:5], "--optimizer", "adam"], "optimizer")


def test_a_warning_has_no_code_and_no_control_characters():
    with cli._one_line_warnings():
        said = warnings.formatwarning("\x1b[31mred\nsecond", UserWarning, "file.py", 1)
    assert said == "Warning: \\x1b[31mred\nsecond\n"


def test_other_flags_are_refused_and_listed(tiny, tmp_path, refused):
    command = [*tiny, "--out", str(tmp_path / "run")]
    assert run([*command, "--schedule", "cosine"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = [*command, "--resume", "--seed", "5", "--learning-rate", "0.2", "--epochs", "9"]
    changed += ["--schedule", "constant"]
    words = ("learning_rate 0.1 instead of 0.2", 'schedule "cosine" instead of "constant"', "seed 0 instead of 5")
    refused(changed, *words)
    refused([*command, "--schedule", "cosine", "--epochs", "3", "--resume"], "epochs 2 instead of 3")
    assert {path: path.read_bytes() for path in before} == before
    refused(command, "Use another folder. With --resume the run in it goes on.")


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_folder_from_before_a_setting_has_its_default(tiny, tmp_path, monkeypatch, refused, name):
    command = [name, *tiny[1:], "--out", str(tmp_path / "run")]
    now = Configuration.settings

    def before(configuration):
        settings = now(configuration)
        del settings["clip_norm"]
        return settings

    with monkeypatch.context() as earlier:
        earlier.setattr(Configuration, "settings", before)
        assert run(command) == 0
    again = [*command, "--resume"] if name == "train" else command
    assert run(again) == 0
    refused([*again, "--clip-norm", "5"], "clip_norm null instead of 5.0")


@pytest.mark.parametrize("flags", [["--resume"], ["--checkpoint-minutes", "5"]])
def test_some_flags_need_a_folder(flags, tiny, refused):
    refused([*tiny, *flags], f"{flags[0]}: expected the run's folder in --out")


def test_clipped_steps_are_reported(tiny, tmp_path, capsys):
    written = result_of([*tiny, "--clip-norm", "0.01"], tmp_path)
    assert "  3 clipped" in capsys.readouterr().out
    assert (written["clipped_steps"], written["skipped_steps"]) == (6, 0)
    assert written["config"]["clip_norm"] == 0.01
    assert np.isfinite(written["train_loss"])
