"""Races that were recorded in results/: the newest complete one of a workload, on a version of jax."""

import datetime
import json
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

from benchmarks.race import Entry

FEWEST_ROUNDS = 5
FEWEST_TO_COMPARE_VERSIONS = 3
"""The fewest rounds of a race on the newest version, which stands beside one on the oldest version."""

JAX_VERSIONS = ("0.10", "0.12")
"""The oldest and the newest supported version. The tables of workloads and the overviews show races on the first."""


@dataclass(frozen=True)
class Race:
    """The results of a race, the options of its workload, and its date and machine."""

    entries: list[Entry]
    options: dict
    circumstances: dict

    @property
    def day(self) -> datetime.date:
        return datetime.datetime.fromisoformat(self.circumstances["date"]).date()

    @property
    def versions(self) -> dict[str, str]:
        """The versions of all libraries that took part."""
        return {library: number for entry in self.entries for library, number in entry.versions.items()}


def newest(workload: ModuleType, path: Path, jax: str, rounds: int = FEWEST_ROUNDS) -> Race | None:
    """The newest race on a version of jax in which all shown peers finished enough rounds; None without one.

    It is a race with the options of the tables. Races with other options are not in them.

    Args:
        workload: the module of the workload.
        path: its file of records. The lines of one race have the same date.
        jax: the beginning of the version, such as `0.10`.
        rounds: how many rounds are enough.
    """
    for records in reversed(races_of(path)):
        race = _race(workload, records)
        finished = {entry.peer for entry in race.entries if not entry.problem and len(entry.seconds) >= rounds}
        wanted = is_version(race.versions.get("jax", ""), jax) and race.options == workload.OPTIONS
        if wanted and set(workload.SHOWN) <= finished:
            return race
    return None


def recorded(workload: ModuleType, path: Path) -> Race:
    """The race that the tables show: the newest complete one on the first of `JAX_VERSIONS`.

    Raises:
        ValueError: if the file has no such race.
    """
    race = newest(workload, path, JAX_VERSIONS[0])
    if race is None:
        shown = ", ".join(workload.SHOWN)
        raise ValueError(
            f"expected a race of {FEWEST_ROUNDS} rounds on jax {JAX_VERSIONS[0]} with all of {shown}"
            f"{''.join(f', {name} {value}' for name, value in workload.OPTIONS.items())} in {path}, "
            f"got none; run `python -m benchmarks {path.stem}` with that version of jax"
        )
    return race


def races_of(path: Path) -> list[list[dict]]:
    """The records of each race in a file, the oldest race first. No file is no race."""
    races: dict[str, list[dict]] = {}
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for line in lines:
        record = json.loads(line)
        races.setdefault(record["date"], []).append(record)
    return [races[date] for date in sorted(races)]


def is_version(number: str, beginning: str) -> bool:
    """Whether a version, such as 0.10.2, begins with the numbers of another, such as 0.10."""
    parts = beginning.split(".")
    return number.split(".")[: len(parts)] == parts


def _race(workload: ModuleType, records: list[dict]) -> Race:
    kept = {field.name for field in fields(Entry)}
    entries = [Entry(**{name: value for name, value in record.items() if name in kept}) for record in records]
    return Race(entries, {option: records[0].get(option) for option in workload.OPTIONS}, records[0])
