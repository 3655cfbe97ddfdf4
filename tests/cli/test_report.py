"""``functional-nn report``: the pages of runs and sweeps, whole, interrupted and with something missing."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import reported

from functional_nn.cli import run
from functional_nn.storage import run_folder
from functional_nn.storage.arrays import checksum
from functional_nn.storage.checkpoints import newest
from functional_nn.storage.files import signed_text
from functional_nn.storage.identity import check_kind

REQUEST = re.compile(r"""(?:src|href)=["'](?!data:|#)|url\((?!["']?(?:data:|#))|@import|<link""")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    assert run([*tiny, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


def titles(text: str) -> list[str]:
    """The headings of the page's sections, without that of the drawing panel."""
    return [title for title in re.findall(r"<h2>(.*?)</h2>", text) if title != "Draw a digit"]


ALL = [
    *("Learning curves", "Confusion matrix", "Most wrong test examples"),
    *("Layers: outputs and gradients", "Time", "Device and versions", "All settings"),
]


@pytest.fixture
def data_dir(tiny) -> list[str]:
    """The flag with the folder of the data, which ``report`` does not take from the folder of the run."""
    place = tiny.index("--data-dir")
    return tiny[place : place + 2]


def test_train_writes_the_page_that_report_writes_again(copied, data_dir, capsys):
    first = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    assert run(["report", str(copied), *data_dir]) == 0
    assert capsys.readouterr().out == f"{copied / 'report.html'}\n"
    assert (copied / "report.html").read_bytes() == first
    run_folder.verify_run_folder(copied)


def test_the_page_of_a_run_says_everything_and_needs_no_other_file(trained):
    text = page(trained)
    assert titles(text) == ALL
    assert not REQUEST.search(text)
    accuracy = json.loads((trained / "result.json").read_text())["test_accuracy"]
    assert f"Test accuracy {accuracy:.4g}" in text
    assert "with sgd, learning rate 0.1, batch size 20, for 2 epochs. It finished." in text


@pytest.fixture
def killed(copied) -> Path:
    """A run that was killed while it wrote the metrics of its third epoch."""
    for name in ("result.json", "model.safetensors", "report.html"):
        (copied / name).unlink()
    with open(copied / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "train_l')
    return copied


def test_a_killed_run_has_a_page_from_its_newest_checkpoint(killed, data_dir):
    copied = killed
    text = reported(copied, *data_dir)
    assert "It has not finished, or it was killed." in text
    assert "newest checkpoint, after epoch 2" in text
    assert titles(text) == ALL  # without a result, epochs and versions are known
    shutil.rmtree(copied / "checkpoints")
    assert "There are no checkpoints" in reported(copied, *data_dir)
    assert "Confusion matrix" not in titles(page(copied))


def test_the_epochs_of_a_killed_run_are_those_of_its_checkpoints(killed):
    good, path = reported(killed), killed / "metrics.jsonl"
    assert path.name not in good
    text = path.read_text()
    for changed, said in (
        (text.replace("0.1", "0.2", 1).replace("0.3", "0.4", 1), "differs from the checkpoint"),
        (text.splitlines(keepends=True)[0], "ends before the checkpoint: the run was killed"),
        (text[::-1], "The metrics were changed"),
        (text.partition('{"epoch": 3')[0] + '{"epoch": 3, "loss": 0.1}\n', "has 1 later epoch, without"),
    ):
        path.write_text(changed)
        assert said in reported(killed)
        without_notes = re.compile(r'\s*<p class="note">.*?</p>')
        assert without_notes.sub("", page(killed)) == without_notes.sub("", good)


@pytest.mark.parametrize("end", [-9, 9])  # some rows are left, or none
def test_a_page_says_that_the_statistics_have_lost_the_last_epoch(copied, end):
    path = copied / run_folder.LAYER_STATISTICS
    path.write_bytes(path.read_bytes()[:end])
    assert f"{path.name} has lost its last lines" in reported(copied)


def test_a_changed_configuration_of_a_killed_run_is_refused(killed, refused):
    path = killed / "config.json"
    good = path.read_text()
    path.write_text(good.replace('"epochs": 2', '"epochs": 4'))
    refused(["report", killed], f"{path}: expected a run's configuration, as it was written")
    path.write_text(good.replace("sha256", "sha255"))
    refused(["report", killed])


def test_what_is_no_run_is_refused(tmp_path, refused):
    refused(["report", tmp_path], "expected the folder of a run or a sweep, got nothing of the kind")
    refused(["report", tmp_path / "none"], "got no folder")
    (tmp_path / "sweep.json").write_text("{}")
    refused(["report", tmp_path], "got a damaged one")


def test_statistics_of_every_epoch_cost_no_bit_of_the_run_and_a_run_without_them_has_a_page(
    trained, tiny, data_dir, tmp_path, monkeypatch, capsys, refused
):
    rows = run_folder.read_layer_statistics(trained)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0]["outputs"]) == ["flatten_0", "dense_0", "relu_0", "dense_1"]
    assert list(rows[0]["gradients"]) == ["dense_0", "dense_1"]
    with monkeypatch.context() as patch:
        patch.setattr("functional_nn.training.layer_statistics.StatisticsRecorder._add", lambda *about: None)
        patch.setitem(sys.modules, "jinja2", None)
        assert run([*tiny, "--out", str(tmp_path), "--quiet"]) == 0
        assert "No report.html. page: expected jinja2 to be installed" in capsys.readouterr().err
        refused(["report", tmp_path], "pip install 'functional-nn[plots]'")
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    saved = [newest(folder / "checkpoints").arrays for folder in (tmp_path, trained)]
    checksums = [checksum({path: arrays[path] for path in arrays if path != "history"}) for arrays in saved]
    assert checksums[0] == checksums[1]  # the history has times
    assert run(["report", str(tmp_path), *data_dir]) == 0


