"""Writes checkpoints in processes that are killed, and verifies after each kill: a script of ``test_checkpoints.py``.

``python killed_writer.py FOLDER KILLS SEED``. Each writer is a fork of this process, which has imported everything but
has started no backend of JAX: so a kill costs milliseconds.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from functional_nn.storage.checkpoints import CheckpointWriter, newest, read_checkpoint, steps


def tree(step: int) -> dict:
    """Arrays that a step's number determines."""
    draws = np.random.default_rng(step)
    return {"weight": draws.normal(size=(50, 20)).astype(np.float32), "step": np.int32(step)}


def write_until_killed(folder: Path, told: int) -> None:
    found = newest(folder)
    step = 0 if found is None else found.step
    with CheckpointWriter(folder, keep=2) as writer:
        while True:
            step += 1
            writer.save(step, tree(step), loss=float(step % 7))
            os.write(told, step.to_bytes(8, "little"))


def killed_after_a_moment(folder: Path, moment: float) -> int:
    """Kills a writer a moment after its first checkpoint; the last step that it told it had saved."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        write_until_killed(folder, writing)
    os.close(writing)
    told = os.read(reading, 8)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 1 << 16):
        told = more[-8:]
    os.close(reading)
    return int.from_bytes(told, "little")


def verify(folder: Path) -> int:
    """Every checkpoint is whole and what its number determines; gives the newest."""
    for step in steps(folder):
        arrays = read_checkpoint(folder / f"{step:010d}.checkpoint.safetensors", step).arrays
        assert {name: array.tobytes() for name, array in arrays.items()} == {
            name: array.tobytes() for name, array in tree(step).items()
        }
    return steps(folder)[-1]


def main(folder: Path, kills: int, seed: int) -> None:
    draws = random.Random(seed)
    left_behind = 0
    for _ in range(kills):
        told = killed_after_a_moment(folder, draws.uniform(0, 0.03))
        left_behind += any(folder.glob(".*.functional_nn.tmp"))
        assert verify(folder) >= told
    with CheckpointWriter(folder):
        assert not list(folder.glob(".*.functional_nn.tmp"))
    print(f"{kills} kills, {steps(folder)[-1]} steps, something left behind by {left_behind}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*fork", RuntimeWarning)
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
