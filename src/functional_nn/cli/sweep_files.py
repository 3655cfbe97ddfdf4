"""The tables, the pictures and the page that ``sweep`` and ``merge`` write into the folder of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.report import write_sweep_report
from functional_nn.core.errors import escaped

if TYPE_CHECKING:
    from functional_nn.sweeps.results.results import SweepResult


def write_sweep_files(out: Path, result: SweepResult, *, quiet: bool) -> None:
    """Writes the tables, the pictures and the page of a sweep, and prints their names."""
    from functional_nn.reports.plots.sweep import draw_all

    tables = ["members.csv", "members.jsonl"]
    for table in tables:
        result.save(out / table)
    pictures = draw_all(result, out)
    if not pictures:
        click.echo("No pictures, since matplotlib is missing: pip install 'functional-nn[plots]'.", err=True)
    page = write_sweep_report(out, result)
    if not quiet:
        click.echo(f"{escaped(str(out))}: {', '.join(tables + pictures + page)}")