def test_an_interrupted_run_with_other_metrics(tiny, tmp_path, monkeypatch):
    append = run_folder.append_metrics

    def append_and_interrupt(*about):
        append(*about)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("functional_nn.storage.run_folder.append_metrics", append_and_interrupt)
    flags = ["--validation", "0.25", "--metrics", "f1_score", "--out", str(tmp_path), "--quiet"]
    assert run([*tiny, *flags]) == 130
    text = page(tmp_path)
    assert "for 1 of 2 epochs. It was interrupted; the finished epochs are kept. Validation f1 score" in text
    assert "Confusion matrix" in titles(text)


def test_without_its_data_a_run_has_a_page_that_says_what_is_missing(copied, data_dir, tmp_path):
    configuration = run_folder.read_configuration(copied)
    names = ["<script>alert(1)</script>", "&", '"']
    (copied / "config.json").write_text(signed_text(configuration | {"class_names": names}))
    text = reported(copied)
    assert "The data set is not opened without --data-dir" in text
    assert "Confusion matrix" not in titles(text)
    assert {"Learning curves", "Layers: outputs and gradients"} <= set(titles(text))
    text = reported(copied, "--data-dir", tmp_path / "<gone>")
    assert "The data set could not be loaded" in text
    assert "&lt;gone&gt;" in text
    text = reported(copied, *data_dir)
    assert "Confusion matrix" in titles(text)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_a_sweep_has_a_page_and_report_writes_it_again(tiny, tmp_path):
    flags = "--learning-rate 0.1,1e30 --seeds 3 --epochs 3 --halving 1,2 --halving-keep 0.5"
    assert run(["sweep", *tiny[1:], *flags.split(), "--out", str(tmp_path), "--quiet"]) == 0
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    assert run(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == first
    text = page(tmp_path)
    assert not REQUEST.search(text)
    sections = ["Settings and test accuracy", "Curves", "Means over seeds", "Models", "Settings of all models"]
    assert titles(text) == sections
    assert text.count('<td class="wrong">non-finite</td>') == 3
    assert text.count("<td>halved</td>") == 2
    assert text.count("<td>finished</td>") == 1
    next(tmp_path.glob("batches/*-end*")).unlink()
    assert "The sweep has not ended, or a file is damaged." in reported(tmp_path)
    check_kind("out", tmp_path, "a sweep")
