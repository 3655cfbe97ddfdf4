"""Markdown tables of races, made from the records in results/ and written between two marks of a file."""

import datetime
import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from types import ModuleType

from benchmarks.race import ROOT, Entry
from benchmarks.records import RESULTS
from benchmarks.report import ranked, spread, versions

TABLES = ROOT / "docs" / "explanation" / "benchmarks.md"
OVERVIEW = "speed"
"""The table with one row for each workload, which is in both READMEs and in docs/explanation/performance.md."""
OVERVIEWS = (ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "explanation" / "performance.md")
FEWEST_ROUNDS = 5
NO_LIBRARY = "no library"
"""How the names of plain JAX programs begin, which are shown for reference but are not peers."""


@dataclass(frozen=True)
class Race:
    """The results of a race, the options of its workload, and its date and machine."""

    entries: list[Entry]
    options: dict
    circumstances: dict


def recorded(workload: ModuleType, path: Path) -> Race:
    """The newest race in a file of records in which all shown peers finished at least five rounds.

    Raises:
        ValueError: if the file has no such race.
    """
    races: dict[str, list[dict]] = {}
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        races.setdefault(record["date"], []).append(record)
    for date in sorted(races, reverse=True):
        finished = {
            record["peer"]
            for record in races[date]
            if record["problem"] is None and len(record["seconds"]) >= FEWEST_ROUNDS
        }
        if set(workload.SHOWN) <= finished:
            kept = {field.name for field in fields(Entry)}
            entries = [
                Entry(**{name: value for name, value in record.items() if name in kept}) for record in races[date]
            ]
            first = races[date][0]
            return Race(entries, {option: first[option] for option in workload.OPTIONS}, first)
    raise ValueError(f"expected a race of {FEWEST_ROUNDS} rounds with all of {', '.join(workload.SHOWN)} in {path}")


def table(workload: ModuleType, race: Race) -> str:
    """The peers, the fastest first, with ratios to functional_nn's times; then date, machine and versions."""
    finished = ranked(workload, race.entries, "functional_nn")
    title = "; ".join((workload.RECIPE, *(f"{name} {value}" for name, value in race.options.items())))
    lines = [title, "", f"| | {workload.UNIT} | ratio to functional_nn | test accuracy |", "|---|---|---|---|"]
    for entry, times, ratio in finished:
        row = [workload.NAMES[entry.peer], times, ratio or "—"]
        if entry.peer == "functional_nn":
            row = [f"**{cell}**" for cell in (row[0], times, "1")]
        lines.append(f"| {' | '.join((*row, f'{entry.accuracy:.4f}'))} |")
    missing = [f" {workload.NAMES[entry.peer]}: {entry.problem}." for entry in race.entries if entry.problem]
    place = "{cpu}, {cores} cores, {system}, Python {python}, {numbers}; commit {commit}, load {load_average}"
    about = place.format(**race.circumstances, numbers=versions(race.entries))
    rounds = max((len(entry.seconds) for entry, _, _ in finished), default=0)
    return "\n".join((*lines, "", f"{day(race)}, {rounds} rounds in turn, {about}.{''.join(missing)}"))


def day(race: Race) -> datetime.date:
    return datetime.datetime.fromisoformat(race.circumstances["date"]).date()


def overview(races: dict[ModuleType, Race]) -> str:
    """One row for each workload: functional_nn, the fastest other library, and PyTorch."""
    lines = ["| | functional_nn | fastest other library | ratio | PyTorch | ratio |", "|---|---|---|---|---|---|"]
    for workload, race in races.items():
        unit = workload.UNIT.split("/")[0]
        times = {entry.peer: entry.seconds_a_model for entry in race.entries if entry.problem is None}
        others = [peer for peer in times if not workload.NAMES[peer].startswith(("functional_nn", NO_LIBRARY))]
        ours = times[workload.OURS]

        def measured(peer: str, workload=workload, times=times, unit=unit) -> str:
            return f"{median(times[peer]) * workload.SCALE:#.3g} {unit}"

        def ratio(peer: str, times=times, ours=ours) -> str:
            return spread([other / our for other, our in zip(times[peer], ours, strict=True)], 2).split()[0]

        best = min(others, key=lambda peer, times=times: median(times[peer]))
        library = workload.NAMES[best].split(",")[0]
        name = workload.RECIPE.split(":")[0]
        cells = [f"{name}: {workload.WORK}", measured(workload.OURS), f"{measured(best)} ({library})", ratio(best)]
        lines.append(f"| {' | '.join((*cells, measured(workload.PYTORCH), ratio(workload.PYTORCH)))} |")
    days = " and ".join(sorted({str(day(race)) for race in races.values()}))
    race = next(iter(races.values()))
    numbers = {library: number for entry in race.entries for library, number in entry.versions.items()}
    about = "{cpu}, {cores} cores, {system}; Python {python}".format(**race.circumstances)
    about += f", jax {numbers['jax']}, torch {numbers['torch']}"
    command = f"`python -m benchmarks all --data-dir DIR --rounds {len(race.entries[0].seconds)}`"
    return "\n".join((f"Date: {days}. Machine: {about}. To measure again: {command}.", "", *lines))


def around(path: Path, name: str) -> tuple[str, str]:
    """The text of a file up to the first mark of a table, and from the second mark on.

    Raises:
        ValueError: if one of the marks is missing.
    """
    begin, end = f"<!-- {name}: made by python -m benchmarks -->", f"<!-- end of {name} -->"
    before, found, rest = path.read_text("utf-8").partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise ValueError(f"expected the lines {begin} and {end} in {path}")
    return before + begin, end + after


def put(path: Path, name: str, text: str) -> None:
    """Replaces the text between the two marks."""
    before, after = around(path, name)
    path.write_text(f"{before}\n\n{text}\n\n{after}", "utf-8")


def put_all(workloads: dict[str, ModuleType], results: Path = RESULTS) -> None:
    """Writes the tables of docs/explanation/benchmarks.md and the overviews from the records."""
    races = {workload: recorded(workload, results / f"{name}.jsonl") for name, workload in workloads.items()}
    for (name, workload), race in zip(workloads.items(), races.values(), strict=True):
        put(TABLES, name, table(workload, race))
    for path in OVERVIEWS:
        put(path, OVERVIEW, overview(races))
