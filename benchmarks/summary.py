"""The tables of `python -m benchmarks all`, in Markdown, put between two marks of a file."""

import datetime
from pathlib import Path
from statistics import median
from types import ModuleType

from benchmarks.race import Entry
from benchmarks.report import spread

BEGIN, END = "<!-- made by python -m benchmarks all -->", "<!-- end of it -->"


def table(workload: ModuleType, entries: list[Entry], options: dict) -> str:
    """A workload's peers, the quickest first, and how many times as long as functional_nn each took."""
    finished = sorted((e for e in entries if e.problem is None), key=lambda entry: median(entry.seconds_a_model))
    own = next((entry for entry in finished if entry.peer == "functional_nn"), None)
    title = "; ".join((workload.RECIPE, *(f"{name} {value}" for name, value in options.items())))
    lines = [title, "", f"| | {workload.UNIT} | × functional_nn | test accuracy |", "|---|---|---|---|"]
    for entry in finished:
        times = entry.seconds_a_model
        seconds, ratio = spread([second * workload.SCALE for second in times], 3), "—"
        if own is not None:
            ratio = spread([its / ours for its, ours in zip(times, own.seconds_a_model, strict=True)], 2)
        row = [workload.SHOWN[entry.peer], seconds, ratio]
        if entry is own:
            row = [f"**{cell}**" for cell in (row[0], seconds, "1")]
        lines.append(f"| {' | '.join((*row, f'{entry.accuracy:.4f}'))} |")
    lines += ["", *(f"{workload.SHOWN[entry.peer]}: {entry.problem}." for entry in entries if entry.problem)]
    return "\n".join(lines).rstrip()


def summary(tables: list[str], versions: dict[str, str], circumstances: dict, rounds: int) -> str:
    """All tables, below the circumstances that they share."""
    numbers = ", ".join(f"{library} {number}" for library, number in sorted(versions.items()))
    day = datetime.datetime.fromisoformat(circumstances["date"]).date()
    head = (
        f"{day}, {circumstances['cpu']}, {circumstances['cores']} cores, {circumstances['system']}, Python "
        f"{circumstances['python']}, {numbers}; commit {circumstances['commit']}. Peers took turns in {rounds} rounds: "
        "median (smallest to largest), ratios within a round."
    )
    return "\n\n".join((head, *tables))


def around(path: Path) -> tuple[str, str]:
    """What stands before and after the marks.

    Raises:
        ValueError: where the file has not both of them.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the lines {BEGIN} and {END} in {path}")
    return before, after


def put(path: Path, text: str) -> None:
    """Replaces what stands between the marks."""
    before, after = around(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")
