"""Folders that a stranger has made: nothing in them chooses what is opened, written, imported or shown."""

import errno
import importlib
import json
import os
import re
import shutil
import sys
from array import array
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.cli.conftest import reported, without_pages
from tests.data.prepared import prepare_arrays
from tests.other_process import python
from tests.storage.manifests import manifest_of, sign_run, with_manifest

import functional_nn as fnn
from functional_nn.cli import export, import_parameters, report, run, train
from functional_nn.configuration.settings import Configuration
from functional_nn.core.errors import DataError, InputError
from functional_nn.exchange import saved_networks
from functional_nn.reports.run_contents import read_run
from functional_nn.storage import run_folder
from functional_nn.storage.files import one_writer
from functional_nn.sweeps import parts
from functional_nn.sweeps.member_batch import MemberHistory
from functional_nn.sweeps.parts import read_sweep
from functional_nn.sweeps.store import opened_store, read_batch
from functional_nn.training.layer_statistics import StatisticsRecorder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")


@pytest.mark.parametrize(
    ("command", "folder", "file"),
    [
        *(("train", "batches", "model.safetensors"), ("train --resume", "checkpoints", "result.json")),
        ("sweep", "batches", "members.csv"),
    ],
)
def test_files_of_the_user_in_a_new_folder_are_not_overwritten(command, folder, file, tiny, tmp_path, refused):
    """A folder that is named like one of a run or a sweep makes no difference."""
    (tmp_path / file).write_text("mine")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "0000000001.checkpoint.safetensors").write_text("mine")
    words = f"{tmp_path}, whose {file} would be overwritten. Use another folder."
    refused([*command.split(), *tiny[1:], "--out", tmp_path, "--quiet"], words)
    assert (tmp_path / file).read_text() == "mine"


def test_a_run_is_not_written_into_a_folder_that_another_process_writes_to(tiny, tmp_path, refused):
    with one_writer("out", tmp_path):
        refused([*tiny, "--out", tmp_path, "--quiet"], f"{tmp_path}, which process {os.getpid()} writes to")
    assert list(tmp_path.iterdir()) == []
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(tmp_path, os.O_RDONLY)  # as everyone can who may read the folder
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert run([*tiny, "--epochs", "1", "--out", str(tmp_path), "--quiet"]) == 0
    os.close(descriptor)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("safety") / "run"
    with without_pages():
        assert run([*tiny, "--out", str(folder), "--quiet"]) == 0
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.fixture
def stranger(trained, tmp_path) -> Path:
    """A finished run without its page and its checkpoints, in a folder of its own."""
    return shutil.copytree(trained, tmp_path / "stranger")


