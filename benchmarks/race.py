"""Races between peers: each has a process of its own, and they train one epoch in turn, round after round."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class WorkerEnded(Exception):
    """Raised if the process of a worker ends before it answers."""


class Worker:
    """A process of one of the workers, which answers lines with JSON lines, as a context manager that ends it."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
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
        """The next answer.

        Raises:
            WorkerEnded: if the process has ended, or if the answer has a problem.
        """
        line = self.process.stdout.readline()
        if not line:
            raise WorkerEnded(f"failed (exit status {self.process.wait()})")
        answer = json.loads(line)
        if "problem" in answer:
            raise WorkerEnded(answer["problem"])
        return answer

    def ask(self, text: str) -> dict:
        with suppress(BrokenPipeError):  # the process has ended; then answer() raises an error
            print(text, file=self.process.stdin, flush=True)
        return self.answer()


def replier() -> Callable[..., None]:
    """A worker's function that writes its keyword arguments as a JSON line.

    What libraries print from now on goes to standard error, away from the answers.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda **values: print(json.dumps(values), file=answers, flush=True)


def shortened(error: BaseException, most: int = 300) -> str:
    """The type and the first line of an error's message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:most]


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
    limit: float | None = None,
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
        limit: after these seconds, all workers are ended. By default they are not.
    """
    end = None if seconds is None else time.monotonic() + seconds
    entries = {name: Entry(name) for name in peers}
    workers: dict[str, Worker] = {}

    late = threading.Event()

    def end_all() -> None:
        late.set()
        for worker in list(workers.values()):
            worker.process.kill()

    def attempt(name: str, work: Callable[[Entry, Worker], None]) -> None:
        try:
            if late.is_set():
                raise WorkerEnded("no time was left")
            work(entries[name], workers[name])
        except WorkerEnded as error:
            entries[name].problem = str(error)
            del workers[name]

    def start(entry: Entry, worker: Worker) -> None:
        hello = worker.answer()
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
        if limit is not None:
            timer = threading.Timer(limit, end_all)
            timer.start()
            stack.callback(timer.cancel)

        def begin(name: str) -> None:
            given = ("--data-dir", str(data_dir.resolve()), "--seed", str(seed), "--options", json.dumps(options))
            worker = Worker("benchmarks.worker", workload, name, *given, environment=environment)
            workers[name] = stack.enter_context(worker)

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
