"""``functional-nn merge``: the folder of a whole sweep from those of its parts, with its tables, pictures and page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.report import write_sweep_report
from functional_nn.cli.startup import importing
from functional_nn.configuration.flag_types import JSON_FILE
from functional_nn.core.errors import escaped

if TYPE_CHECKING:
    from functional_nn.sweeps.results import SweepResult


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDERS")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The new folder.")
@JSON_FILE
@click.option("--quiet", is_flag=True, help="Print the table only.")
def merge(folders: tuple[Path, ...], out: Path, json_file: Path | None, quiet: bool) -> None:
    """Put the parts of a sweep together.

    FOLDERS are what sweep --part 1/N to N/N wrote into --out, on one or several computers. The new folder has the
    members, tables, pictures and page of the undivided sweep. Members that are missing are named.
    """
    with importing():
        from functional_nn.sweeps.parts import merged

    with merged(folders, out) as result:
        write_merged(result, out, json_file, quiet=quiet)


def write_merged(result: SweepResult, out: Path, json_file: Path | None, *, quiet: bool) -> None:
    """Prints the table of a merged sweep, and writes the tables, the pictures and the page."""
    from functional_nn.storage.files import write_json

    click.echo(result)
    write_sweep_files(out, result, quiet=quiet)
    if json_file is not None:
        write_json(json_file, result.to_dict())


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
