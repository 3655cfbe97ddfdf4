"""Markdown tables of races, made from the records in results/ and written between two marks of a file."""

from pathlib import Path
from statistics import median
from types import ModuleType
from typing import NamedTuple

from benchmarks.race import ROOT
from benchmarks.recorded import FEWEST_ROUNDS as FEWEST_ROUNDS
from benchmarks.recorded import FEWEST_TO_COMPARE_VERSIONS, JAX_VERSIONS, Race, newest
from benchmarks.recorded import recorded as recorded
from benchmarks.records import RESULTS
from benchmarks.report import ranked, versions

TABLES = ROOT / "docs" / "explanation" / "benchmarks.md"
OVERVIEW = "speed"
"""The table with one row for each workload, which is in both READMEs and in docs/explanation/performance.md."""
OVERVIEWS = (ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "explanation" / "performance.md")
VERSIONS = "versions"
"""The table with one row for each workload, and columns for the oldest and the newest version of jax."""


def table(workload: ModuleType, race: Race) -> str:
    """The peers, the fastest first, with ratios to functional_nn's times; then date, rounds, commit and load."""
    finished = ranked(workload, race.entries, "functional_nn")
    options = [f"{name} {value}" for name, value in race.options.items()]
    title = "; ".join((workload.RECIPE, *options, f"jax {race.versions['jax']}"))
    lines = [title, "", f"| | {workload.UNIT} | ratio to functional_nn | test accuracy |", "|---|---|---|---|"]
    for entry, times, ratio in finished:
        row = [workload.NAMES[entry.peer], times, ratio or "—"]
        if entry.peer == "functional_nn":
            row = [f"**{cell}**" for cell in (row[0], times, "1")]
        lines.append(f"| {' | '.join((*row, f'{entry.accuracy:.4f}'))} |")
    missing = [f" {workload.NAMES[entry.peer]}: {entry.problem}." for entry in race.entries if entry.problem]
    about = "commit {commit}, load {load_average}".format(**race.circumstances)
    rounds = max((len(entry.seconds) for entry, _, _ in finished), default=0)
    return "\n".join((*lines, "", f"{race.day}, {rounds} rounds in turn; {about}.{''.join(missing)}"))


