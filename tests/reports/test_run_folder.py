"""The folder of a run: what is written when, and what is not overwritten."""

import json
import math
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.data.dataset import make_dataset
from functional_nn.reports import run_folder
from functional_nn.storage.parameters import load_parameters
from functional_nn.training.run import EpochMetrics

EPOCH = EpochMetrics(1, 0.5, 0.25, 0.75, 0.125)


def test_checking_makes_the_folder_and_leaves_it_empty(tmp_path):
    for _ in range(2):
        run_folder.check_run_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_with_a_run_is_refused_and_kept(tmp_path):
    run_folder.create_run_folder(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="Name another folder"):
        run_folder.check_run_folder(tmp_path)
    assert run_folder.read_configuration(tmp_path) == {"seed": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "metrics.jsonl"]


def test_a_run_goes_on_only_from_checkpoints(tmp_path):
    run_folder.check_run_folder(tmp_path, resume=True)
    run_folder.create_run_folder(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="--resume: expected a run with checkpoints"):
        run_folder.check_run_folder(tmp_path, resume=True)
    (tmp_path / "checkpoints" / "0000000001").mkdir(parents=True)
    run_folder.check_run_folder(tmp_path, resume=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"Name another folder\. With --resume the run in it goes on"):
        run_folder.check_run_folder(tmp_path)


def test_fault_35_leftovers_go_and_other_files_are_kept(tmp_path):
    for name in ("notes.txt", ".mine.tmp", ".config.json.1.functional_nn.tmp"):
        (tmp_path / name).write_text("mine")
    run_folder.create_run_folder(tmp_path, {})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [".mine.tmp", "config.json", "metrics.jsonl", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_fault_34_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="can be written to"):
        run_folder.check_run_folder(tmp_path)


def test_fault_34_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run", "x" * 300):
        with pytest.raises(InputError, match="can be written to"):
            run_folder.check_run_folder(tmp_path / place)


def test_metrics_grow_by_a_line_an_epoch(tmp_path):
    for epoch in (1, 2):
        run_folder.append_metrics(tmp_path, EPOCH._replace(epoch=epoch))
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epoch + 1))
    assert json.loads(lines[0]) == EPOCH._asdict()


def test_fault_38_what_is_not_finite_becomes_null(tmp_path):
    run_folder.append_metrics(tmp_path, EPOCH._replace(train_loss=math.inf, test_accuracy=math.nan))
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["train_loss"], line["test_accuracy"], line["test_loss"]) == (None, None, 0.25)
    nested = {"a": [1, math.nan, {"b": (-math.inf, "x", None, True)}], "c": "NaN"}
    run_folder.write_json(tmp_path / "file", nested)
    read = json.loads((tmp_path / "file").read_text(), parse_constant=pytest.fail)
    assert read == {"a": [1, None, {"b": [None, "x", None, True]}], "c": "NaN"}


def test_fault_34_failed_writing_keeps_the_old_json_and_leaves_no_other(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    run_folder.write_json(tmp_path / "file", [1])
    with pytest.raises(TypeError):
        run_folder.write_json(tmp_path / "file", [object()])
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.write_json(tmp_path / "file", [2])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert json.loads((tmp_path / "file").read_text()) == [1]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_fault_43_configurations_that_are_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json.*functional-nn train --out"):
        run_folder.read_configuration(tmp_path)


def finished(net, data, status="finished", history=(EPOCH,)):
    shape = data.test_images.shape[1:]
    in_shape = shape if net.name in ("mlp", "cnn") else (math.prod(shape),)
    params, state = net.init(jax.random.key(0), in_shape)
    return SimpleNamespace(
        params=params, state=state, history=history, status=status, in_shape=in_shape, precision="float32"
    )


def dataset(shape=(6, 6, 1), classes=3):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, *shape), np.uint8)
    labels = np.arange(20) % classes
    return make_dataset("made", images, labels, images, labels, classes=classes, source="a test")


@pytest.mark.parametrize("shape", [(6, 6, 1), (6, 5, 3)])
@pytest.mark.parametrize("classes", [2, 12])
def test_a_finished_run_is_written_whole(tmp_path, shape, classes):
    data, net = dataset(shape, classes), fnn.models.mlp(classes, hidden=(5,), batch_norm=True)
    run = finished(net, data)
    pictures = run_folder.finish_run_folder(tmp_path, net, run, data, {"test_accuracy": 0.5})
    assert pictures == ["confusion.png", "first_layer_weights.png", "learning_curves.png", "most_wrong.png"]
    others = ["metrics.jsonl", "parameters.safetensors", "result.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures, *others])
    params, state = load_parameters(tmp_path / "parameters.safetensors", (run.params, run.state))
    for found, given in ((params, run.params), (state, run.state)):
        jax.tree.map(np.testing.assert_array_equal, found, given)


def test_a_convolution_shows_its_filters(tmp_path):
    data, net = dataset((6, 6, 3)), fnn.model("cnn", 3, hidden=(5,))
    assert "first_layer_weights.png" in run_folder.finish_run_folder(tmp_path, net, finished(net, data), data, {})


def test_a_network_without_a_layer_on_the_pixels_has_no_picture_of_weights(tmp_path):
    data, net = dataset(classes=36), fnn.chain(fnn.flatten(), name="mlp")
    pictures = run_folder.finish_run_folder(tmp_path, net, finished(net, data), data, {})
    assert pictures == ["confusion.png", "learning_curves.png", "most_wrong.png"]


def test_metrics_written_along_the_way_are_replaced_by_those_of_the_run(tmp_path):
    run_folder.append_metrics(tmp_path, EPOCH)
    net, data = fnn.models.mlp(3, hidden=()), dataset()
    run = finished(net, data, history=(EPOCH, EPOCH._replace(epoch=2)))
    run_folder.finish_run_folder(tmp_path, net, run, data, {})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_parameters_are_written_before_pictures_are_drawn(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no font")

    monkeypatch.setattr(run_folder, "_draw", broken)
    net, data = fnn.models.mlp(3, hidden=()), dataset()
    with pytest.raises(RuntimeError):
        run_folder.finish_run_folder(tmp_path, net, finished(net, data), data, {})
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["metrics.jsonl", "parameters.safetensors", "result.json"]
