"""Folders of runs and sweeps that somebody made: each wrong entry gives one sentence, in a bounded time.

Checksums are no signature: whoever makes a folder can write them, too. So these tests write them anew.
"""

import json
import shutil
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.cli.conftest import reported
from tests.storage.manifests import manifest_of, sign_result, sign_run, with_manifest

import functional_nn as fnn
from functional_nn.cli import run
from functional_nn.storage import run_folder
from functional_nn.storage.arrays import packed, unpacked
from functional_nn.storage.files import signed_text

pytestmark = pytest.mark.usefixtures("no_pages")
REMOVED = object()
SECONDS = 20
"""The limit for a command. Without the checks, some took minutes."""


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


VALUES = {
    "a text": "0.9",
    "a long text": "x" * 100_000,
    "a list": [1],
    "a list of texts": ["a", None],
    "lists": [[1], {"a": 1}],
    "an object": {"a": 1},
    "an empty object": {},
    "null": None,
    "true": True,
    "a huge integer": 10**400,
    "a large integer": 10**18,
    "a large number": 1e308,
    "a negative number": -1,
    "a share": 0.5,
    "nested": nested(300),
    "removed": REMOVED,
}
MANY = {"many numbers": [4] * 100_000, "many names": {str(i): i for i in range(100_000)}}


def places(tree: object, depth: int, at: tuple = ()) -> Iterator[tuple]:
    """The paths of the entries of a JSON value. Of a list, only the first and the last one."""
    if at:
        yield at
    if len(at) < depth and isinstance(tree, dict | list):
        names = list(tree) if isinstance(tree, dict) else {0: None, len(tree) - 1: None} if tree else []
        for name in names:
            yield from places(tree[name], depth, (*at, name))


def changed(tree, at: tuple, value: object):
    """A JSON value with another entry."""
    new = tree.copy()
    if len(at) > 1:
        new[at[0]] = changed(tree[at[0]], at[1:], value)
    elif value is REMOVED:
        del new[at[0]]
    else:
        new[at[0]] = value
    return new


def variants(tree: object, depth: int, values: dict) -> Iterator[tuple[str, object]]:
    for at in places(tree, depth):
        for name, value in values.items():
            yield f"{'/'.join(map(str, at))[:60]}: {name}", changed(tree, at, value)


@contextmanager
def bounded(what: str) -> Iterator[None]:
    def late(*about):
        raise TimeoutError(what)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_answered(what: str, arguments: list, capsys) -> None:
    """Whether a command ends with a result or with one sentence."""
    with bounded(f"{what}, {arguments[0]}"):
        status = run([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert status in (0, 1, 2), what
    assert len(said) < 3000, what
    if status == 2:
        assert said.startswith(("Error: ", "Usage: ", "Warning: ")), what


def signed_line(row: object) -> str:
    return signed_text(row, indent=None) if isinstance(row, dict) else json.dumps(row) + "\n"


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory, no_pages) -> Path:
    """A folder with a finished ``run``, and with ``part1`` and ``part2`` of a sweep, and a sweep with ``halving``."""
    place = tmp_path_factory.mktemp("hostile")
    assert run([*tiny, "--out", str(place / "run"), "--quiet"]) == 0
    sweep = ["sweep", *tiny[1:], "--learning-rate", "0.1,0.2", "--seeds", "2", "--quiet"]
    for part in ("1", "2"):
        assert run([*sweep, "--part", f"{part}/2", "--out", str(place / f"part{part}")]) == 0
    assert run([*sweep, "--halving", "1", "--out", str(place / "halving")]) == 0
    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / "image.png")
    return place


