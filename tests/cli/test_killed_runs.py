"""Runs and sweeps killed at any moment, again and again: the same command goes on, and ends as if never killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

TRAIN = ["--epochs", "60", "--resume"]
SWEEP = ["--learning-rate", "0.1,0.01", "--seeds", "60", "--epochs", "3"]


def kills(folder: Path, number: int, seed: int, command: list[str]) -> str:
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [sys.executable, str(script), str(folder), str(number), str(seed), *command]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(params=["train", "sweep"])
def command(request, tiny) -> list[str]:
    return [*tiny, *TRAIN] if request.param == "train" else ["sweep", *tiny[1:], *SWEEP]


def test_fault_31_killed_5_times(command, tmp_path):
    assert kills(tmp_path, 5, 0, command).startswith("5 kills")


@pytest.mark.slow
def test_fault_31_killed_500_times(command, tmp_path):
    print(said := kills(tmp_path, 500, 1, command))
    assert said.startswith("500 kills")
