"""The tables and pictures of `docs/explanation/growth.md`, made from the recorded points."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import summary
from benchmarks.growth.curves import CURVES, GROUPS, NAMES, OURS
from benchmarks.growth.fit import Growth, growth
from benchmarks.race import ROOT

PAGE = ROOT / "docs" / "explanation" / "growth.md"
PICTURES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Line:
    """The medians of one entry along a curve."""

    curve: str
    entry: str
    sizes: tuple[int, ...]
    costs: tuple[float, ...]

    @property
    def growth(self) -> Growth | None:
        """The exponents; None for a single point."""
        return growth(self.sizes, self.costs) if len(self.sizes) > 1 else None


@dataclass(frozen=True)
class Recorded:
    """The newest whole measurement of each curve.

    Args:
        lines: by curve, those of its entries.
        circumstances: by curve, the record of its first point, with the versions of all entries.
        problems: by curve, why entries are missing or end early.
    """

    lines: dict[str, list[Line]]
    circumstances: dict[str, dict]
    problems: dict[str, dict[str, str]]


def recorded(results: Path) -> Recorded:
    """Reads the newest measurement of each curve from a file of records.

    A measurement that was stopped early counts only if no other has all sizes.

    Raises:
        ValueError: if the file has no point of any curve.
    """
    text = results.read_text("utf-8") if results.exists() else ""
    records = [record for record in map(json.loads, text.splitlines()) if record["curve"] in CURVES]
    if not records:
        raise ValueError(f"expected points of curves in {results}, got none; run python -m benchmarks growth first")
    found = Recorded({}, {}, {})
    for name, curve in CURVES.items():
        measurements: dict[str, list[dict]] = {}
        for record in records:
            if record["curve"] == name:
                measurements.setdefault(record["date"], []).append(record)
        if not measurements:
            continue
        sizes_of = {date: {point["size"] for point in points} for date, points in measurements.items()}
        whole = [date for date in measurements if sizes_of[date] >= {*curve.points}]
        of_curve = measurements[max(whole or measurements)]
        versions = {library: number for record in of_curve for library, number in record["versions"].items()}
        found.circumstances[name] = of_curve[0] | {"versions": versions}
        found.problems[name] = {record["entry"]: record["problem"] for record in of_curve if record["problem"]}
        found.lines[name] = []
        for entry in curve.entries:
            points = sorted((r["size"], median(r["values"])) for r in of_curve if r["entry"] == entry and r["values"])
            if points:
                sizes, costs = zip(*points, strict=True)
                found.lines[name].append(Line(name, entry, sizes, costs))
    return found


def table(group: str, found: Recorded) -> str:
    """The exponents of a group's curves, their costs at both ends, and the ratio to functional_nn's."""
    first, last = "smallest size", "largest size"
    rows = [f"| | entry | exponent | bend at | after it | {first} | {last} | ratio |", "|" + "---|" * 8]
    problems: dict[str, str] = {}
    for name, lines in found.lines.items():
        curve = CURVES[name]
        if curve.group != group:
            continue
        problems |= found.problems[name]
        ours = next((line for line in lines if line.entry == OURS), None)
        for number, line in enumerate(lines):
            title = f"{curve.title} ({line.sizes[0]:,} to {line.sizes[-1]:,})" if number == 0 else ""
            cells = (title, NAMES[line.entry], *exponents(line.growth), *ends(line, curve.unit), ratios(line, ours))
            rows.append(f"| {' | '.join(cells)} |")
    notes = "".join(f" {NAMES[entry]}: {problem}." for entry, problem in problems.items())
    return "\n".join((about(group, found) + notes, "", *rows))


def exponents(growth: Growth | None) -> tuple[str, str, str]:
    """The exponent, the bend and the exponent after it."""
    if growth is None:
        return "—", "—", "—"
    if growth.bend is None:
        return f"{growth.exponent:.2f}", "—", "—"
    return f"{growth.exponent:.2f}", f"{growth.bend:,.0f}", f"{growth.exponent_after:.2f}"


def ends(line: Line, unit: str) -> tuple[str, str]:
    """The costs at the smallest and at the largest size."""
    return shown(line.costs[0], unit), shown(line.costs[-1], unit)


def ratios(line: Line, ours: Line | None) -> str:
    """The cost divided by functional_nn's, at the smallest and at the largest size that both have."""
    if ours is None or line.entry == ours.entry:
        return "1" if ours is not None else "—"
    costs = dict(zip(ours.sizes, ours.costs, strict=True))
    both = [cost / costs[size] for size, cost in zip(line.sizes, line.costs, strict=True) if size in costs]
    return f"{both[0]:.2f} to {both[-1]:.2f}" if both else "—"


def shown(value: float, unit: str) -> str:
    """A number with three digits and its unit.

    >>> shown(0.00123, "s"), shown(2_500_000, "bytes")
    ('1.23 ms', '2.5 MB')
    """
    scales = {
        "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    }[unit]
    scale, name = next((pair for pair in scales if value >= pair[0]), scales[-1])
    return f"{value / scale:.3g} {name}"


def about(group: str, found: Recorded) -> str:
    """Dates, machine, versions and caches of a group's curves."""
    records = [record for name, record in found.circumstances.items() if CURVES[name].group == group]
    days = " and ".join(sorted({record["date"][:10] for record in records}))
    last = max(records, key=lambda record: record["date"])
    versions = {library: number for record in records for library, number in record["versions"].items()}
    caches = ", ".join(f"{level} {size}" for level, size in last["caches"].items())
    parts = [last["cpu"], f"{last['cores']} cores", last["system"], f"Python {last['python']}"]
    parts += [f"{name} {versions[name]}" for name in ("jax", "equinox", "torch") if name in versions]
    parts += [f"caches {caches}"] if caches else []
    # Curves of one picture may be from several measurements.
    runs = {record["date"]: f"commit {record['commit']}, load {record['load_average']}" for record in records}
    return f"{days}, {', '.join(parts)}; {' and '.join(runs[date] for date in sorted(runs))}."


def write(results: Path, groups: Sequence[str] = tuple(GROUPS), page: Path = PAGE, pictures: Path = PICTURES) -> None:
    """Writes the tables between the marks of the page, and the pictures, of all groups that have a recorded curve."""
    from benchmarks.growth.plots import plot, save  # it needs matplotlib, the extra [plots]

    found = recorded(results)
    for group in groups:
        lines = {name: lines for name, lines in found.lines.items() if CURVES[name].group == group and lines}
        if lines:
            picture = pictures / f"{group}.png"
            save(plot(lines), picture)
            link = f"![{GROUPS[group]}]({Path(os.path.relpath(picture, page.parent)).as_posix()})"
            summary.put(page, group, f"{link}\n\n{table(group, found)}")
