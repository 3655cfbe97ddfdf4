"""``functional-nn sweep``: what it prints and writes, how it goes on, and what it refuses."""

import csv
import json
import signal

import numpy as np
import pytest
from tests.bits import bits
from tests.cli.conftest import result_of
from tests.other_process import started, wait_until

import functional_nn as fnn
from functional_nn import cli
from functional_nn.storage import run_folder
from functional_nn.storage.files import signed_text

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture
def swept(tiny):
    """Flags of a sweep that takes a moment, on the set of ``tiny``."""
    _, *flags = tiny
    return ["sweep", *flags]


def test_a_sweep_prints_a_table_and_writes_json_tables_and_pictures(swept, tmp_path, capsys):
    out, result = tmp_path / "out", tmp_path / "s.json"
    flags = ["--learning-rate", "0.01,0.1", "--dropout", "0,0.3", "--seeds", "3"]
    assert cli.run([*swept, *flags, "--out", str(out), "--json", str(result)]) == 0
    printed = capsys.readouterr().out
    assert "12 models on cpu: mlp 8-3\n" in printed
    heads = [line.split() for line in printed.splitlines() if "models" in line]
    assert heads[1][:5] == ["learning_rate", "dropout", "models", "test", "accuracy"]
    assert "best: member" in printed
    assert "12 finished in" in printed

    report = json.loads(result.read_text())
    assert report["compilations"] == 1
    assert report["seconds_per_model_epoch"] > 0
    assert report["config"]["hidden"] == [8]
    assert len(report["members"]) == 12
    for member in report["members"]:
        assert member["status"] == "finished"
        assert 0 < member["seconds_per_epoch"] < report["seconds"]
    assert {(m["learning_rate"], m["dropout"], m["seed"]) for m in report["members"]} == {
        (rate, dropout, seed) for rate in (0.01, 0.1) for dropout in (0.0, 0.3) for seed in range(3)
    }
    assert len({member["test_loss"] for member in report["members"]}) == 12

    with open(out / "members.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_loss"]) for row in rows] == [member["test_loss"] for member in report["members"]]
    lines = [json.loads(line) for line in (out / "members.jsonl").read_text().splitlines()]
    assert lines == report["members"]


