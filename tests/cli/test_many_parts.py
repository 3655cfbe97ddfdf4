"""A sweep of 64 models in parts: by hand, as processes of this computer, and as jobs of Slurm."""

import subprocess
from pathlib import Path

import pytest
from tests.cli.parts import (
    contents,
    has_batches,
    need_slurm,
    need_submitit,
    slurm_jobs,
    started,
    sweep_of,
    undivided,
    wait_for,
)

from functional_nn import cli
from functional_nn.cli.submitted import JOBS, PARTS

RATES = "0.01,0.02,0.03,0.05,0.1,0.2,0.3,0.5"
FLAGS = ["--hidden", "4", "--epochs", "1", "--learning-rate", RATES, "--seeds", "8", "--quiet"]

pytestmark = pytest.mark.slow
in_parts = pytest.mark.parametrize("count", [1, 3, 7])


@pytest.fixture
def swept(tiny):
    return sweep_of(tiny, FLAGS)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The files of the undivided sweep."""
    return contents(undivided(sweep_of(tiny, FLAGS), tmp_path_factory.mktemp("sweep")))


@in_parts
def test_by_hand(swept, whole, tmp_path, count):
    folders = [tmp_path / f"{part + 1}" for part in range(count)]
    parts = [[*swept, "--part", f"{part}/{count}", "--out", str(folder)] for part, folder in enumerate(folders, 1)]
    with started(*parts[-1]) as process:
        wait_for(lambda: has_batches(folders[-1]), process)
    assert process.returncode == -9
    for part in parts:
        assert cli.run(part) == 0
    assert cli.run(["merge", *map(str, folders), "--out", str(tmp_path / "merged"), "--quiet"]) == 0
    assert contents(tmp_path / "merged") == whole


def child_of_a_job(folder: Path) -> str:
    """The number of the process that runs a part, if a part has finished some of its members."""
    if not any(map(has_batches, (folder / PARTS).glob("*"))):
        return ""
    for log in (folder / JOBS).glob("*_log.out"):
        watcher = log.name.partition("_")[0]
        children = subprocess.run(["pgrep", "--parent", watcher], capture_output=True, text=True).stdout.split()
        if children:
            return children[0]
    return ""


@in_parts
def test_as_processes_of_this_computer(swept, whole, tmp_path, count):
    need_submitit()
    with started(*swept, "--submit", str(count), "--job", "cluster=local", "--out", str(tmp_path)) as process:
        subprocess.run(["kill", "-9", wait_for(lambda: child_of_a_job(tmp_path), process)], check=True)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("It is run again") == 1, said
    assert contents(tmp_path) == whole


@in_parts
def test_as_jobs_of_slurm(swept, whole, tmp_path, count):
    need_slurm()
    with started(*swept, "--submit", str(count), "--job", "timeout_min=10", "--out", str(tmp_path)) as process:
        subprocess.run(["scancel", wait_for(lambda: slurm_jobs(tmp_path), process)[0]], check=True)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert said.count("It is run again") == 1, said
    assert contents(tmp_path) == whole
