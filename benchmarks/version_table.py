"""The table of races on the oldest and the newest version of jax, side by side."""

from types import ModuleType

from benchmarks.ratios import ratios
from benchmarks.recorded import Race

MISSING = "—"


def version_table(races: dict[ModuleType, dict[str, Race | None]]) -> str:
    """One row for each workload, two columns for each version of jax; then where these races were run.

    Args:
        races: for each workload, the newest complete race on each version of jax, or None without one.
    """
    versions = list(next(iter(races.values())))
    headings = [f"jax {jax}, {to}" for jax in versions for to in ("fastest other library", "PyTorch")]
    lines = [f"| | {' | '.join(headings)} |", "|---" * (1 + len(headings)) + "|"]
    for workload, found in races.items():
        cells = [cell for race in found.values() for cell in _cells(workload, race)]
        lines.append(f"| {workload.RECIPE.split(':')[0]}: {workload.WORK} | {' | '.join(cells)} |")
    for jax in versions:
        about = places([(workload.RECIPE.split(":")[0], found[jax]) for workload, found in races.items()])
        lines += ["", f"jax {jax}: {about}."]
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
