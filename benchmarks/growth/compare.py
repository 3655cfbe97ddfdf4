"""The command `python -m benchmarks growth`: measures curves, prints and records them, and writes the page."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.growth import page
from benchmarks.growth.curves import CURVES, NAMES
from benchmarks.growth.measure import Point, caches, measured

QUICK_ROUNDS = 2


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
            _measure(console, name, QUICK_ROUNDS if quick else rounds, None if quick else results, quick, circumstances)
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