@pytest.fixture
def picture(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def commands(folder: Path, picture: str, out: Path) -> list[list[str]]:
    return [
        ["report", str(folder)],
        ["predict", str(folder), picture],
        ["train", "--from", str(folder), "--out", str(out), "--epochs", "1", "--quiet"],
        ["export", str(folder), "--to", "hub", "--out", str(out.with_name("hub"))],
    ]


def test_report_writes_through_no_link(stranger, tmp_path, refused):
    """A file of Python could be written with the name of a class as its content."""
    victim = tmp_path / "victim.pth"
    for content in ("precious", None):
        if content is None:
            victim.unlink()
        else:
            victim.write_text(content)
        (stranger / "report.html").unlink(missing_ok=True)
        (stranger / "report.html").symlink_to(victim)
        refused(["report", stranger], "a symbolic link, which is not followed")
        assert (victim.read_text() if victim.exists() else None) == content


FILES = ("config.json", "result.json", "metrics.jsonl", "model.safetensors", "layer_statistics.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_run_that_are_links_are_not_read(stranger, tmp_path, picture, capsys, name):
    (stranger / name).rename(tmp_path / "private")
    (stranger / name).symlink_to(tmp_path / "private")
    for command in commands(stranger, picture, tmp_path / "out"):
        if name != "layer_statistics.jsonl":
            assert run(command) == (0 if command[0] == "report" and name != "config.json" else 2)
            # Training needs data that the user names, and says so before it reads more than the configuration.
            assert command[0] in ("report", "train") or "not followed" in capsys.readouterr().err
    assert name != "layer_statistics.jsonl" or run_folder.read_layer_statistics(stranger) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.timeout(60)
def test_pipes_in_place_of_files_do_not_hang(stranger, tmp_path, picture, name):
    (stranger / name).unlink()
    os.mkfifo(stranger / name)
    for command in commands(stranger, picture, tmp_path / "out"):
        assert run(command) in (0, 2)


@pytest.mark.timeout(60)
def test_pipes_that_the_user_names_do_not_hang(stranger, tmp_path, tiny, refused):
    commands = {
        "pipe.safetensors": ["import", *tiny[1:5], "--out", tmp_path / "in"],
        "grid.toml": ["sweep", *tiny[1:5], "--grid"],
        "pipe.png": ["predict", stranger],
    }
    for name, command in commands.items():
        os.mkfifo(tmp_path / name)
        refused([*command, tmp_path / name], name)


LINKS = {
    "train": (
        "metrics.jsonl",
        "report.html",
        "curves.png",
        "checkpoints",
        "checkpoints/0000000001.checkpoint.safetensors",
    ),
    "sweep": ("batches", "batches/0-0-end.safetensors", "members.csv"),
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in LINKS.items() for name in names])
def test_a_folder_with_links_is_refused_before_anything_begins(tiny, tmp_path, monkeypatch, refused, command, name):
    monkeypatch.setattr("functional_nn.storage.run_folder.create_run_folder", None)
    monkeypatch.setattr("functional_nn.sweeps.population.Population.train", None)
    victim, link = tmp_path / "victim", tmp_path / "out" / name
    victim.mkdir() if not link.suffix else victim.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    refused([command, *tiny[1:5], "--epochs", "1", "--quiet", "--out", tmp_path / "out"], f"got the link {link}")
    assert list(victim.iterdir()) == [] if not link.suffix else victim.read_text() == "precious"


def test_json_goes_into_an_open_file_and_not_in_its_place(stranger, picture, tmp_path):
    """As for ``--json /dev/stdout > file``: what is printed stays."""
    with open(tmp_path / "file", "w") as file:
        print("printed", file=file, flush=True)
        assert run(["predict", str(stranger), picture, "--json", f"/proc/self/fd/{file.fileno()}"]) == 0
        print("printed", file=file, flush=True)
    first, *lines, last = (tmp_path / "file").read_text().splitlines()
    assert first == last == "printed"
    assert json.loads("".join(lines))


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("user", [0, 4323])
def test_json_does_not_go_into_a_pipe_or_through_a_link_of_another_user_in_a_folder_of_all(
    stranger, picture, tmp_path, monkeypatch, refused, kind, user
):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, 4321, 4321)
    if kind == "link":
        (shared / "out").symlink_to(tmp_path / "private")
    elif user == 0:
        pytest.skip("root may write to the pipes of others")
    else:
        os.mkfifo(shared / "out")
    os.chown(shared / "out", 4322, 4322, follow_symlinks=False)
    monkeypatch.setattr("functional_nn.configuration.flag_types.os.geteuid", lambda: user)
    refused(["predict", stranger, picture, "--json", shared / "out"], "--json': expected a file that can be written to")
    assert not (tmp_path / "private").exists()


def test_json_follows_the_link_that_the_user_names(tiny, tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    assert run([*tiny, "--json", str(tmp_path / "link.json"), "--quiet"]) == 0
    assert json.loads((tmp_path / "target.json").read_text())["status"] == "finished"
    assert (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize(
    "command",
    [
        *("train --out {0}", "sweep --out {0}", "merge part --out {0}", "train --from {0}", "merge {0} --out {0}-new"),
        *("predict {0} image.png", "predict run {0}/model.safetensors"),
    ],
)
def test_the_file_of_json_replaces_no_file_that_is_read_or_written(command, tmp_path, refused):
    file = tmp_path / "model.safetensors"
    refused([*command.format(tmp_path).split(), "--json", file], f"--json: expected a file outside of {tmp_path}")


@pytest.fixture
def private_photos(tmp_path) -> Path:
    """A folder of images of two classes, four by four, as the stranger's network takes them."""
    for number in range(20):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 255, (4, 4), dtype=np.uint8)
        PIL.Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_no_picture_of_a_folder_that_a_run_names_is_shown(stranger, private_photos, tmp_path, monkeypatch, refused):
    sign_run(stranger, dataset=f"folder:{private_photos}", data_dir=None)
    opened = []
    monkeypatch.setattr("functional_nn.data.sources.load_image_folder", lambda *about, **more: opened.append(about))
    assert "The data set is not opened without --data-dir" in reported(stranger)
    for more in ([], ["--data-dir", str(tmp_path)]):
        command = ["train", "--from", stranger, *more, "--out", tmp_path / "new"]
        refused(command, "expected the data to train on, by --dataset folder:PATH")
    fnn.exchange.load(stranger)
    assert opened == []


def test_an_export_does_not_follow_the_path_of_data_that_a_run_names(stranger, tmp_path):
    """The link could be one of the user's, such as to the name of a project."""
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "loop").symlink_to("loop")
    for number, (path, name) in enumerate({"link": "link", "loop/x": "x", "photos/": "photos"}.items()):
        sign_run(stranger, dataset=f"folder:{tmp_path}/{path}", data_dir=None)
        shared = fnn.exchange.to_hub(stranger, tmp_path / f"hub{number}")
        assert json.loads((shared / "config.json").read_text())["dataset"] == f"folder:{name}"


def test_pictures_of_a_folder_that_the_user_names_are_shown(stranger, private_photos):
    sign_run(stranger, dataset="folder:/gone", data_dir=None)
    # The network has three classes, and the folder has two: it was read.
    assert "The data set has changed since the run" in reported(stranger, "--data-dir", private_photos)


