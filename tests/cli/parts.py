"""What the tests of sweeps in parts share."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from tests import bits

from functional_nn import cli
from functional_nn.cli.submitted import JOBS, PARTS

Found = TypeVar("Found")


def contents(folder: Path) -> dict[str, object]:
    """All files of a sweep's folder, except for those of jobs and parts."""
    return bits.contents(folder, (f"{JOBS}/", f"{PARTS}/"))


def sweep_of(tiny: list[str], flags: list[str]) -> list[str]:
    """The arguments of a sweep over the data of a tiny run."""
    _, *data = tiny
    return ["sweep", *data, *flags]


def undivided(swept: list[str], parent: Path) -> Path:
    """The folder of the undivided sweep."""
    folder = parent / "whole"
    assert cli.run([*swept, "--out", str(folder), "--quiet"]) == 0
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "functional_nn", *arguments]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running command, in a session of its own, as in a terminal of its own. It is killed if the test fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*arguments), text=True, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(find: Callable[[], Found], process: subprocess.Popen[str]) -> Found:
    """What a function finds, as soon as it finds something, while a command runs."""
    while not (found := find()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


def has_batches(folder: Path) -> bool:
    """Whether a part has finished some of its members."""
    return any(folder.glob("batches/*.safetensors"))


def need_submitit() -> None:
    pytest.importorskip("submitit", reason="an optional package")


def need_slurm() -> None:
    need_submitit()
    if shutil.which("sinfo") is None or not subprocess.run(["sinfo", "--noheader"], capture_output=True).stdout:
        pytest.skip("needs Slurm, as scripts/one_node_slurm.sh starts it")


def slurm_jobs(folder: Path) -> list[str]:
    """The numbers of the running jobs of Slurm that a sweep with this folder started."""
    running = ["squeue", "--me", "--noheader", "--array", "--states", "R", "--format", "%i"]
    numbers = subprocess.run(running, capture_output=True, text=True).stdout.split()
    arrays = {path.name.partition("_")[0] for path in (folder / JOBS).glob("*_submission.sh")}
    return [number for number in numbers if number.partition("_")[0] in arrays]
