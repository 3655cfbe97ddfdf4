"""The table of a race."""

from statistics import median
from types import ModuleType

from rich.console import Console
from rich.table import Table

from benchmarks.race import Entry


def spread(values: list[float], digits: int) -> str:
    """Median, then the smallest and largest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ranked(workload: ModuleType, entries: list[Entry], baseline: str) -> list[tuple[Entry, str, str]]:
    """Those that ran to the end, the quickest first: their times, and as multiples of the baseline's if it is there."""
    finished = sorted((e for e in entries if e.problem is None), key=lambda entry: median(entry.seconds_a_model))
    base = next((entry for entry in finished if entry.peer == baseline), None)
    rows = []
    for entry in finished:
        times, ratio = entry.seconds_a_model, ""
        if base is not None:
            ratio = spread([its / own for its, own in zip(times, base.seconds_a_model, strict=True)], 2)
        rows.append((entry, spread([seconds * workload.SCALE for seconds in times], 3), ratio))
    return rows


def versions(entries: list[Entry]) -> str:
    """Of every library that took part."""
    found = {library: number for entry in entries for library, number in entry.versions.items()}
    return ", ".join(f"{library} {number}" for library, number in sorted(found.items()))


def print_table(
    console: Console, workload: ModuleType, entries: list[Entry], baseline: str, options: dict, circumstances: dict
) -> None:
    """One row a peer, the quickest first; where `baseline` took part, how many times as long each peer took."""
    finished = ranked(workload, entries, baseline)
    base = any(ratio for _, _, ratio in finished)

    table = Table(box=None, pad_edge=False)
    table.add_column("peer", no_wrap=True)
    table.add_column("threads", justify="right", no_wrap=True)
    table.add_column(workload.UNIT, justify="right", no_wrap=True)
    if base:
        table.add_column(f"/ {baseline}", justify="right", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for entry, times, ratio in finished:
        table.add_row(entry.peer, str(entry.threads), times, *([ratio] if base else []), f"{entry.accuracy:.4f}")
    console.print(workload.RECIPE, *(f"{name} {value}" for name, value in options.items()), sep="; ")
    console.print("median (min-max) over the rounds" + ("; ratios within a round" if base else ""))
    console.print(table)

    for entry in entries:
        if entry.problem:
            console.print(f"{entry.peer}: {entry.problem}")
    console.print(versions(entries))
    console.print(
        "{cpu}, {cores} cores, {system}, Python {python}, commit {commit}, {date}, "
        "load average at the start {load_average}".format(**circumstances)
    )
