"""``functional-nn train``: what it prints and writes, and what it refuses."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from tests.cli.conftest import result_of
from tests.other_process import python, started, wait_until

from functional_nn import names
from functional_nn.cli import run
from functional_nn.cli.train import _number
from functional_nn.configuration.settings import SETTINGS, Configuration
from functional_nn.layers.combinators.hand_vjp import ByFormula
from functional_nn.models import named_models as models
from functional_nn.storage.files import LOCK
from functional_nn.training import fit as training
from functional_nn.training.devices import device_name
from functional_nn.training.state import create_train_state
from functional_nn.training.step import make_train_step

FILES = ["config.json", "layer_statistics.jsonl", "metrics.jsonl", "model.safetensors", "report.html", "result.json"]


def contents(folder: Path) -> dict[str, bytes]:
    """Its files, but for the lock that a killed process leaves; checkpoints are in a folder of their own."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != LOCK}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def strict_json(path: Path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# What a run prints and writes


def test_default_output_is_a_table_that_ends_with_the_accuracy(tiny, capsys):
    assert run(tiny) == 0
    captured = capsys.readouterr()
    described, network, head, first, second, last = captured.out.splitlines()
    assert described.startswith("tiny: 60 training and 30 test images, 4x4x1, 3 classes, from ")
    assert network.startswith("mlp 8-3, relu; sgd, learning rate 0.1 (constant), batch 20, on ")
    assert head.split("  ") == ["epoch", "train loss", "test loss", "test accuracy", "seconds"]
    number = r"\d+\.\d{4}"
    for epoch, line in enumerate((first, second), 1):
        assert re.fullmatch(rf" +{epoch} +{number} +{number} +{number} +\d+\.\d{{3}}", line)
        assert len(line) == len(head)
    accuracy = second.split()[3]
    seconds = r"\d+\.\d\d s"
    assert re.fullmatch(
        rf"test accuracy {accuracy} after 2 epochs \(compile {seconds}, train {seconds}, total {seconds}\)", last
    )
    assert captured.err == "Training has only 6 steps: try a smaller --batch-size and more --epochs.\n"


def test_quiet_prints_the_accuracy_only(tiny, capsys):
    assert run([*tiny, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"test accuracy \d\.\d{4} after 2 epochs \(.*\)\n", captured.out)
    assert captured.err == ""


def test_a_large_loss_fits_its_column():
    given = (0.25, 9999.5, 634129908481856110592.0, -2e7, float("nan"), float("inf"))
    expected = ["0.2500", "9999.5000", "6.34e+20", "-2.00e+07", "nan", "inf"]
    assert [_number(value, 9) for value in given] == [text.rjust(9) for text in expected]


def test_json_holds_the_result(finished):
    result = strict_json(finished.json)
    assert {"test_accuracy", "test_loss", "train_loss", "epochs", "parameters", "seconds", "status"} <= result.keys()
    assert {"seconds_per_epoch", "device", "versions", "config"} <= result.keys()
    assert result["seconds"].keys() == {"import", "load", "compile", "train", "statistics", "total"}
    assert 0 < result["seconds_per_epoch"] < result["seconds"]["train"]
    assert result["seconds"]["total"] > result["seconds"]["compile"] > 0
    assert (result["epochs"], result["status"], result["parameters"]) == (5, "finished", 785 * 64 + 65 * 10)
    assert result["config"]["hidden"] == [64]
    assert result["test_accuracy"] > 0.85
    assert result["versions"].keys() >= {"python", "functional-nn", "jax", "jaxlib", "numpy", "optax"}
    assert result["device"] == f"cpu: {device_name(jax.devices()[0])}"
    assert result["device"] != "cpu: cpu"
    in_folder = strict_json(finished.folder / "result.json")
    assert in_folder.pop("files").keys() == {"config.json", "metrics.jsonl", "model.safetensors"}
    assert len(in_folder.pop("sha256")) == 64
    assert in_folder == result


def test_run_folder_holds_everything_and_no_temporary_files(finished):
    assert sorted(contents(finished.folder)) == [name for name in FILES if name != "report.html"]
    config = strict_json(finished.folder / "config.json")
    assert (config["classes"], config["image_shape"], config["hidden"]) == (10, [28, 28, 1], [64])
    metrics = lines(finished.folder / "metrics.jsonl")
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5]
    assert metrics[-1]["test_accuracy"] == strict_json(finished.json)["test_accuracy"]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    shapes = {name: array.shape for name, array in load_file(finished.folder / "model.safetensors").items()}
    assert shapes["params/dense_0/weight"] == (784, 64)
    assert len(shapes) == 4