def test_the_temporary_run_of_a_member_is_not_written_through_a_link(swept, tmp_path, monkeypatch):
    """Who may rename folders in TMPDIR can put a link in its place."""
    assert cli.run([*swept, "--seeds", "2", "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "precious").mkdir()
    create = run_folder.create_run_folder

    def swapped(run, values):
        run.rename(run.with_name("away"))
        run.symlink_to(tmp_path / "precious")
        create(run, values)

    monkeypatch.setattr(run_folder, "create_run_folder", swapped)
    fnn.exchange.load(tmp_path / "out")
    assert list((tmp_path / "precious").iterdir()) == []


def test_a_member_is_the_run_of_train(swept, tiny, tmp_path):
    """Gradient descent's rate is not rounded before it is traced, so the bits are the same."""
    alone = ["--seed", "1", "--learning-rate", "0.05", "--clip-norm", "0.5", "--label-smoothing", "0.2"]
    alone = result_of([*tiny, *alone], tmp_path)
    together = ["--seeds", "2", "--learning-rate", "0.1,0.05", "--clip-norm", "9,0.5", "--label-smoothing", "0,0.2"]
    *_, member = result_of([*swept, *together, "--plan", "map"], tmp_path)["members"]
    assert alone["clipped_steps"]
    settings = [member[name] for name in ("learning_rate", "clip_norm", "label_smoothing", "seed")]
    assert settings == [0.05, 0.5, 0.2, 1]
    for metric in ("test_accuracy", "test_loss", "train_loss"):
        assert member[metric] == alone[metric]


@pytest.mark.parametrize(
    ("flags", "settings", "groups"),
    [
        (["--hidden", "4/6,5", "--optimizer", "adamw", "--weight-decay", "0,1e-3"], 4, 2),
        pytest.param(["--model", "mlp,rnn", "--schedule", "constant,cosine"], 4, 4, marks=pytest.mark.slow),
        pytest.param(["--shift", "0,1", "--deform", "0.1,0.2"], 4, 2, marks=pytest.mark.slow),
        pytest.param(["--batch-size", "10,20", "--batch-norm"], 2, 2, marks=pytest.mark.slow),
    ],
)
def test_what_flags_make_of_it(flags, settings, groups, swept, tmp_path):
    report = result_of([*swept, *flags, "--quiet"], tmp_path)
    assert len(report["members"]) == settings
    assert report["compilations"] == report["plan"]["groups"] == groups
    assert all(member["status"] == "finished" for member in report["members"])


def test_draws_in_a_grid_file(swept, tmp_path):
    grid = tmp_path / "grid.toml"
    drawn = "[draws]\nnumber = 3\ndropout = {uniform = [0.1, 0.4]}\n"
    grid.write_text("[zip]\nl1 = [0.0, 1e-4]\nl2 = [0.0, 1e-3]\n" + drawn)
    members = result_of([*swept, "--grid", grid], tmp_path)["members"]
    assert len(members) == 6
    assert len({member["dropout"] for member in members}) == 3
    assert all(0.1 <= member["dropout"] <= 0.4 for member in members)
    assert {(member["l1"], member["l2"]) for member in members} == {(0.0, 0.0), (1e-4, 1e-3)}


def test_halving_patience_validation_and_metrics(swept, tmp_path, capsys):
    flags = "--learning-rate 0.001,0.01,0.1 --epochs 3 --halving 1 --halving-keep 0.4 --patience 2 --plan vmap:2"
    more = ["--validation", "0.25", "--metrics", "f1_score", "--out", tmp_path / "out"]
    report, printed = result_of([*swept, *flags.split(), *more], tmp_path), capsys.readouterr().out
    assert "validation loss" in printed
    assert "test f1 score" in printed
    columns = (tmp_path / "out" / "members.csv").read_text().splitlines()[0]
    assert columns.endswith("validation_f1_score,validation_loss,train_loss,seconds_per_epoch")
    assert sorted(member["epochs_run"] for member in report["members"]) == [1, 3, 3]
    assert report["plan"]["members_at_once"] == 2


def test_the_best_member_goes_on_as_a_run(swept, tiny, tmp_path, capsys, refused):
    out, data = tmp_path / (50 * "sweep"), fnn.load_dataset("tiny", tiny[4])  # a name may have 255 bytes
    halving = ["--learning-rate", "1e-9,0.05,0.2", "--epochs", "3", "--halving", "1", "--halving-keep", "0.4"]
    members = result_of([*swept, *halving, "--shift", "1", "--out", out], tmp_path)["members"]
    order = sorted(
        range(3), key=lambda number: (members[number]["status"] == "halved", -members[number]["test_accuracy"])
    )
    best, second, left_out = order
    for number, asked in ((best, None), (second, second)):
        predicted = fnn.exchange.load(out, asked).predict(data.test_images).argmax(-1)
        assert np.mean(predicted == data.test_labels) == pytest.approx(members[number]["test_accuracy"])
    capsys.readouterr()
    assert cli.run(["export", str(out), "--to", "hub", "--out", str(tmp_path / "hub")]) == 0
    assert f"Member({best}: learning_rate {members[best]['learning_rate']}" in capsys.readouterr().err
    assert f"--learning-rate {members[best]['learning_rate']}" in (tmp_path / "hub" / "README.md").read_text()
    assert fnn.exchange.load(tmp_path / "hub").configuration == fnn.exchange.load(out).configuration
    start = ["train", "--from", out, "--member", second, *tiny[1:5], "--epochs", "1"]
    assert result_of(start, tmp_path)["config"]["shift"] == 0  # how it trained is not taken over
    export = ["export", out, "--to", "torch", "--out", tmp_path / "m.safetensors", "--member"]
    refused(["train", "--member", "0"], "--member: expected the sweep's folder in --from")
    refused([*export, left_out], f"of member {left_out}, got none that can be read (its status: halved)")
    refused([*export, 3], "one of 3 members, from 0, got 3")
    refused(["export", tmp_path / "hub", *export[2:], 0], "hub has no sweep")
    rung = next((out / "batches").glob("*-1.safetensors"))
    rung.rename(out / "lost")  # then the metrics of the last epoch are not known, nor which parameters they belong to
    with pytest.raises(fnn.DataError, match=f"the parameters of member {best}, got none that can be read"):
        fnn.exchange.load(out, best)
    (out / "lost").rename(rung)
    next((out / "batches").glob("*-end.safetensors")).unlink()  # as after Ctrl-C
    with pytest.warns(UserWarning, match="or a file is damaged. This is the best of 2 of 3 members"):
        fnn.exchange.load(out)
    settings = json.loads((out / "sweep.json").read_text())
    without_epochs = {key: settings[key] for key in settings.keys() - {"sha256", "epochs"}}
    settings["grid"] = [member | {"model": ["mlp"]} for member in settings["grid"]]  # by a stranger
    (out / "sweep.json").write_text(signed_text({name: settings[name] for name in settings if name != "sha256"}))
    with pytest.raises(
        fnn.DataError, match=r"sweep\.json: expected a run's configuration, got one with model \['mlp'\]"
    ):
        fnn.exchange.load(out, best)
    (out / "sweep.json").write_text(signed_text(without_epochs))
    with pytest.raises(fnn.DataError, match=r"a run.s configuration, got one with epochs None"):
        fnn.exchange.load(out, best)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rate", "0.1,x"], "expected a number above 0, got 'x'"),
        (["--optimizer", "adam,sgdd"], "Did you mean sgd?"),
        (["--weight-decay", "0.1", "--optimizer", "adam"], "expected an optimizer with weight decay"),
        (["--model", "mlp,lstm", "--batch-norm"], "--batch-norm: expected only flags that lstm takes"),
        (["--grid", "nowhere.toml"], "nowhere.toml: expected a file of TOML text"),
        (["--plan", "quick"], "plan: expected a known name"),
        (["--halving-keep", "0.5"], "--halving-keep: expected also --halving, got none"),
        (["--learning-rat", "0.1"], "Did you mean"),
        (["--hidden", "4;6"], "in a sweep, several networks: 128,64/256"),
    ],
)
def test_wrong_flags(flags, message, swept, refused):
    refused([*swept, *flags], message)


@pytest.mark.processes
def test_a_signal_keeps_what_was_finished(swept, tmp_path):
    out = tmp_path / "out"
    process = started(*swept, "--seeds", 4000, "--out", out)
    wait_until(process, lambda: len(list(out.glob("batches/*.safetensors"))) >= 3)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert "not run" in printed
    assert "the finished ones are kept.\n" in printed
    assert "\nThe same command continues the sweep.\n" in printed
    with open(out / "members.csv", newline="") as file:
        finished = [row for row in csv.DictReader(file) if row["status"] == "finished"]
    assert len(finished) >= 3
    assert all(np.isfinite(float(row["test_loss"])) for row in finished)


def test_the_same_command_goes_on_and_another_is_refused(swept, tmp_path, capsys, refused):
    out = tmp_path / "out"
    command = [*swept, "--learning-rate", "0.01,0.1", "--out", str(out)]
    assert cli.run(command) == 0
    table = bits(out / "members.csv")
    (out / "members.csv").unlink()
    next(out.glob("batches/*")).unlink()
    assert cli.run(command) == 0
    assert bits(out / "members.csv") == table
    capsys.readouterr()
    refused([*command, "--epochs", "3"], "whose sweep has epochs 2 instead of 3. Use another folder.")
