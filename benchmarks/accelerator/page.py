"""The page in Markdown, made from the records of a run: the machine, a table for each part, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accelerator import race_table, tables
from benchmarks.accelerator.parts import PARTS, Record

TITLES = {
    "machine": "The machine",
    "w1": "W1: one small network",
    "w2": "W2: many networks at once",
    "w3": "W3: a convolutional network",
    "w4": "W4: an LSTM",
    "population": "How many networks fill the chip",
    "precision": "Precisions",
    "models": "What slows the named models down",
    "whole_run": "A whole run as one program",
    "verify": "The gradients on this device",
}
TEXTS = {
    "machine": tables.machine,
    "w1": race_table.text,
    "w2": race_table.text,
    "w3": race_table.text,
    "w4": race_table.text,
    "population": tables.population,
    "precision": tables.precision,
    "models": tables.models,
    "whole_run": tables.whole_run,
    "verify": tables.verify,
}
SMALL = (
    "This was a **trial with small sizes**. It shows that everything runs. Its numbers say nothing about the speed of "
    "the machine."
)


def page(records: Sequence[Record]) -> str:
    """The page. It has no number that is not in the records."""
    machine = next((record for record in records if "platform" in record), {})
    device = machine.get("device", "an unknown device")
    first = records[0]
    lines = [f"# functional_nn on {device}", ""]
    lines += [
        f"Measured on {str(first['date'])[:10]} by `python -m benchmarks accelerator`, commit {first['commit']}.",
        "",
    ]
    if any(record.get("small") for record in records):
        lines += [SMALL, ""]
    for name in PARTS:
        own = [record for record in records if record["part"] == name]
        if own:
            lines += [f"## {TITLES[name]}", "", section(name, own), ""]
    return "\n".join(lines)


def section(name: str, records: Sequence[Record]) -> str:
    """The text of a part. A part that failed or was left out says so, below what it has measured."""
    measured = [record for record in records if "status" not in record]
    end = next((record for record in records if "status" in record), None)
    paragraphs = []
    if measured:
        try:
            paragraphs.append(TEXTS[name](measured))
        except Exception as error:  # one table must not lose the others
            paragraphs.append(f"The table could not be made ({error!r}). The results have the numbers.")
    if end is not None and end["status"] != "done":
        paragraphs.append(f"**This part is not complete** ({end['status']}): {str(end['problem']).rstrip('.')}.")
    return "\n\n".join(paragraphs) or "Nothing was measured."