CHANGES = """
    --model=rnn --hidden=5,4 --activation=tanh --dropout=0.5 --batch-norm --label-smoothing=0.1 --l1=0.1 --l2=0.1
    --optimizer=lion --learning-rate=0.2 --schedule=cosine --epochs=3 --batch-size=30 --seed=1 --precision=bfloat16
    --gradient=formula --weight-decay=0.1 --shift=1 --deform=0.2 --clip-norm=0.01 --non-finite=skip --devices=2
"""


@pytest.fixture(scope="module")
def unchanged(tiny, tmp_path_factory):
    return result_of(tiny, tmp_path_factory.mktemp("unchanged"))


class FitCalled(Exception):
    pass


@pytest.fixture
def fit_of(tiny, monkeypatch):
    """What ``train`` gives ``fit`` with more flags, as programs and numbers that can be compared. It trains nothing."""

    def fit(net, loss, optimizer, data, **options):
        def start(key):
            return create_train_state(net, optimizer, key, (4, 4, 1))

        step = make_train_step(net, loss, optimizer, penalty=options["penalty"], precision=options["precision"])
        state = jax.eval_shape(start, jax.random.key(0))
        programs = jax.make_jaxpr(start)(jax.random.key(0)), jax.make_jaxpr(step)(state, *batch)
        numbers = {name: options[name] for name in ("epochs", "batch_size", "seed", "devices", "non_finite")}
        raise FitCalled(*(re.sub("0x[0-9a-f]+", "", str(program)) for program in programs), numbers)

    def called(*flags):
        with pytest.raises(FitCalled) as call:
            run([*tiny, *flags])
        return call.value.args

    batch = np.ones((20, 4, 4, 1), np.float32), np.arange(20) % 3
    monkeypatch.setattr(training, "fit", fit)
    # Several devices need a process of their own, in another test.
    monkeypatch.setattr("functional_nn.cli.train.starting_jax", lambda *about: nullcontext())
    return called


def test_every_flag_reaches_the_run(fit_of):
    unchanged = fit_of()
    assert fit_of() == unchanged
    for flag in CHANGES.split():
        assert fit_of(flag) != unchanged, flag


@pytest.mark.processes
def test_several_devices_have_to_be_asked_for_before_jax_begins(tiny, unchanged, tmp_path, refused):
    even = [*tiny, "--devices", "2"]
    refused(even, "devices: expected at most 1", "jax_num_cpu_devices")
    file = tmp_path / "result.json"
    with started(*even, "--json", file) as process:
        assert process.wait(120) == 0
    result = strict_json(file)
    assert result["config"] == {**unchanged["config"], "devices": 2}
    assert result["epochs"] == 2


def test_every_choice_has_a_flag_and_a_test():
    in_other_tests = "dataset data_dir image_size image_color label metrics patience validation freeze keep_best"
    names_of_flags = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in CHANGES.split()}
    assert names_of_flags == SETTINGS.keys() - in_other_tests.split()


@pytest.fixture
def configuration():
    return lambda **changes: Configuration(**{"hidden": (8,), "activation": "relu", "optimizer": "sgd", **changes})


@pytest.mark.parametrize("name", names.MODELS)
def test_every_model_has_values_for_what_was_not_chosen(configuration, name):
    config = configuration(model=name, hidden=None, activation=None).completed()
    assert config.hidden
    net = config.network(10)
    assert net.name == name
    # These were measured to be faster by their formula: docs/decisions/0002-two-gradients.md.
    faster = name != "mlp"
    assert isinstance(net.forward, ByFormula) == faster
    taken = inspect.signature(models.MODELS[name]).parameters
    assert (config.activation is not None) == ("activation" in taken)


