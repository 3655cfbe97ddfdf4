"""``functional-nn merge``: the folder of a whole sweep from those of its parts, with its tables and page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.report import page_of
from functional_nn.cli.startup import importing
from functional_nn.configuration.flag_types import JSON_FILE, PATH, check_outside
from functional_nn.core.errors import escaped

if TYPE_CHECKING:
    from functional_nn.sweeps.results import SweepResult


@click.command()
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="FOLDERS")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="The new folder.")
@JSON_FILE
@click.option("--quiet", is_flag=True, help="Print the table only.")
def merge(folders: tuple[Path, ...], out: Path, json_file: Path | None, quiet: bool) -> None:
    """Put the parts of a sweep together.

    FOLDERS are what sweep --part 1/N to N/N wrote into --out, on one or several computers. The new folder has the
    members, tables and page of the undivided sweep. Members that are missing are named.
    """
    check_outside(json_file, out, *folders)
    with importing():
        from functional_nn.sweeps.parts import merged

    with merged(folders, out) as result:
        write_result(result, out, json_file, quiet=quiet)


def write_result(
    result: SweepResult,
    out: Path | None,
    json_file: Path | None,
    about: Mapping[str, object] | None = None,
    *,
    quiet: bool,
) -> None:
    """Prints the table of a sweep, and writes its tables and page, and the file of ``--json``.

    Args:
        result: of the sweep.
        out: its folder, if there is one.
        json_file: the file of ``--json``.
        about: more entries of this file.
        quiet: whether the names of the files are left out.
    """
    from functional_nn.storage.files import write_json

    click.echo(result)
    if json_file is not None:
        write_json(json_file, {**result.to_dict(), **(about or {})})
    if out is not None:
        tables = ["members.csv", "members.jsonl"]
        for table in tables:
            result.save(out / table)
        names = tables + page_of(out)
        if not quiet:
            click.echo(f"{escaped(str(out))}: {', '.join(names)}")