@pytest.fixture
def folders(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def commands_of_runs(folders: Path, tiny: list[str]) -> Iterator[list]:
    folder, data = folders / "run", tiny[tiny.index("--data-dir") + 1]
    yield ["report", folder, "--data-dir", data]
    yield ["predict", folder, folders / "image.png"]
    shutil.rmtree(folders / "hub", ignore_errors=True)
    yield ["export", folder, "--to", "hub", "--out", folders / "hub"]


@pytest.fixture
def is_refused(folders, refused):
    """Requires that a command refuses the run in one sentence, which names the file and the entry."""

    def check(name: str, words: str) -> None:
        with bounded(words):
            refused(["predict", folders / "run", folders / "image.png"], name, words)

    return check


def test_a_result_with_wrong_entries_is_left_out_of_the_page(folders):
    for entries in ({"test_accuracy": "0.9"}, {"versions": [1]}, {"seconds": {"total": "2"}}):
        sign_result(folders / "run", **entries)
        with pytest.raises(fnn.DataError, match=r"result\.json: expected the result of a run, got a damaged one"):
            fnn.exchange.to_hub(folders / "run", folders / "hub")
    assert "seconds/total &#39;2&#39;" in reported(folders / "run")


def test_a_configuration_with_wrong_versions_or_names_is_refused(folders, is_refused):
    for names in (["a"], ["a", "b", "c" * 10**6]):
        sign_run(folders / "run", class_names=names)
        is_refused("config.json", "class_names")
    sign_run(folders / "run", versions=[1])
    is_refused("config.json", "versions [1]")
    assert run(["report", str(folders / "run")]) == 2


def test_a_network_of_very_many_classes_is_refused(folders, is_refused):
    """A text for each of 50 million classes took gigabytes."""
    sign_run(folders / "run", classes=10**6 + 1)
    is_refused("config.json", "classes, at most 1,000,000")


@pytest.mark.parametrize("layers", [201, 100_000])
def test_a_network_of_many_layers_is_refused_at_once(folders, is_refused, layers):
    sign_run(folders / "run", hidden=[4] * layers)
    is_refused("config.json", "hidden [4, 4, 4")


def test_a_transformer_of_huge_images_is_refused_at_once(folders, is_refused):
    """Its position encoding would take over a gigabyte, although only shapes are needed."""
    sign_run(folders / "run", model="transformer", hidden=[8192], image_shape=[5000, 1, 1], activation=None)
    is_refused("config.json", "at most 33,554,432 numbers in an example, time x features")


@pytest.mark.parametrize(
    ("model", "hidden", "shape"),
    [
        ("lstm", [256], [1_000_000, 50, 1]),
        ("gru", [2, 1] * 30, [10_000_000, 1, 1]),  # few operations, but a loop of many steps in each layer
        ("transformer", [8], [300_000, 8, 1]),
    ],
)
def test_a_network_of_very_long_images_is_refused_at_once(folders, is_refused, model, hidden, shape):
    """Its parameters are few, but one image would take minutes, or gigabytes."""
    sign_run(folders / "run", model=model, hidden=hidden, image_shape=shape, activation=None)
    is_refused("config.json", "operations for an example")


def test_statistics_that_are_none_are_left_out(folders):
    for row in ({}, None, "x", [], {"epoch": 1}, {"epoch": 1, "examples": 1, "outputs": {"a": 1}}):
        (folders / "run" / "layer_statistics.jsonl").write_text(signed_line(row))
        with pytest.warns(UserWarning, match="is damaged, and is left out"):
            assert run_folder.read_layer_statistics(folders / "run") == []
    with pytest.warns(UserWarning, match="is damaged, and is left out"):
        assert run(["report", str(folders / "run")]) == 0


def test_numbers_at_the_edge_of_float64_have_a_page(folders, tiny):
    """The scales of the charts overflowed."""
    path = folders / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"train_loss": 1e308, "test_loss": 5e-324, "learning_rate": 1e-320}
    rows[1] |= {"train_loss": -1e308, "test_loss": 1e300, "learning_rate": 1e308}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sign_run(folders / "run")
    assert run(["report", str(folders / "run"), "--data-dir", tiny[tiny.index("--data-dir") + 1]]) == 0


@pytest.mark.parametrize("name", ["model.safetensors", "state_dict.safetensors"])
def test_a_very_long_header_is_refused_at_once(folders, tiny, refused, is_refused, name):
    """As of 300,000 arrays. To read it would take seconds."""
    (folders / "run" / name).write_bytes(struct.pack("<Q", 8_000_001) + b"{" + bytes(8_000_000))
    if name == "model.safetensors":
        sign_run(folders / "run")
        is_refused(name, "a header of more than 8,000,000 bytes")
        return
    out = ["--out", folders / "imported", "--hidden", "8", *tiny[1:5]]
    refused(["import", folders / "run" / name, *out], "a header of more than 8,000,000 bytes")


def test_arrays_that_are_not_those_of_the_manifest_are_refused(folders):
    """A made manifest may say that the arrays have the shapes of the network, whatever they are."""
    tree = {"w": np.zeros(3, np.int8)}
    path = fnn.storage.save_checkpoint(folders / "saved", 1, tree)
    manifest = manifest_of(path)
    manifest["tree"]["w"]["form"] = "float32(2, 2)"
    with_manifest(path, manifest)
    with pytest.raises(fnn.DataError, match=r"w int8\(3,\) instead of float32\(2, 2\)"):
        fnn.storage.restore_checkpoint(folders / "saved", {"w": np.zeros((2, 2), np.float32)})
    manifest["tree"]["w"] = {"form": 7}
    with_manifest(path, manifest)
    with pytest.raises(fnn.DataError, match="tree/w/form 7"):
        fnn.storage.restore_checkpoint(folders / "saved", tree)


def test_a_history_whose_epochs_do_not_count_up_is_left_out_of_the_page(folders):
    """An epoch of 1e308 ended the report with a traceback of its charts."""
    path = max((folders / "run" / "checkpoints").glob("0*"))
    arrays, texts = unpacked(path)
    (folders / "run" / "result.json").unlink()
    for epochs in ([1e308, 1e308], [1, 3], [2, 1]):
        history = arrays["history"].copy()
        history[:, 0] = epochs
        path.write_bytes(packed({**arrays, "history": history}, texts))
        text = reported(folders / "run")
        assert "then finite numbers of skipped and clipped steps, got (" in text
        assert "The run has not ended" not in text


