"""Runs the command in processes that are killed, goes on each time, and compares: a script of ``test_killed_runs.py``.

``python killed_runs.py FOLDER KILLS SEED COMMAND…``. Each process is a fork of this one, which has imported everything
but has started no backend of JAX; so it dies anywhere between its first trace and its last picture. A run that reaches
its end is compared with one that was never killed, and another one is begun.
"""

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from safetensors.numpy import load_file

from functional_nn import cli

for module in ("data.sources", "reports.run_folder", "reports.sweep_plots", "sweeps.sweep", "training.fit"):
    importlib.import_module(f"functional_nn.{module}")


def contents(path: Path) -> object:
    """What a file must say whether its run was killed or not: all but seconds and restored epochs."""
    if path.suffix == ".safetensors":
        arrays = load_file(path)
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
    if path.name == "metrics.jsonl":
        return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
    return path.read_bytes() if path.suffix == ".csv" else None


def outcome(folder: Path) -> dict[str, object]:
    """The names of all files in a run's folder, and what must be the same in them."""
    return {str(path.relative_to(folder)): contents(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def ended(command: list[str], moment: float | None = None) -> bool:
    """Whether the command came to its end before it was killed, which is after so many seconds."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status = cli.run(command)
        finally:
            os._exit(status)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def main(folder: Path, kills: int, seed: int, command: list[str]) -> None:
    draws, hits, runs = random.Random(seed), 0, 0
    whole, killed = folder / "whole", folder / "killed"
    start = time.monotonic()
    assert ended([*command, "--out", str(whole)])
    longest, expected = time.monotonic() - start, outcome(whole)
    while hits < kills or killed.exists():
        if not ended([*command, "--out", str(killed)], draws.uniform(0, longest) if hits < kills else None):
            hits += 1
            continue
        found = outcome(killed)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        shutil.rmtree(killed)
        runs += 1
    print(f"{hits} kills, {runs} runs")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*fork", RuntimeWarning)
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
