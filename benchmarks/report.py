"""The printed table of a race."""

from statistics import median
from types import ModuleType

from rich.console import Console
from rich.table import Table

from benchmarks.race import Entry


def spread(values: list[float], digits: int) -> str:
    """The median, and the smallest and the largest value in parentheses."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ranked(workload: ModuleType, entries: list[Entry], baseline: str) -> list[tuple[Entry, str, str]]:
    """The peers that finished, the fastest first: entry, times, and ratios to the baseline's times if it finished."""
    finished = [entry for entry in entries if entry.problem is None]
    finished.sort(key=lambda entry: median(entry.seconds_a_model))
    base = next((entry for entry in finished if entry.peer == baseline), None)
    rows = []
    for entry in finished:
        times = entry.seconds_a_model
        ratio = ""
        if base is not None:
            ratios = [time / base_time for time, base_time in zip(times, base.seconds_a_model, strict=True)]
            ratio = spread(ratios, 2)
        rows.append((entry, spread([seconds * workload.SCALE for seconds in times], 3), ratio))
    return rows


def versions(entries: list[Entry]) -> str:
    """The versions of all libraries that took part."""
    found = {library: number for entry in entries for library, number in entry.versions.items()}
    return ", ".join(f"{library} {number}" for library, number in sorted(found.items()))


def print_table(
    console: Console, workload: ModuleType, entries: list[Entry], baseline: str, options: dict, circumstances: dict
) -> None:
    """Prints one row for each peer, the fastest first, with ratios to the times of `baseline` if it took part."""
    finished = ranked(workload, entries, baseline)
    has_ratios = any(ratio for _, _, ratio in finished)

    table = Table(box=None, pad_edge=False)
    table.add_column("peer", no_wrap=True)
    table.add_column("threads", justify="right", no_wrap=True)
    table.add_column(workload.UNIT, justify="right", no_wrap=True)
    if has_ratios:
        table.add_column(f"/ {baseline}", justify="right", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for entry, times, ratio in finished:
        table.add_row(entry.peer, str(entry.threads), times, *([ratio] if has_ratios else []), f"{entry.accuracy:.4f}")
    console.print(workload.RECIPE, *(f"{name} {value}" for name, value in options.items()), sep="; ")
    console.print("median (min-max) over the rounds" + ("; ratios within a round" if has_ratios else ""))
    console.print(table)

    for entry in entries:
        if entry.problem:
            console.print(f"{entry.peer}: {entry.problem}")
    console.print(versions(entries))
    console.print(
        "{cpu}, {cores} cores, {system}, Python {python}, commit {commit}, {date}, "
        "load average at the start {load_average}".format(**circumstances)
    )
