"""Races between peers: each has a process of its own, and they train one epoch in turn, round after round."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class WorkerEnded(Exception):
    """Raised if the process of a worker ends before it answers."""


class Worker:
    """A process of `benchmarks.worker`, as a context manager that ends it."""

    def __init__(
        self,
        workload: str,
        peer: str,
        data_dir: Path,
        seed: int,
        workload_options: dict,
        environment: Mapping[str, str] | None = None,
    ):
        command = [sys.executable, "-m", "benchmarks.worker", workload, peer]
        options = ["--data-dir", str(data_dir.resolve()), "--seed", str(seed)]
        options += ["--options", json.dumps(workload_options)]
        self.process = subprocess.Popen(
            command + options,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise WorkerEnded(f"failed (exit status {self.process.wait()})")
        return json.loads(line)

    def ask(self, word: str) -> dict:
        with suppress(BrokenPipeError):  # the process has ended; then answer() raises an error
            print(word, file=self.process.stdin, flush=True)
        return self.answer()


@dataclass
class Entry:
    """The results of one peer in a race."""

    peer: str
    problem: str | None = None  # why it did not finish
    threads: int | None = None
    models_a_round: int = 1
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    ready_seconds: float | None = None  # import and construction
    warmup_seconds: list[float] = field(default_factory=list)  # the first one includes tracing and compiling
    seconds: list[float] = field(default_factory=list)  # one for each round
    accuracy: float | None = None

    @property
    def seconds_a_model(self) -> list[float]:
        return [seconds / self.models_a_round for seconds in self.seconds]


def race(
    workload: str,
    peers: list[str],
    data_dir: Path,
    *,
    rounds: int,
    warmup: int,
    epochs_a_turn: int,
    seed: int,
    options: dict,
    progress: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    start_together: bool = False,
    seconds: float | None = None,
) -> list[Entry]:
    """Trains every peer for `warmup` epochs, and then all of them in turn, for `rounds` rounds.

    A turn has `epochs_a_turn` epochs, of which the last one is timed.

    Args:
        workload, peers, data_dir, seed, options: what each worker is given.
        rounds, warmup, epochs_a_turn: as above.
        progress: called with a text about what happens.
        environment: variables that the workers get in addition.
        start_together: whether all workers import their libraries at the same time. The race begins sooner, and
            `ready_seconds` are longer.
        seconds: no round but the first begins later than this. By default there is no such limit.
    """
    end = None if seconds is None else time.monotonic() + seconds
    entries = {name: Entry(name) for name in peers}
    workers: dict[str, Worker] = {}

    def attempt(name: str, work: Callable[[Entry, Worker], None]) -> None:
        try:
            work(entries[name], workers[name])
        except WorkerEnded as error:
            entries[name].problem = str(error)
            del workers[name]

    def start(entry: Entry, worker: Worker) -> None:
        hello = worker.answer()
        if "problem" in hello:
            raise WorkerEnded(hello["problem"])
        entry.ready_seconds = hello["ready"]
        entry.threads, entry.models_a_round = hello["threads"], hello["models_a_round"]
        entry.device, entry.versions = hello["device"], hello["versions"]
        entry.warmup_seconds = [worker.ask("epoch")["seconds"] for _ in range(warmup)]

    def train(entry: Entry, worker: Worker) -> None:
        *_, last = [worker.ask("epoch")["seconds"] for _ in range(epochs_a_turn)]
        entry.seconds.append(last)

    def test(entry: Entry, worker: Worker) -> None:
        entry.accuracy = worker.ask("accuracy")["accuracy"]

    with ExitStack() as stack:

        def begin(name: str) -> None:
            workers[name] = stack.enter_context(Worker(workload, name, data_dir, seed, options, environment))

        if start_together:
            for name in peers:
                begin(name)
        for name in peers:
            progress(f"warming up {name}")
            if not start_together:
                begin(name)
            attempt(name, start)
        for round_number in range(rounds):
            if round_number and end is not None and time.monotonic() > end:
                break
            progress(f"round {round_number + 1} of {rounds}")
            order = list(workers)
            random.Random(f"{seed} {round_number}").shuffle(order)
            # The order is random, because some peers leave the machine slower for a second.
            for name in order:
                attempt(name, train)
        for name in list(workers):
            progress(f"testing {name}")
            attempt(name, test)
    return list(entries.values())
