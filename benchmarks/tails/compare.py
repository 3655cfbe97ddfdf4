"""The command ``tails``: measures the functions, and writes the page and the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import records
from benchmarks.tails import pytorch
from benchmarks.tails.cases import CASES
from benchmarks.tails.measure import Row, measure
from benchmarks.tails.page import page, summary
from functional_nn.storage.files import write_json

VERSIONS = ("functional-nn", "jax", "jaxlib", "optax", "numpy")


def compare(console: Console, functions: Sequence[str], out: Path | None, json_file: Path | None) -> list[Row]:
    """Measures functions and writes the results.

    Args:
        console: where to print.
        functions: the names of the functions.
        out: the Markdown page; None to print it.
        json_file: a file for all rows; None to write no such file.
    """
    circumstances = records.circumstances()
    versions = records.versions((*VERSIONS, "torch") if pytorch.is_installed() else VERSIONS)
    for path in (out, json_file):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with console.status("starting") as status:
        for case in CASES:
            if case.name in functions:
                status.update(case.name)
                rows += measure(case)
    text = page(rows, circumstances, versions)
    if out is None:
        console.print(text, markup=False, soft_wrap=True)
    else:
        out.write_text(text, "utf-8")
    if json_file is not None:
        about = circumstances | {"versions": versions}
        write_json(json_file, about | {"rows": [row.to_dict() for row in rows]})
    for line in summary(rows):
        console.print(line)
    return rows
