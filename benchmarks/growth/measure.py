"""The command `python -m benchmarks growth`: measures curves, prints and records them, and writes the page.

Each entry has a process, and the processes take turns at every size.
"""

from __future__ import annotations

import importlib.util
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.growth import page
from benchmarks.growth.curves import CURVES, NAMES, OURS, Curve
from benchmarks.growth.work import Work
from benchmarks.race import Worker, WorkerEnded

QUICK_ROUNDS = 2
FEWEST_ROUNDS, LONG_TURN = 3, 3.0
"""A turn of more than 3 s is repeated 3 times only, so that everything together takes minutes and not hours."""


def compare(
    console: Console, names: Sequence[str], rounds: int, results: Path, *, quick: bool, only_page: bool = False
) -> None:
    """Measures the named curves.

    Each size is recorded as soon as it is measured. After a full measurement the tables and pictures of the page are
    written, unless the results are in a file of their own. With `quick`, a few small sizes are measured, and printed
    only, to see that everything runs. With `only_page`, nothing is measured, and the page is written from any file.

    Raises:
        ModuleNotFoundError: before anything is measured, if matplotlib is missing, which draws the pictures.
    """
    if not quick and importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("the pictures need matplotlib: pip install '.[plots]', or measure with --quick")
    if not only_page:
        circumstances = records.circumstances() | {"workload": "growth", "caches": caches()}
        for name in names:
            of_rounds, place = (QUICK_ROUNDS, None) if quick else (rounds, results)
            _measure(console, name, of_rounds, place, quick, circumstances)
    if only_page or (not quick and records.is_of_documents(results)):
        page.write(results)
        console.print(f"Written: {page.PAGE.relative_to(page.ROOT)} and its pictures, from {results.name}.")


def _measure(console: Console, name: str, rounds: int, results: Path | None, quick: bool, circumstances: dict) -> None:
    """Measures one curve, records every size, and prints the medians."""
    curve, clock = CURVES[name], time.perf_counter()
    points: list[Point] = []
    with console.status("starting") as status:
        for of_size in measured(name, curve, curve.quick if quick else curve.points, rounds, status.update):
            points += of_size
            if results is not None:
                records.append(results, [circumstances | asdict(point) for point in of_size])
    table = Table(title=f"{curve.title} ({time.perf_counter() - clock:.0f} s)")
    table.add_column(curve.size, justify="right")
    for entry in curve.entries:
        table.add_column(NAMES[entry].replace("`", ""), justify="right")
    for size in dict.fromkeys(point.size for point in points):
        cells = [page.shown(median(p.values), p.unit) if p.values else "—" for p in points if p.size == size]
        table.add_row(f"{size:,}", *cells)
    console.print(table)
    for problem in dict.fromkeys(f"{NAMES[point.entry]}: {point.problem}" for point in points if point.problem):
        console.print(problem)


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


class Entrants:
    """The processes of a curve's entries, as a context manager that ends them. Those with a problem are left out."""

    def __init__(self, curve: Curve):
        self.curve = curve
        self.processes: dict[str, Worker] = {}
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
        module = OURS if entry.startswith(OURS) else entry
        # All entries use the CPU, as PyTorch does here.
        environment = {"JAX_PLATFORMS": "cpu"}
        self.processes[entry] = Worker("benchmarks.growth.worker", module, environment=environment)
        with self.noticing(entry):
            self.versions[entry] = self.processes[entry].answer()["versions"]

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
                request = json.dumps({"kind": curve.kind, "work": asdict(works[entry])})
                values[entry].append(entrants.processes[entry].ask(request)["value"])
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
