"""The measurement of curves: a process for each entry, which take turns at every size."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.growth.curves import OURS, Curve
from benchmarks.growth.work import Work
from benchmarks.race import ROOT, WorkerEnded

FEWEST_ROUNDS, LONG_TURN = 3, 3.0
"""A turn of more than 3 s is repeated 3 times only, so that everything together takes minutes and not hours."""


@dataclass
class Point:
    """The measured numbers of one entry at one size.

    Args:
        curve, entry, size: what was measured.
        values: one number for each round, divided by the curve's divisor; empty if there is a problem.
        unit: of the values, `s` or `bytes`.
        work: the sizes of the work that differ from the usual ones of `Work`.
        versions: of the entry's libraries.
        problem: why there are no values.
    """

    curve: str
    entry: str
    size: int
    unit: str
    work: dict
    values: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


class EntryProcess:
    """A process of `benchmarks.growth.worker`, as a context manager that ends it."""

    def __init__(self, entry: str, devices: int):
        module = OURS if entry.startswith(OURS) else entry
        command = [sys.executable, "-m", "benchmarks.growth.worker", module, str(devices)]
        # A file, because a pipe that nobody reads would stop a process that writes many warnings.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, __exit__ closes it
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},  # all entries use the CPU, as PyTorch does here
        )

    def __enter__(self) -> EntryProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def answer(self) -> dict:
        """The next answer.

        Raises:
            WorkerEnded: with the last line of its errors, if the process has ended.
        """
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or ["no message"]
        raise WorkerEnded(f"ended with status {status}: {lines[-1]}")

    def measure(self, kind: str, work: Work) -> float:
        with suppress(BrokenPipeError):  # the process has ended; then answer() raises an error
            print(json.dumps({"kind": kind, "work": asdict(work)}), file=self.process.stdin, flush=True)
        return self.answer()["value"]


class Entrants:
    """The processes of a curve's entries, as a context manager that ends them. Those with a problem are left out."""

    def __init__(self, curve: Curve):
        self.curve = curve
        self.processes: dict[str, EntryProcess] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.problems: dict[str, str] = {}

    def __enter__(self) -> Entrants:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.__exit__()
        self.processes = {}

    def start(self, entry: str, work: Work) -> None:
        """Starts the process of an entry, if it does not run yet and has no problem."""
        if entry in self.processes or entry in self.problems:
            return
        self.processes[entry] = EntryProcess(entry, work.devices)
        with self.noticing(entry):
            hello = self.processes[entry].answer()
            if "missing" in hello:
                raise WorkerEnded(f"not installed ({hello['missing']})")
            self.versions[entry] = hello["versions"]

    @contextmanager
    def noticing(self, entry: str) -> Iterator[None]:
        """Leaves an entry out if its process ends."""
        try:
            yield
        except WorkerEnded as error:
            self.problems[entry] = str(error)
            self.processes.pop(entry).__exit__()


def measured(
    name: str, curve: Curve, sizes: tuple[int, ...], rounds: int, progress: Callable[[str], None]
) -> Iterator[list[Point]]:
    """Yields the points of all entries at each size, from small to large.

    An entry that is not installed, or whose process ends, has a problem at this size, and is left out from then on.
    """
    with Entrants(curve) as entrants:
        for size in sizes:
            if curve.own_process:
                entrants.__exit__()
            progress(f"{curve.title}: {size:,}")
            works = {entry: curve.work_of(entry, size) for entry in curve.entries}
            for entry, work in works.items():
                entrants.start(entry, work)
            values = _values(curve, entrants, works, rounds)
            yield [
                Point(
                    name,
                    entry,
                    size,
                    curve.unit,
                    work.unusual(),
                    [value / curve.divisor(work) for value in values[entry]],
                    entrants.versions.get(entry, {}),
                    entrants.problems.get(entry),
                )
                for entry, work in works.items()
            ]


def _values(curve: Curve, entrants: Entrants, works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """The numbers that the entries measure. They take turns, in a new order each round."""
    values: dict[str, list[float]] = {entry: [] for entry in works}
    # Memory is the same at each repetition, so one number is enough.
    for number in range(rounds if curve.unit == "s" else 1):
        order = list(entrants.processes)
        # The order is random, because some entries leave the machine slower for a moment.
        random.Random(f"{curve.title} {number}").shuffle(order)
        for entry in order:
            with entrants.noticing(entry):
                values[entry].append(entrants.processes[entry].measure(curve.kind, works[entry]))
        longest = max((measured[-1] for measured in values.values() if measured), default=0.0)
        if number + 1 >= FEWEST_ROUNDS and longest > LONG_TURN:
            break
    return values


def caches() -> dict[str, str]:
    """The sizes of the first core's data caches, as Linux reports them; empty elsewhere."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError):
            kind, level = ((folder / name).read_text().strip() for name in ("type", "level"))
            if kind != "Instruction":
                sizes[f"L{level}"] = (folder / "size").read_text().strip()
    return sizes