def test_the_formula_is_trained_on_when_asked_for(tiny, unchanged, tmp_path, configuration):
    result = result_of([*tiny, "--gradient", "formula"], tmp_path)
    assert result["config"]["gradient"] == "formula"
    assert result["train_loss"] == pytest.approx(unchanged["train_loss"], rel=1e-4)
    derivatives = [configuration(gradient=gradient).network(3).forward for gradient in ("jax", "formula")]
    assert derivatives[0].__module__.endswith("combinators.chain")
    assert derivatives[1].__module__.endswith("hand_vjp")


def test_penalties_are_those_of_the_rates(configuration):
    params = {"dense_0": {"weight": np.array([[1.0, -3.0]], np.float32), "bias": np.array([9.0], np.float32)}}
    assert configuration().penalty() is None
    assert configuration(l1=0.1).penalty()(params) == pytest.approx(0.4)
    assert configuration(l2=0.1).penalty()(params) == pytest.approx(0.5)
    assert configuration(l1=0.1, l2=0.1).penalty()(params) == pytest.approx(0.9)


def test_every_name_is_found_and_is_that_of_its_value():
    for table in (names.ACTIVATIONS, names.LOSSES, names.METRICS, names.MODELS, names.OPTIMIZERS, names.SCHEDULES):
        assert {name: getattr(value, "name", name) for name, value in table.items()} == {name: name for name in table}


def test_help_does_not_import_jax():
    script = """
import sys
from functional_nn.cli import run
for command in ([], ["train"], ["predict"], ["info"]):
    assert run([*command, "--help"]) == 0
assert run(["--version"]) == 0
heavy = {"jax", "numpy", "optax", "safetensors", "PIL", "matplotlib"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = python(script)
    assert done.stderr == ""
    assert done.stdout.count("Usage: functional-nn") == 4


def test_the_page_is_left_out_without_matplotlib(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run([*tiny, "--out", str(tmp_path / "run")]) == 0
    assert "pip install 'functional-nn[plots]'" in capsys.readouterr().err
    assert sorted(contents(tmp_path / "run")) == [name for name in FILES if name != "report.html"]


@pytest.mark.processes
def test_float64_computes_in_it_and_predicts_from_it(tiny, tmp_path):
    PIL.Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "image.png")
    train = [*tiny, "--quiet", "--precision", "float64", "--out", "run", "--json", "result.json"]
    script = f"from functional_nn.cli import run; run({train}); run(['predict', 'run', 'image.png'])"
    done = python(script, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("image.png ")
    assert {a.dtype for a in load_file(tmp_path / "run" / "model.safetensors").values()} == {np.dtype("float64")}
    loss = strict_json(tmp_path / "result.json")["test_loss"]
    assert float(np.float32(loss)) != loss


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tran"], "Did you mean train?"),
        (["train", "--optimizer", "admm"], "Did you mean adam?"),
        (["train", "--optimizer", ""], "Known: adabelief"),
        (["train", "--dataset", "mnist5"], "mnist5k"),
        (["train", "--epochs", "十"], "Invalid value for '--epochs': expected a whole number, 1 or more, got '十'."),
        (["train", "--seed", "1.5"], "a whole number, from 0 to 4294967295"),
        (["train", "word"], "Usage:"),
    ],
)
def test_wrong_use_is_answered_with_the_nearest_name_what_is_expected_or_the_usage(refused, arguments, words):
    assert refused(arguments, words) == ""


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--learning-rate", ["0", "-1", "nan", "inf", "", "1e400", "abc"]),
        ("--dropout", ["1", "-0.1", "nan"]),
        ("--l1", ["-1", "inf"]),
        ("--epochs", ["0", "-3", "1.5", "ten"]),
        ("--hidden", ["12,x", "12,0", "-4", "", "12,", "1.5"]),
        ("--seed", ["-1", str(2**32), "zero"]),
        ("--checkpoint-minutes", ["-1", "nan", "inf", "soon"]),
        ("--out", [__file__]),
        ("--json", [".", "", "a\0b"]),
    ],
)
def test_wrong_values_are_named_with_their_flag(refused, flag, values):
    for value in values:
        assert refused(["train", f"{flag}={value}"], flag) == ""


def test_places_that_cannot_be_written_are_refused_before_training(tiny, refused, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("training started")

    monkeypatch.setattr(training, "fit", never)
    (tmp_path / "file").write_text("")
    refused([*tiny, "--json", tmp_path / "missing" / "result.json"], "--json", "Make the folder first.")
    refused([*tiny, "--out", tmp_path / "file" / "run"], "--out")
    refused([*tiny, "--out", tmp_path / ("x" * 300)], "--out")
    (tmp_path / "of_another").touch()
    tmp_path.chmod(0o1777)  # as /tmp, where nobody else can replace the file
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    refused([*tiny, "--json", tmp_path / "of_another"], "--json", "a file that can be written to")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as in a read-only folder, if root runs the tests
    refused([*tiny, "--json", tmp_path / "result.json"], "--json", "a file that can be written to")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_the_result_is_printed_if_its_file_cannot_be_written(tiny, capsys):
    assert run([*tiny, "--json", "/dev/full", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("test accuracy ")
    assert "No space left on device: '/dev/full'" in captured.err


def test_a_run_that_cannot_start_leaves_no_run(refused, tmp_path, tiny):
    arguments = [*tiny, "--batch-norm", "--batch-size", "1", "--out", tmp_path / "run"]
    refused(arguments, "batch_norm")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("error:Loss or update")
def test_a_run_that_blows_up_says_so_and_keeps_finite_parameters(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "origin_in_step", lambda *about: None)  # the search takes seconds
    files = ["--out", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run([*tiny, "--learning-rate", "1e30", "--non-finite", "skip", *files]) == 1
    captured = capsys.readouterr()
    assert "not finite at step" in captured.err
    assert captured.out.splitlines()[-1].startswith("test accuracy ")
    result = strict_json(tmp_path / "result.json")
    assert (result["status"], result["config"]["non_finite"]) == ("non-finite", "skip")
    assert result["message"] in captured.err
    assert (tmp_path / "run" / "report.html").exists()
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 2  # by default, a run ends after the first such epoch
    for array in load_file(tmp_path / "run" / "model.safetensors").values():
        assert np.isfinite(array).all()


def test_a_full_disk_is_a_message(tiny, capsys, tmp_path, monkeypatch, refused):
    fsync = os.fsync

    def full(descriptor):
        if (tmp_path / "run" / "layer_statistics.jsonl").exists():
            raise OSError(28, "No space left on device", "model.safetensors")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    refused([*tiny, "--out", tmp_path / "run"], "No space left on device", "step 2 was not written", status=1)
    assert sorted(contents(tmp_path / "run")) == ["config.json", "layer_statistics.jsonl", "metrics.jsonl"]
    monkeypatch.undo()
    assert run([*tiny, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "after 2 epochs, 1 of them from a checkpoint" in capsys.readouterr().out
    assert sorted(contents(tmp_path / "run")) == FILES


# Signals


def listens(process: subprocess.Popen) -> bool:
    """Whether the command has its handler for SIGTERM in place."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks Linux for when the command listens")
