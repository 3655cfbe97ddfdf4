"""Runs and sweeps that get signals at any moment: the same command goes on, and ends the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

TRAIN = ["--epochs", "60", "--resume"]
SWEEP = ["--learning-rate", "0.1,0.01", "--seeds", "30", "--epochs", "3"]


def signals(folder: Path, number: int, name: str, command: list[str]) -> str:
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [sys.executable, str(script), str(folder), str(number), "1", name, *command]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(params=["train", "sweep"])
def command(request, tiny) -> list[str]:
    return [*tiny, *TRAIN] if request.param == "train" else ["sweep", *tiny[1:], *SWEEP]


@pytest.mark.processes
def test_killed_once(command, tmp_path):
    assert signals(tmp_path, 1, "KILL", command).startswith("1 signals")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ["KILL", "TERM", "INT"])
def test_stopped_200_times(command, tmp_path, name):
    print(said := signals(tmp_path, 200, name, command))
    assert said.startswith("200 signals")
