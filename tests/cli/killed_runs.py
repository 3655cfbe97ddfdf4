"""Runs the command in processes that get signals, goes on each time, and compares: a script of ``test_killed_runs.py``.

``python killed_runs.py FOLDER SIGNALS SEED NAME COMMAND…``, with NAME one of KILL, TERM and INT. Each process is a fork
of this one, which has imported everything but has started no backend of JAX; so the signal comes anywhere between its
first trace and its last picture, a third of the signals while results and pictures are written. A run that reaches its
end is compared with one that got no signal, and another one is begun.
"""

import importlib
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from functional_nn import cli

sys.path.insert(0, str(Path(__file__).parents[1]))
from bits import bits

for module in ("data.sources", "reports.plots.run", "reports.plots.sweep", "sweeps.sweep", "training.fit"):
    importlib.import_module(f"functional_nn.{module}")

RESULTS = ("model.safetensors", "members.csv")
"""What a run and a sweep write first when they have ended."""


def contents(path: Path) -> object:
    """What a file must say whether its run was killed or not."""
    is_compared = path.suffix in (".safetensors", ".csv") or path.name in ("metrics.jsonl", "members.jsonl")
    return bits(path) if is_compared else None


def outcome(folder: Path) -> dict[str, object]:
    """The names of all files in a run's folder, and what must be the same in them."""
    return {str(path.relative_to(folder)): contents(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def ended(command: list[str], log: Path, number: int = 0, moment: float = 0.0) -> int:
    """The command's status, which is below 0 for a signal that ended it; a signal is sent after so many seconds."""
    # A signal that comes before the command has its own handlers ends the process with the same status. It waits until
    # the child can say so: right after the fork, a busy machine may leave the child without its turn for long.
    catchable = {signal.SIGINT, signal.SIGTERM} & {number}
    signal.pthread_sigmask(signal.SIG_BLOCK, catchable)
    child = os.fork()
    if not child:
        status = 1
        try:
            for early in catchable:
                signal.signal(early, lambda *about: os._exit(128 + number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, catchable)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            status = cli.run(command)
        finally:
            sys.stderr.flush()
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, catchable)
    if number:
        time.sleep(moment)
        os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text()
    assert "Traceback" not in said, said
    allowed = {0} if not number else {0, -number} if number == signal.SIGKILL else {0, 128 + number}
    assert status in allowed, (status, said)
    return status


def first_result(folder: Path) -> float:
    """When the first file was written that there is only when training has ended."""
    return min((folder / name).stat().st_mtime for name in RESULTS if (folder / name).exists())


def main(folder: Path, signals: int, seed: int, number: int, command: list[str]) -> None:
    draws, hits, runs, late = random.Random(seed), 0, 0, 0
    whole, stopped, log = folder / "whole", folder / "stopped", folder / "log"
    start = time.time()
    assert ended([*command, "--out", str(whole)], log) == 0
    longest, expected = time.time() - start, outcome(whole)
    results = first_result(whole) - start
    while hits < signals or stopped.exists():
        is_late = draws.random() < 1 / 3
        moment = draws.uniform(results if is_late else 0, longest)
        status = ended([*command, "--out", str(stopped)], log, number if hits < signals else 0, moment)
        # A run whose last epoch has ended when the signal comes goes on to its end.
        if status or "Stopping after" in log.read_text():
            hits += 1
            late += is_late
        if status:
            continue
        found = outcome(stopped)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        shutil.rmtree(stopped)
        runs += 1
    print(f"{hits} signals, {late} of them aimed at the results, {runs} runs")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*fork", RuntimeWarning)
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    place, count, seed, name = sys.argv[1:5]
    main(Path(place), int(count), int(seed), getattr(signal, f"SIG{name}"), sys.argv[5:])