def overview(races: dict[ModuleType, Race]) -> str:
    """One row for each workload: functional_nn, the fastest other program, and PyTorch."""
    lines = ["| | functional_nn | fastest other program | ratio | PyTorch | ratio |", "|---|---|---|---|---|---|"]
    for workload, race in races.items():
        unit, found = workload.UNIT.split("/")[0], ratios(workload, race)
        ours, best, pytorch = (
            f"{three_digits(found.medians[peer] * workload.SCALE)} {unit}"
            for peer in (workload.OURS, found.best, workload.PYTORCH)
        )
        name = f"{workload.RECIPE.split(':')[0]}: {workload.WORK}"
        cells = (name, ours, f"{best} ({found.fastest})", f"{found.to_best:.2f}", pytorch, f"{found.to_pytorch:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    about = places([(workload.RECIPE.split(":")[0], race) for workload, race in races.items()])
    rounds = max(len(entry.seconds) for race in races.values() for entry in race.entries)
    command = f"`python -m benchmarks all --data-dir DIR --rounds {rounds}`"
    return "\n".join((f"Machine: {about}. To measure again: {command}.", "", *lines))


def three_digits(number: float) -> str:
    """A number with three significant digits: 0.140, 4.50, 127, 1,720."""
    if number >= 999.5:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:#.3g}".removesuffix(".")


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


def versions_of(workloads: dict[str, ModuleType], results: Path) -> dict[ModuleType, dict[str, Race | None]]:
    """The newest complete race of each workload on each version of jax, with the options that the tables show.

    On the newest one, three rounds are enough.
    """
    oldest_jax, newest_jax = JAX_VERSIONS
    found = {}
    for name, workload in workloads.items():
        path = results / f"{name}.jsonl"
        found[workload] = {
            oldest_jax: recorded(workload, path),
            newest_jax: newest(workload, path, newest_jax, FEWEST_TO_COMPARE_VERSIONS),
        }
    return found


def put_all(workloads: dict[str, ModuleType], results: Path = RESULTS) -> None:
    """Writes the tables of docs/explanation/benchmarks.md and the overviews from the records."""
    races = {workload: recorded(workload, results / f"{name}.jsonl") for name, workload in workloads.items()}
    for (name, workload), race in zip(workloads.items(), races.values(), strict=True):
        put(TABLES, name, table(workload, race))
    put(TABLES, VERSIONS, version_table(versions_of(workloads, results)))
    for path in OVERVIEWS:
        put(path, OVERVIEW, overview(races))


class Ratios(NamedTuple):
    """The fastest other program, and medians of ratios: another program's time divided by functional_nn's.

    Args:
        best: the fastest peer that does not use functional_nn.
        fastest: the name of its library.
        to_best: the ratio of its times.
        to_pytorch: the ratio of the times of the peer that stands for PyTorch.
        medians: the median time of each peer that finished, in seconds for one model.
    """

    best: str
    fastest: str
    to_best: float
    to_pytorch: float
    medians: dict[str, float]


def ratios(workload: ModuleType, race: Race) -> Ratios:
    """Compares times of the same round. `OURS` of the workload stands for functional_nn."""
    times = {entry.peer: entry.seconds_a_model for entry in race.entries if entry.problem is None}
    medians = {peer: median(seconds) for peer, seconds in times.items()}
    others = [peer for peer in times if not workload.NAMES[peer].startswith("functional_nn")]
    best = min(others, key=medians.__getitem__)

    def to(peer: str) -> float:
        return median(other / our for other, our in zip(times[peer], times[workload.OURS], strict=True))

    return Ratios(best, workload.NAMES[best].split(",")[0], to(best), to(workload.PYTORCH), medians)


MISSING = "—"


def version_table(races: dict[ModuleType, dict[str, Race | None]]) -> str:
    """One row for each workload, two columns for each version of jax; then where these races were run.

    Args:
        races: for each workload, the newest complete race on each version of jax, or None without one.
    """
    numbers = list(next(iter(races.values())))
    headings = [f"jax {jax}, {to}" for jax in numbers for to in ("fastest other program", "PyTorch")]
    lines = [f"| | {' | '.join(headings)} |", "|---" * (1 + len(headings)) + "|"]
    for workload, found in races.items():
        cells = [cell for race in found.values() for cell in _cells(workload, race)]
        lines.append(f"| {workload.RECIPE.split(':')[0]}: {workload.WORK} | {' | '.join(cells)} |")
    for jax in numbers:
        about = places([(workload.RECIPE.split(":")[0], found[jax]) for workload, found in races.items()])
        libraries = versions([entry for found in races.values() if found[jax] for entry in found[jax].entries])
        lines += ["", f"jax {jax}: {about}. {libraries}".rstrip() + ("." if libraries else "")]
    return "\n".join(lines)


def _cells(workload: ModuleType, race: Race | None) -> tuple[str, str]:
    if race is None:
        return MISSING, MISSING
    found = ratios(workload, race)
    return f"{found.to_best:.2f} ({found.fastest})", f"{found.to_pytorch:.2f}"


def places(races: list[tuple[str, Race | None]]) -> str:
    """Machine and versions of races, with the workloads of each day; the same machine and versions once."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, race in races:
        if race is not None:
            numbers = race.versions
            text = "{cpu}, {cores} cores, {system}, Python {python}".format(**race.circumstances)
            text += f", jax {numbers['jax']}, torch {numbers['torch']}"
            found.setdefault(text, {}).setdefault(str(race.day), []).append(name)
    texts = []
    for text, days in found.items():
        when = "; ".join(f"{', '.join(names)} on {day}" for day, names in days.items())
        texts.append(f"{text} ({when})")
    return "; ".join(texts) or "no complete race yet"
