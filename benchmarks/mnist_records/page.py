"""The tables of docs/records.md, made from the recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median

from benchmarks import records
from benchmarks.mnist_records.settings import RECORDS, Record
from benchmarks.race import ROOT
from benchmarks.summary import put

PAGE = ROOT / "docs" / "records.md"
RESULTS = records.RESULTS / "mnist_records.jsonl"


def write(results: Path) -> None:
    """Writes the tables between the marks of the page."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    put(PAGE, "records", found_table(lines))
    put(PAGE, "choices", choices_table(lines))


def newest(lines: list[dict], name: str, candidate: str, evaluated_on: str) -> dict | None:
    """The newest result of a candidate on MNIST that was trained with the settings it has now.

    A result of a choice may have fewer epochs, so that more candidates can be compared in the same time.
    """
    setting = RECORDS[name].candidates[candidate].numbers()
    free = ("epochs",) if evaluated_on == "validation" else ()
    fitting = [
        line
        for line in lines
        if (line["record"], line["candidate"]) == (name, candidate)
        and (line["dataset"], line["evaluated_on"]) == ("mnist", evaluated_on)
        and all(line["setting"].get(key) == value for key, value in setting.items() if key not in free)
    ]
    return fitting[-1] if fitting else None


def found_table(lines: list[dict]) -> str:
    """One row for each record: the anchor, parameters, seconds, and the test accuracies of all seeds."""
    rows = [
        "| record | anchor | parameters | test accuracy of each seed | mean | seeds that reach the goal | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, record in RECORDS.items():
        line = newest(lines, name, record.chosen, "test")
        if line is None:
            rows.append(f"| `{name}`: {record.title} | {record.anchor} | | not run | | | |")
            continue
        rows.append(f"| `{name}`: {record.title} | {record.anchor} | {' | '.join(_cells(record, line))} |")
        where = f"{line['cpu']}, {line['cores']} cores, {line['system']}, Python {line['python']}"
        load = f"load {line['load_average']:g} at the start"
        notes.append(f"- `{name}`: {line['date'][:10]}, {where}, jax {line['versions']['jax']}, {load}.")
    return "\n".join((*rows, "", *notes))


def choices_table(lines: list[dict]) -> str:
    """One row for each candidate: its accuracies on the validation images."""
    rows = [
        "| record | candidate | parameters | epochs | validation accuracy of each seed | mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in RECORDS.items():
        for candidate in record.candidates:
            line = newest(lines, name, candidate, "validation")
            if line is None:
                continue
            label = f"**{candidate}**" if candidate == record.chosen else candidate
            numbers = [f"{line['parameters']:,}", str(line["setting"]["epochs"]), *_accuracies(line)]
            rows.append(f"| `{name}` | {label} | {' | '.join(numbers)} |")
    return "\n".join(rows)


def _cells(record: Record, line: dict) -> list[str]:
    shown, average = _accuracies(line)
    if "ensemble" in line:
        shown += f"; all together {line['ensemble']:.4f}"
    reached = sum(accuracy >= record.goal for accuracy in line["accuracies"])
    return [f"{line['parameters']:,}", shown, f"**{average}**", f"{reached} of {len(line['seeds'])}", _seconds(line)]


def _accuracies(line: dict) -> tuple[str, str]:
    return ", ".join(f"{accuracy:.4f}" for accuracy in line["accuracies"]), f"{mean(line['accuracies']):.4f}"


def _seconds(line: dict) -> str:
    if "fit_seconds" not in line:
        return f"{line['seconds']:.0f} for all seeds"
    parts = {
        "training": "training_seconds",
        "`fit`": "fit_seconds",
        "`fit` with compiling": "first_fit_seconds",
        "the process": "process_seconds",
    }
    return ", ".join(f"{label} {median(line[key]):.2f}" for label, key in parts.items())
