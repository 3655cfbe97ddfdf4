"""A race's table in Markdown, put between two marks of a file."""

import datetime
from pathlib import Path
from types import ModuleType

from benchmarks.race import Entry
from benchmarks.report import ranked, versions


def table(workload: ModuleType, entries: list[Entry], options: dict, circumstances: dict) -> str:
    """The peers, the quickest first, how many times as long as functional_nn each took, and when and where that was."""
    finished = ranked(workload, entries, "functional_nn")
    title = "; ".join((workload.RECIPE, *(f"{name} {value}" for name, value in options.items())))
    lines = [title, "", f"| | {workload.UNIT} | × functional_nn | test accuracy |", "|---|---|---|---|"]
    for entry, times, ratio in finished:
        row = [workload.SHOWN.get(entry.peer, entry.peer), times, ratio or "—"]
        if entry.peer == "functional_nn":
            row = [f"**{cell}**" for cell in (row[0], times, "1")]
        lines.append(f"| {' | '.join((*row, f'{entry.accuracy:.4f}'))} |")
    day = datetime.datetime.fromisoformat(circumstances["date"]).date()
    missing = [f" {workload.SHOWN.get(entry.peer, entry.peer)}: {entry.problem}." for entry in entries if entry.problem]
    place = "{cpu}, {cores} cores, {system}, Python {python}, {numbers}; commit {commit}, load {load_average}"
    about = place.format(**circumstances, numbers=versions(entries))
    rounds = max((len(entry.seconds) for entry, _, _ in finished), default=0)
    return "\n".join((*lines, "", f"{day}, {rounds} rounds in turn, {about}.{''.join(missing)}"))


def around(path: Path, name: str) -> tuple[str, str]:
    """What stands up to a workload's first mark and from its second one on.

    Raises:
        ValueError: where the file has not both of them.
    """
    begin, end = f"<!-- {name}: made by python -m benchmarks -->", f"<!-- end of {name} -->"
    before, found, rest = path.read_text("utf-8").partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise ValueError(f"expected the lines {begin} and {end} in {path}")
    return before + begin, end + after


def put(path: Path, name: str, text: str) -> None:
    """Replaces what stands between the marks."""
    before, after = around(path, name)
    path.write_text(f"{before}\n\n{text}\n\n{after}", "utf-8")