def test_a_sweep_with_wrong_settings_is_refused(folders, refused):
    path = folders / "halving" / "sweep.json"
    settings = json.loads(path.read_text())
    del settings["sha256"]
    for entries, words in [
        ({"grid": []}, "grid: expected at least one member"),
        ({"grid": [{"data": ""}, {"data": "", "a": 1}]}, "member 1 that differs"),
        ({"grid": [{"a": 1}]}, "grid/0/data null"),
        ({"halving": [["x"], 0.5]}, "halving/0/0 'x'"),
        ({"halving": [[1], 7.0]}, "halving: expected a share"),
        ({"halving": [[4] * 100_000, 0.5]}, "4, 4, 4"),
        ({"precision": 3}, "precision 3"),
    ]:
        path.write_text(signed_text(settings | entries))
        refused(["report", folders / "halving"], "sweep.json", words)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:.*is damaged, and is left out:UserWarning")  # a row of statistics
@pytest.mark.parametrize("name", ["config.json", "result.json", "layer_statistics.jsonl", "metrics.jsonl"])
def test_every_wrong_entry_of_a_run(folders, tiny, capsys, name):
    path = folders / "run" / name
    if name.endswith(".json"):
        more = {"class_names": ["a", "b", "c"], "from": {"run": "a", "sha256": "b"}, "imported_from": {"file": "a"}}
        tree = json.loads(path.read_text()) | (more if name == "config.json" else {"test_other": 1.0})
        del tree["sha256"]
        written, commands = signed_text, slice(None)
    else:
        rows, is_signed = map(json.loads, path.read_text().splitlines()), name.startswith("layer")
        tree = [{name: value for name, value in row.items() if name != "sha256"} for row in rows]
        line = signed_line if is_signed else lambda row: json.dumps(row) + "\n"
        written, commands = lambda tree: "".join(map(line, tree)), slice(1)  # the other commands do not read it
    for what, new in variants(tree, 2 if name == "config.json" else 4, VALUES | (MANY if name.endswith("n") else {})):
        path.write_text(written(new))
        if name != "result.json":
            sign_run(folders / "run")
        for arguments in list(commands_of_runs(folders, tiny))[commands]:
            is_answered(f"{name} with {what}", arguments, capsys)
    is_answered(name, ["train", "--from", folders / "run", *tiny[1:], "--quiet"], capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:The checkpoint of step:UserWarning")
def test_every_wrong_entry_of_a_checkpoint(folders, tiny, capsys):
    checkpoints = folders / "run" / "checkpoints"
    path = max(checkpoints.glob("0*"))
    manifest = manifest_of(path)
    (folders / "run" / "result.json").unlink()
    for number, (what, new) in enumerate(variants(manifest, 4, VALUES)):
        with_manifest(path, new)
        is_answered(what, ["report", folders / "run", "--data-dir", tiny[tiny.index("--data-dir") + 1]], capsys)
        is_answered(what, ["report", checkpoints], capsys)
        for step in ("newest", "best"):
            with bounded(what), pytest.raises(fnn.DataError):
                fnn.storage.restore_checkpoint(checkpoints, {"w": np.zeros(3)}, step=step)
        if number % 20 == 0:  # it compiles
            copy = folders / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folders / "run", copy)
            is_answered(what, [*tiny, "--out", copy, "--resume", "--quiet"], capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:.*is left out:UserWarning")  # a damaged batch
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # in statistics of metrics near 1e308
@pytest.mark.parametrize("name", ["part1", "halving"])
def test_every_wrong_entry_of_a_sweep(folders, capsys, name):
    def answered(what: str) -> None:
        is_answered(what, ["report", folders / name], capsys)
        if name == "part1":
            for parts in (("part1", "part2"), ("part2", "part1")):
                shutil.rmtree(folders / "merged", ignore_errors=True)
                arguments = ["merge", *(folders / part for part in parts), "--out", folders / "merged", "--quiet"]
                is_answered(what, arguments, capsys)

    path = folders / name / "sweep.json"
    content = path.read_text()
    settings = json.loads(content)
    del settings["sha256"]
    for what, new in variants(settings, 3, VALUES | MANY):
        path.write_text(signed_text(new))
        answered(f"sweep.json with {what}")
    path.write_text(content)

    path = max((folders / name / "batches").glob("*.safetensors"))
    arrays, about = unpacked(path)
    for what, new in variants(json.loads(about["members"]), 3, VALUES | MANY):
        path.write_bytes(packed(arrays, about | {"members": json.dumps(new)}))
        answered(f"members with {what}")
    for text in ("", "null", "[" * 100_000):
        path.write_bytes(packed(arrays, about | {"members": text}))
        answered(f"members {text[:9]}")
    wrong = (np.float64(1), np.zeros(0), np.zeros((2, 2)), np.array([1j], np.complex64), np.array([True]))
    for array in arrays:
        for other in (*wrong, np.array([5e-324, 1e308]), np.full(300_000, np.nan)):
            path.write_bytes(packed(arrays | {array: np.asarray(other)}, about))
            answered(f"{array} as {other.dtype}{other.shape}")
