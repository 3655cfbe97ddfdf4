"""A finished run, trained once for every test that reads it."""

import functools
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from functional_nn import cli
from functional_nn.configuration.settings import Configuration
from functional_nn.data import write_idx


@pytest.fixture
def refused(capsys):
    """Requires that a command ends with the status and one message that has the words in it; gives what it printed."""

    def check(arguments: list, *words: str, status: int = 2) -> str:
        capsys.readouterr()
        assert cli.run([*map(str, arguments)]) == status
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert captured.err.count("Error:") == 1
        assert len(captured.err) < 1500
        for word in words:
            assert word in " ".join(captured.err.split())
        return captured.out

    return check


def reported(folder: Path, *flags) -> str:
    """The page that ``report`` writes into the folder of a run or of a sweep."""
    assert cli.run(["report", *map(str, (folder, *flags))]) == 0
    return (folder / "report.html").read_text("utf-8")


def result_of(arguments: list, folder: Path) -> Any:
    """What the command writes with ``--json``, here into the folder."""
    file = folder / "result of a command.json"
    assert cli.run([*map(str, arguments), "--json", str(file)]) == 0
    return json.loads(file.read_text())


def kept(method):
    """The method of a configuration, with one result for equal settings. A sweep's may be tracers, without a hash."""
    results = functools.cache(method)

    def call(configuration, *about):
        try:
            hash(configuration)
        except TypeError:
            return method(configuration, *about)
        return results(configuration, *about)

    return call


NETWORK, RECIPE = kept(Configuration.network), kept(Configuration.recipe)


@pytest.fixture(autouse=True, scope="module")
def one_recipe_for_equal_settings():
    """Commands with equal settings have one network, loss and optimizer, so their programs are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Configuration, "network", NETWORK)
        patch.setattr(Configuration, "recipe", RECIPE)
        yield


@contextmanager
def without_pages():
    """Runs and sweeps end without a page, which takes as long as their training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("merge", "report"):  # the first one has the name from the second one
            patch.setattr(f"functional_nn.cli.{module}.page_of", lambda *about: [])
        yield


@pytest.fixture(scope="module")
def no_pages():
    with without_pages():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> SimpleNamespace:
    """``folder`` of a run of five epochs, its ``json`` file, and the ``flags`` it was trained with."""
    place = tmp_path_factory.mktemp("finished")
    flags = ["--hidden", "64", "--epochs", "5"]
    folder, file = place / "run", place / "result.json"
    with without_pages():
        assert cli.run(["train", *flags, "--out", str(folder), "--json", str(file)]) == 0
    return SimpleNamespace(folder=folder, json=file, flags=flags)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> list[str]:
    """Flags of a run that takes a moment: 60 images of 4 x 4 pixels in three classes, as IDX files.

    No example is left over from its batches, which would take a program of its own.
    """
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = random.integers(0, 100, (count, 4, 4), np.uint8)
        images[np.arange(count), labels] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    small = ["--epochs", "2", "--hidden", "8", "--batch-size", "20", "--optimizer", "sgd", "--learning-rate", "0.1"]
    return ["train", "--dataset", "tiny", "--data-dir", str(folder), *small]