def test_data_that_have_changed_since_the_run_are_not_shown(stranger, tiny, tmp_path):
    """Their shape is the same."""
    note, data = "The data set has changed since the run", shutil.copytree(tiny[4], tmp_path / "data")
    assert note not in reported(stranger, "--data-dir", data)
    fnn.data.write_idx(data / "t10k-labels-idx1-ubyte", np.arange(1, 31, dtype=np.uint8) % 3)
    shared = fnn.exchange.to_hub(stranger, tmp_path / "hub")
    for folder in (stranger, shared):
        assert note in reported(folder, "--data-dir", data)


def arrays() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10
    return images, labels, images, labels


CODE = {
    "a class": {"pythonClassName": "hostile_module.Feature"},
    "an older form": {"type": "hostile_module.Feature", "content": {}},
    "a text that is JSON": {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"image": {"type": "hostile_module.Feature", "content": "{}"}})},
    },
}


@pytest.fixture
def hostile_data(request, tmp_path, monkeypatch) -> Path:
    """A prepared set of TFDS whose ``features.json`` names a class of a module beside it."""
    prepared = prepare_arrays("mnist", arrays(), tmp_path / "data")
    (prepared / "features.json").write_text(json.dumps(CODE[request.param]))
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("hostile_data", ["a class"], indirect=True)
def test_a_run_names_no_data_whose_loading_runs_code(stranger, hostile_data, picture, tmp_path):
    sign_run(stranger, dataset="mnist", data_dir=str(hostile_data))
    for command in commands(stranger, picture, tmp_path / "out"):
        assert run(command) == (2 if command[0] == "train" else 0)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("hostile_data", "below"), list(zip(CODE, ("", "a link", "mnist/3.0.1"), strict=True)), indirect=["hostile_data"]
)
def test_data_that_the_user_names_run_no_code(hostile_data, tmp_path, below):
    if below == "a link":  # that the user typed
        (hostile_data / below).symlink_to(hostile_data)
    with pytest.raises(DataError, match="a set of images of bytes with a class label each"):
        fnn.load_dataset("mnist", hostile_data / below)
    assert not (tmp_path / "owned").exists()