@pytest.mark.parametrize(
    ("number", "delay"), [(signal.SIGINT, 0), (signal.SIGTERM, 0.15), (signal.SIGINT, 0.5), (signal.SIGTERM, 1.2)]
)
def test_a_signal_before_the_first_epoch_ends_the_command(tmp_path, number, delay):
    folder = tmp_path / "run"
    process = started("train", "--epochs", 100_000, "--hidden", "8", "--out", folder)
    wait_until(process, lambda: listens(process))
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "Stopped."
    assert not folder.exists() or sorted(contents(folder)) in ([], FILES)


def test_validation_patience_and_metrics(tiny, tmp_path, capsys):
    file, out = tmp_path / "result.json", tmp_path / "run"
    flags = ["--validation", "0.25", "--metrics", "accuracy,f1_score", "--patience", "1", "--learning-rate", "5"]
    status = run([*tiny, *flags, "--epochs", "50", "--json", str(file), "--out", str(out)])
    printed = capsys.readouterr()
    head = "epoch  train loss  validation loss  validation accuracy  validation f1 score  seconds"
    assert head in printed.out
    assert "The validation loss was not lower for 1 epoch." in printed.err
    assert "test accuracy" in printed.out.splitlines()[-1]
    result = strict_json(file)
    assert (status, result["status"]) == (0, "stopped early")
    assert {"train_loss", "validation_loss", "validation_f1_score", "test_loss", "test_f1_score"} <= result.keys()
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["validation_loss"] == result["validation_loss"]
    assert sorted(contents(out)) == FILES
