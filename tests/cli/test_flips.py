"""One bit flipped in any file that a run or a sweep leaves: noticed, or without effect, never a wrong number."""

import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from functional_nn.cli import run
from functional_nn.core.errors import InputError
from functional_nn.storage.arrays import unpacked
from functional_nn.storage.checkpoint import Checkpoint
from functional_nn.storage.checkpoint_folder import newest
from functional_nn.storage.files import read_signed
from functional_nn.storage.metrics_history import History
from functional_nn.storage.run_folder import RESULT, VERIFIED, verify_run_folder
from functional_nn.training.resilience.checkpointing import METRICS, NUMBERS

FOR_PEOPLE = (".png", ".csv", ".jsonl", ".html")
"""Files that the package writes and does not read, but for a run's metrics."""


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("flips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("functional_nn.reports.plots.run.draw_all", lambda *about: [])
        patch.setattr("functional_nn.reports.plots.sweep.draw_all", lambda *about: ["nothing"])
        assert run([*tiny, "--epochs", "3", "--out", str(place / "run"), "--quiet"]) == 0
        assert run(["sweep", *tiny[1:], "--seeds", "2", "--out", str(place / "sweep"), "--quiet"]) == 0
    return place


def resumed(folder: Path) -> tuple:
    """What a run would go on from: every bit of the newest good checkpoint, and the metrics before it."""

    def rows(found: Checkpoint) -> list:
        columns = len(NUMBERS) + len(found.about["settings"][METRICS])
        read = History(folder, columns).read(found.about["epochs"], found.about["history"])
        return [np.float64(row).tobytes() for row in read]  # NaN is equal to itself

    found = newest(folder, rows)
    assert found is not None
    return {name: array.tobytes() for name, array in found.arrays.items()}, found.about, rows(found)


def read(folders: Path, path: Path) -> object:
    """Reads a file as the package does; raises where it is not as it was written."""
    if path.name in (*VERIFIED, RESULT):
        return verify_run_folder(path.parent)
    if "checkpoints" in path.parts:
        return resumed(folders / "run" / "checkpoints")
    if path.name == "sweep.json":
        return read_signed(path.read_bytes())
    arrays, about = unpacked(path)
    return {name: array.tobytes() for name, array in arrays.items()}, about


def flips(folders: Path, count: int, seed: int) -> Counter:
    chance, outcomes = random.Random(seed), Counter()
    everything = [path for path in sorted(folders.rglob("*")) if path.is_file() and path.name != ".lock"]
    files = [path for path in everything if path.suffix not in FOR_PEOPLE or path.name in VERIFIED]
    good = {path: (path.read_bytes(), read(folders, path)) for path in files}
    for number in range(count):
        path = files[number % len(files)]
        content, expected = good[path]
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = read(folders, path)
                outcome = "without effect" if found == expected else "said" if said else "silent"
            except (InputError, ValueError, RecursionError):
                outcome = "refused"
        outcomes[outcome] += 1
        path.write_bytes(content)
    return outcomes


def test_fault_32_and_48_flips_in_every_file(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "copy")
    outcomes = flips(tmp_path / "copy", 400, 0)
    assert outcomes["silent"] == 0
    assert outcomes.keys() >= {"refused", "said", "without effect"}


@pytest.mark.slow
def test_fault_32_and_48_ten_thousand_flips(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "copy")
    print(outcomes := flips(tmp_path / "copy", 10_000, 1))
    assert outcomes["silent"] == 0