def test_data_that_the_user_names_read_nothing_outside_of_their_folder(tmp_path):
    prepared = prepare_arrays("mnist", arrays(), tmp_path / "data")
    features = {"type": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"}
    (prepared / "features.json").write_text(json.dumps(features | {"content": {"names_file": "/dev/zero"}}))
    with pytest.raises(DataError, match="a set of images of bytes with a class label each"):
        fnn.load_dataset("mnist", tmp_path / "data")
    prepared = prepare_arrays("mnist", arrays(), tmp_path / "pipe")
    (records,) = prepared.glob("mnist-train*")
    records.unlink()
    os.mkfifo(records)
    with pytest.raises(DataError, match="not a regular file"):
        fnn.load_dataset("mnist", tmp_path / "pipe")


@pytest.mark.parametrize(
    ("entry", "message"),
    [("name", "a split train"), ("filepathTemplate", "20 images, got 0"), ("link", "a symbolic link")],
)
def test_data_that_the_user_names_have_their_records_in_their_folder(tmp_path, entry, message):
    prepared = prepare_arrays("mnist", arrays(), tmp_path / "data")
    (tmp_path / "private").mkdir()
    (records,) = prepared.glob("mnist-train*")
    records.rename(tmp_path / "private" / records.name)
    about = json.loads((prepared / "dataset_info.json").read_text())
    about["splits"][0][entry] = f"../private/{records.name}"
    (prepared / "dataset_info.json").write_text(json.dumps(about))
    if entry == "link":
        records.symlink_to(tmp_path / "private" / records.name)
    with pytest.raises(DataError, match=message):
        fnn.load_dataset("mnist", tmp_path / "data")


def test_names_of_classes_lose_control_characters(stranger):
    sign_run(stranger, class_names=["a\nimport os", "b\x1b[31m", "c"])
    assert run_folder.read_configuration(stranger)["class_names"] == ["a\\nimport os", "b\\x1b[31m", "c"]
    assert "\x1b" not in reported(stranger)


def test_networks_and_sweeps_are_shown_without_control_characters(stranger, tmp_path):
    sign_run(stranger, dataset="a\x1b[31m")
    assert "a\\x1b[31m" in repr(fnn.exchange.load(stranger))
    identity = {"grid": [{"data": "", "a\x1b[2J": f"\x1b[{i}m", "seed": 0} for i in range(2)]}
    with opened_store(tmp_path / "sweep", identity) as store:
        store.save("0-0-end", [MemberHistory(0, "\x1b", curves={"\x1b": [1]}, test_metrics={"test_\x1b": 1})], [()])
    result, _ = read_sweep(tmp_path / "sweep")
    result.save(tmp_path / "members.csv")
    table = (tmp_path / "members.csv").read_text()
    assert "\x1b" not in table + repr(result.members) + str(result) + result._repr_html_()
    assert "a\\x1b[2J \\x1b[1m" in repr(result.members)


def test_files_that_a_sweep_does_not_write_are_not_read(tmp_path, monkeypatch):
    """An archive of a few kilobytes can have one large file under thousands of names."""
    with opened_store(tmp_path, {"grid": [{"data": "", "seed": i} for i in range(2)]}) as store:
        for i in range(2):
            store.save(f"0-{i}-end", [MemberHistory(i, "finished", curves={"loss": array("d", [1])})], [()])
    batches = tmp_path / "batches"
    for name in ("1-0-end", "00-0-end", "0-2-end", f"0-{'9' * 200}-end", "0-0-1"):
        (batches / f"{name}.safetensors").hardlink_to(batches / "0-0-end.safetensors")
    read = []

    def noted(path, fingerprint):
        read.append(path)
        return read_batch(path, fingerprint)

    monkeypatch.setattr(parts.store, "read_batch", noted)
    result, _ = read_sweep(tmp_path)
    assert [member.status for member in result.members] == ["finished", "finished"]
    assert len(read) == 2


def test_a_sweep_whose_batches_are_replaced_by_a_link_writes_nothing_there(tmp_path):
    """Another user who can write to the folder could put a link there, to the batches of the user's other sweep."""
    (tmp_path / "precious").mkdir()
    with opened_store(tmp_path / "sweep", {"grid": []}) as store:
        store.save("0-0-end", [], [])
        (tmp_path / "sweep" / "batches").rename(tmp_path / "away")
        (tmp_path / "sweep" / "batches").symlink_to(tmp_path / "precious")
        store.save("0-1-end", [], [])
    assert list((tmp_path / "precious").iterdir()) == []
    assert len(list((tmp_path / "away").iterdir())) == 2


def put_link_before(monkeypatch: pytest.MonkeyPatch, called: str, link: Path, target: Path) -> None:
    """Another user replaces a folder by a link, just before a function is called for the first time."""
    module, _, name = called.rpartition(".")
    function = getattr(importlib.import_module(module), name)

    def swap_and_call(*about, **more):
        if not link.is_symlink():
            link.rename(link.with_name("away"))
            link.symlink_to(target)
        return function(*about, **more)

    monkeypatch.setattr(called, swap_and_call)


def test_parameters_that_are_replaced_by_a_link_after_their_check_are_not_read(stranger, tmp_path, monkeypatch):
    parameters = stranger / "model.safetensors"
    (tmp_path / "private").write_bytes(parameters.read_bytes())
    put_link_before(monkeypatch, "functional_nn.storage.arrays.unpacked", parameters, tmp_path / "private")
    with pytest.raises(DataError, match="a symbolic link, which is not followed"):
        fnn.exchange.load(stranger)


def to_hub(run: Path) -> object:
    return fnn.exchange.to_hub(run, run.with_name("hub"))


MOVES, REPLACED = "the link moves", "its files are replaced"


@pytest.mark.parametrize(
    ("read", "way"),
    [
        (fnn.exchange.load, REPLACED),
        (read_run, MOVES),
        (read_run, REPLACED),
        (to_hub, REPLACED),
    ],
)
def test_no_network_is_put_together_from_two_runs(stranger, tmp_path, monkeypatch, read, way):
    """Both are intact. The folder is one of them before its configuration is read, and the other one afterwards."""
    latest, newer, verify = tmp_path / "latest", tmp_path / "newer", run_folder.verify_run_folder
    shutil.copytree(stranger, newer)
    sign_run(newer, class_names=["x", "y", "z"])
    latest.symlink_to(stranger)

    def verify_the_newer(*about):
        if way == MOVES:
            latest.unlink()
            latest.symlink_to(newer)
        else:
            for name in (*run_folder.VERIFIED, run_folder.RESULT):
                shutil.copy(newer / name, stranger / name)
        verify(*about)

    monkeypatch.setattr(run_folder, "verify_run_folder", verify_the_newer)
    with pytest.raises(DataError, match="another one than before"):
        read(latest)
    assert not (tmp_path / "hub").exists()


def test_training_does_not_start_from_another_version_than_that_of_its_settings(
    stranger, tiny, tmp_path, monkeypatch, refused
):
    """Its owner writes it again while JAX and the data are loaded."""
    newer, load_data = shutil.copytree(stranger, tmp_path / "newer"), Configuration.load_data
    sign_run(newer, activation="tanh")

    def load_and_replace(*about, **more):
        shutil.copytree(newer, stranger, dirs_exist_ok=True)
        return load_data(*about, **more)

    monkeypatch.setattr(Configuration, "load_data", load_and_replace)
    expected = f"{stranger}: expected the run whose settings were read before, got another one. Start again."
    refused(["train", "--from", stranger, *tiny[1:5], "--quiet"], expected)


def test_the_checksum_of_a_start_is_that_of_its_parameters(stranger, tiny, tmp_path, monkeypatch, refused):
    """Another run of the same settings takes its place between the two."""
    newer, start_from = shutil.copytree(stranger, tmp_path / "newer"), train.start_from

    def start_and_replace(*about):
        found = start_from(*about)
        for file in newer.iterdir():
            file.replace(stranger / file.name)
        return found

    monkeypatch.setattr(train, "start_from", start_and_replace)
    refused(["train", "--from", stranger, *tiny[1:5], "--quiet"], "another one than before")


def test_the_checksum_of_an_import_is_that_of_its_parameters(stranger, tiny, tmp_path, monkeypatch, refused):
    file, read = tmp_path / "file.safetensors", import_parameters._read
    assert run(["export", str(stranger), "--to", "torch", "--out", str(file)]) == 0

    def read_and_replace(*about):
        found = read(*about)
        shutil.copy(file, tmp_path / "newer").replace(file)
        return found

    monkeypatch.setattr(import_parameters, "_read", read_and_replace)
    command = ["import", file, *tiny[1:5], "--hidden", "8", "--out", tmp_path / "out"]
    refused(command, "another one than before")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command", ["train --json {}", "merge {} --out x", "predict {} y", "train --out {}/x", "verify relu --html {}"]
)
def test_a_link_to_itself_is_refused(command, tmp_path, refused):
    (tmp_path / "loop").symlink_to("loop")
    refused(command.format(tmp_path / "loop").split(), "loop")


def test_a_page_does_not_mix_the_settings_of_a_run_with_checkpoints_of_another_one(tiny, tmp_path):
    out = tmp_path / "run"
    assert run([*tiny, "--quiet", "--out", str(out)]) == 0
    sign_run(out, activation="tanh")
    (out / "result.json").unlink()
    found = read_run(out)
    assert (found.history, found.params) == ([], None)
    assert (
        'a checkpoint of the run of config.json, got one of another run, which has activation "relu"' in found.notes[0]
    )


def test_a_run_that_is_a_link_is_exported_beside_it(stranger, tmp_path, monkeypatch):
    (tmp_path / "latest").symlink_to(stranger)
    monkeypatch.chdir(tmp_path)
    for kind, out in (("hub", "hub"), ("torch", "model.safetensors")):
        assert run(["export", "latest", "--to", kind, "--out", out]) == 0


@pytest.mark.parametrize("command", [("train", "--from"), ("predict",), ("export",)])
def test_a_link_that_moves_on_does_not_mix_two_runs(stranger, tiny, tmp_path, monkeypatch, picture, command):
    """It moves when the settings of the run, or the best member of a sweep, were read: the other one is finished."""
    newer = shutil.copytree(stranger, tmp_path / "newer")
    sign_run(newer, activation="tanh")
    (tmp_path / "latest").symlink_to(stranger)
    (tmp_path / "next").symlink_to(newer)
    chosen_run = saved_networks.chosen_run

    def choose_and_move(folder, member):
        found = chosen_run(folder, member)
        if (tmp_path / "next").is_symlink():
            (tmp_path / "next").replace(tmp_path / "latest")
        return found

    monkeypatch.setattr(saved_networks, "chosen_run", choose_and_move)
    monkeypatch.setattr("functional_nn.cli.trained_run.chosen_run", choose_and_move)
    start = []
    more = {"train": [*tiny[1:5], "--out", str(tmp_path / "out"), "--quiet"], "predict": [picture]}
    read = saved_networks.load
    monkeypatch.setattr(saved_networks, "load", lambda *given: start.append(read(*given)) or start[-1])
    monkeypatch.setattr("functional_nn.exchange.load", saved_networks.load)
    to = ["--to", "stablehlo", "--out", str(tmp_path / "x")]
    assert run([*command, str(tmp_path / "latest"), *more.get(command[0], to)]) == 0
    assert [one.configuration.activation for one in start] == ["relu"]


@pytest.mark.parametrize("called", ["checkpoints.steps", "checkpoints.read_checkpoint"])
def test_checkpoints_that_are_replaced_by_a_link_are_not_read_there(stranger, tmp_path, monkeypatch, called):
    """The private run is not shown, whenever the link is put between the look at the folder and the reading."""
    fnn.storage.save_checkpoint(stranger / "checkpoints", 1, {"of": np.zeros(1)}, about={"settings": {}})
    fnn.storage.save_checkpoint(tmp_path / "private", 1, {"of": np.ones(1)})
    (stranger / "result.json").unlink()
    found = []
    monkeypatch.setattr("functional_nn.reports.run_contents.saved_history", lambda one: found.append(one) or [])
    put_link_before(monkeypatch, f"functional_nn.storage.{called}", stranger / "checkpoints", tmp_path / "private")
    read_run(stranger)
    assert (stranger / "checkpoints").is_symlink()
    assert [one.arrays["of"].item() for one in found] == [0]


def test_a_link_in_place_of_checkpoints_that_were_looked_at_is_not_followed(stranger, tmp_path, monkeypatch):
    fnn.storage.save_checkpoint(tmp_path / "private", 1, {})
    (stranger / "checkpoints").mkdir()
    (stranger / "result.json").unlink()
    put_link_before(
        monkeypatch, "functional_nn.storage.checkpoints.newest", stranger / "checkpoints", tmp_path / "private"
    )
    assert read_run(stranger).notes[0].startswith("There are no checkpoints")


@pytest.mark.parametrize("called", ["storage.files.names_in", "sweeps.store.read_batch"])
def test_batches_that_are_replaced_by_a_link_are_not_read_there(tmp_path, monkeypatch, called):
    for name, status in (("stranger", "finished"), ("private", "non-finite")):
        with opened_store(tmp_path / name, {"grid": [{"data": "data"}]}) as store:
            store.save("0-0-end", [MemberHistory(0, status=status)], [{}])
    batches = tmp_path / "stranger" / "batches"
    put_link_before(monkeypatch, f"functional_nn.{called}", batches, tmp_path / "private" / "batches")
    status = read_sweep(tmp_path / "stranger")[0].members[0].status
    assert status == ("not run" if called.endswith("names_in") else "finished")


@pytest.mark.parametrize(("called", "link"), [("new_folder", "in/hub"), ("run_of", "in/hub"), ("run_of", "in")])
def test_an_export_overwrites_nothing_behind_a_link_that_is_put_there_meanwhile(
    trained, tmp_path, monkeypatch, called, link
):
    (tmp_path / "in" / "hub").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "README.md").write_text("mine")
    put_link_before(monkeypatch, f"functional_nn.exchange.hub.{called}", tmp_path / link, tmp_path / "precious")
    refused = pytest.raises(InputError, match=r": expected a .*folder.*, got ")
    with nullcontext() if link == "in" else refused:  # the folder in which it writes is kept open, whatever its name is
        fnn.exchange.to_hub(trained, tmp_path / "in" / "hub")
    assert (tmp_path / "away" / "hub" / "README.md").is_file() == (link == "in")
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["README.md"]
    assert (tmp_path / "precious" / "README.md").read_text() == "mine"


def test_settings_of_matplotlib_in_the_working_directory_are_not_those_of_the_page(stranger):
    """matplotlib reads them from a file there. LaTeX would run with a preamble that reads any file."""
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context(
        {"text.usetex": True, "text.latex.preamble": r"\input{/etc/passwd}", "savefig.dpi": 3e4}
    ):
        assert run(["report", str(stranger)]) == 0
    with_settings = (stranger / "report.html").read_bytes()
    assert run(["report", str(stranger)]) == 0
    assert (stranger / "report.html").read_bytes() == with_settings


@pytest.mark.timeout(60)
@pytest.mark.parametrize("before", ["os.mkfifo('matplotlibrc')", "os.rmdir(os.getcwd())"])
def test_pictures_need_no_working_directory_and_matplotlib_opens_no_settings_in_it(tmp_path, before):
    """It reads them when it is imported, and a pipe would be waited for."""
    program = f"import os; {before}; from functional_nn.reports.plots import axes; axes.import_matplotlib()"
    (tmp_path / "here").mkdir()
    python(program, cwd=tmp_path / "here", PYTHONPATH=os.pathsep.join(map(os.path.abspath, filter(None, sys.path))))


def test_the_working_directory_is_the_same_one_again_if_its_path_leads_to_another(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from functional_nn.reports.plots import axes

    here = tmp_path / "here"
    here.mkdir()
    (here / "matplotlibrc").touch()
    monkeypatch.chdir(here)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)

    def swapped(*_, **__):
        here.rename(tmp_path / "there")
        here.mkdir()

    monkeypatch.setattr(axes, "imported", swapped)
    axes.import_matplotlib()
    assert os.listdir() == ["matplotlibrc"]


def test_a_page_that_cannot_be_written_does_not_take_the_result_away(tiny, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("functional_nn.cli.report._write_page", full)
    assert run([*tiny, "--quiet", "--out", str(tmp_path / "run"), "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr()
    assert "No report.html." in printed.err
    assert "test accuracy" in printed.out
    assert (tmp_path / "a.json").is_file()


def test_a_huge_checkpoint_is_not_read(stranger):
    """It takes no room on the disk, but its header says that it has an array of so many bytes."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [2**43], "data_offsets": [0, 2**43]}}).encode()
    path = fnn.storage.save_checkpoint(stranger / "checkpoints", 1, {})
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2**43)
    (stranger / "result.json").unlink()
    assert "a file of more than" in read_run(stranger).notes[0]


def test_a_folder_chooses_no_more_devices_than_there_are_cores(stranger, tiny, monkeypatch):
    sign_run(stranger, devices=2**31)
    asked = []

    def starting_jax(precision, devices, processes):
        asked.append(devices)
        raise InputError("devices", "none", "some")

    monkeypatch.setattr("functional_nn.cli.train.starting_jax", starting_jax)
    assert run([*tiny, "--out", str(stranger), "--resume"]) == 2
    assert asked == [os.cpu_count()]


def test_files_that_are_nearly_all_holes_are_not_read(tiny, tmp_path, monkeypatch, capsys):
    """A few kilobytes of an archive become such a file, whose zeros would fill the memory."""
    monkeypatch.setattr("functional_nn.storage.files.LARGEST_SPARSE", 2**22)
    header = json.dumps({"x": {"dtype": "U8", "shape": [2**23], "data_offsets": [0, 2**23]}}).encode()
    files = ("imported", "sweep/batches/0-0-end", "run/0000000001.checkpoint")
    for file in (tmp_path / f"{name}.safetensors" for name in files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(file, 8 + len(header) + 2**23)
    said = r"a sparse file: 8,388,6.. bytes, of which fewer than 1% are on the disk"
    assert run(["import", f"{file.parent}/../imported.safetensors", *tiny[1:5], "--out", str(tmp_path / "out")]) == 2
    assert re.search(said, capsys.readouterr().err)
    with opened_store(tmp_path / "sweep", {"grid": [{"data": "data"}]}), pytest.warns(UserWarning, match="is left out"):
        read_sweep(tmp_path / "sweep")
    with pytest.raises(DataError, match=said):
        fnn.storage.restore_checkpoint(tmp_path / "run", {})


def test_a_batch_that_does_not_fit_in_memory_is_not_read(tmp_path, monkeypatch):
    with opened_store(tmp_path, {"grid": [{"data": "data"}]}) as store:
        store.save("0-0-end", [MemberHistory(0, status="finished")], [{}])
    monkeypatch.setattr("functional_nn.sweeps.store.total_bytes", lambda: 100)
    with pytest.warns(UserWarning, match="is left out"):
        assert read_sweep(tmp_path)[0].members[0].status == "not run"


def test_the_settings_of_a_sweep_have_no_more_members_than_grids_have(tmp_path):
    with opened_store(tmp_path, {"grid": [{"data": ""}] * 50_001}):
        pass
    with pytest.raises(DataError, match="at most 50,000 members"):
        read_sweep(tmp_path)


def test_the_name_of_a_folder_loses_control_characters(stranger, tmp_path, capsys):
    folder = stranger.rename(tmp_path / "run\x1b[2J\n")
    assert run(["report", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/run\\x1b[2J\\n/report.html"]


def test_a_run_whose_folder_is_replaced_by_a_link_changes_nothing_there(tiny, trained, tmp_path, monkeypatch):
    """Another user who can write to the folder above could put a link there, to another run of the user."""
    precious = shutil.copytree(trained, tmp_path / "precious")
    before = {path.name: path.read_bytes() for path in precious.iterdir()}
    record = StatisticsRecorder.record

    def record_and_replace(recorder, epoch, *about, **more):
        record(recorder, epoch, *about, **more)
        if epoch == 2:
            (tmp_path / "out").rename(tmp_path / "away")
            (tmp_path / "out").symlink_to(precious)

    monkeypatch.setattr(StatisticsRecorder, "record", record_and_replace)
    assert run([*tiny, "--epochs", "3", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert {path.name: path.read_bytes() for path in precious.iterdir()} == before
    (tmp_path / "out").unlink()
    assert run(["report", str(tmp_path / "away")]) == 0  # all of it was written there, and belongs together


SWAPPED = {  # commands, and the file after which the folder is replaced by a link
    "report": ("report {stranger}", "", "stranger"),
    "merge": ("merge {part} --out {out}", "members.csv", "out"),
    "sweep": ("sweep {flags} --epochs 1 --seeds 1 --out {out}", "members.csv", "out"),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_nothing_is_written_where_a_link_takes_the_name_of_a_folder(
    name, stranger, trained, tiny, tmp_path, monkeypatch
):
    """Another user who can write to the folder above could rename it at any moment, and put a link to it there."""
    command, after, swapped = SWAPPED[name]
    precious = shutil.copytree(trained, tmp_path / "precious")
    for table in ("members.csv", "members.jsonl", "README.md"):
        (precious / table).write_text("precious")
    before = {path.name: path.read_bytes() for path in precious.iterdir()}
    part = tmp_path / "part"
    flags = " ".join([*tiny[1:5], "--hidden", "8"])
    if name == "merge":
        assert run(f"sweep {flags} --epochs 1 --seeds 1 --out {part} --quiet".split()) == 0
    folder = stranger if swapped == "stranger" else tmp_path / "out"
    replace = os.replace

    def replace_and_swap(source, destination, **options):
        if not after and not (tmp_path / "away").exists():
            swap()
        replace(source, destination, **options)
        if after and os.path.basename(destination) == after:
            swap()

    def swap():
        folder.rename(tmp_path / "away")
        folder.symlink_to(precious)

    monkeypatch.setattr(os, "replace", replace_and_swap)
    command = command.format(stranger=stranger, out=tmp_path / "out", part=part, flags=flags)
    run(command.split())
    assert (tmp_path / "away").exists()
    assert {path.name: path.read_bytes() for path in precious.iterdir()} == before


@pytest.mark.timeout(60)
def test_a_huge_file_of_parameters_is_not_read(stranger, picture, refused):
    """It takes no room on the disk. To compute its checksum would take days."""
    os.truncate(stranger / "model.safetensors", 2**43)
    refused(["predict", stranger, picture], "model.safetensors: expected a file of the run, got a file of more than")
    assert run(["report", str(stranger)]) == 0


def test_a_network_that_does_not_fit_in_memory_is_refused(stranger, picture, monkeypatch, refused):
    monkeypatch.setattr("functional_nn.training.devices.available_bytes", lambda: 670)
    # Its parameters fit, but not its program.
    refused(["predict", stranger, picture], "x: expected a network that fits in 0.0 GiB of memory")
    sign_run(stranger, hidden=[10**6])
    monkeypatch.undo()
    sign_run(stranger, hidden=[10**6], image_shape=[7000, 7000, 1])
    refused(["predict", stranger, picture], "one that makes no network (net: expected a network that fits in")


def test_an_exported_step_for_batches_that_do_not_fit_in_memory_is_refused(stranger, tmp_path, monkeypatch, refused):
    sign_run(stranger, batch_size=10_000)
    monkeypatch.setattr("functional_nn.training.devices.available_bytes", lambda: 10_000 * 16 * 12 - 1)
    words = "batch_size: expected a network that fits in 0.0 GiB of memory, got batches of 10,000 examples"
    refused(["export", stranger, "--to", "onnx-training", "--out", tmp_path / "step"], words)


def test_a_page_that_cannot_be_written_is_named_and_the_error_says_what_to_do(stranger, refused):
    (stranger / "report.html").mkdir()
    words = f"Error: {stranger}/report.html: expected a file that can be written, got not a regular file. Let"
    refused(["report", stranger], words)


@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "torch"])
def test_an_exported_file_stays_in_its_folder_and_replaces_none(stranger, tmp_path, monkeypatch, kind):
    pytest.importorskip({"stablehlo": "flatbuffers", "onnx": "onnx"}.get(kind, "jax"))
    write = export._write
    out, victim = tmp_path / "out" / "net.safetensors", tmp_path / "victim"
    victim.mkdir()
    (victim / "net.safetensors").write_text("precious")

    def replaced_by_link(*about):
        (tmp_path / "out").rename(tmp_path / "away")
        (tmp_path / "out").symlink_to(victim)
        write(*about)

    def another_file(*about):
        out.write_text("precious")
        write(*about)

    command = ["export", str(stranger), "--to", kind, "--out", str(out)]
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(export, "_write", replaced_by_link)
    assert run(command) == 0
    assert (victim / "net.safetensors").read_text() == "precious"
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["net.safetensors"]
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(export, "_write", another_file)
    assert run(command) == 1
    assert out.read_text() == "precious"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_folder_that_appears_after_the_first_look_is_not_reported(stranger, tmp_path, monkeypatch, refused):
    """A stranger renames his run for a moment, and then puts a link to a private run in its place."""
    write_page = report._write_page

    def put_link_first(folder, *more):
        folder.symlink_to(stranger)
        return write_page(folder, *more)

    monkeypatch.setattr(report, "_write_page", put_link_first)
    before = sorted(stranger.iterdir())
    refused(["report", tmp_path / "run"], "the folder of a run or a sweep, got no folder")
    assert sorted(stranger.iterdir()) == before


def test_a_run_goes_on_in_the_folder_of_its_settings_or_not_at_all(stranger, tiny, tmp_path, monkeypatch, refused):
    """A stranger makes a folder with settings of his, and removes it when they have been read."""
    shutil.copytree(stranger, tmp_path / "run")
    with_settings_of = train.with_settings_of

    def remove_then_use(flag, folder, *more):
        shutil.rmtree(folder)
        return with_settings_of(flag, folder, *more)

    monkeypatch.setattr(train, "with_settings_of", remove_then_use)
    refused([*tiny, "--out", tmp_path / "run", "--resume", "--quiet"], str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*owned")
def test_the_message_of_a_run_loses_control_characters(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*tiny, "--epochs", "1", "--out", str(out), "--quiet"]) == 0
    path = out / "checkpoints" / "0000000001.checkpoint.safetensors"
    manifest = manifest_of(path)
    manifest["about"] |= {"status": "non-finite", "message": "\x1b]0;owned\x07"}
    with_manifest(path, manifest)
    (out / "result.json").unlink()
    capsys.readouterr()
    run([*tiny, "--epochs", "1", "--out", str(out), "--resume", "--quiet"])
    said = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07" in said
    assert "\x1b" not in said
