"""``functional-nn merge``: the folder of a whole sweep from those of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from functional_nn.cli.startup import importing
from functional_nn.cli.sweep_files import write_sweep_files
from functional_nn.configuration.flag_types import JSON_FILE


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
        from functional_nn.sweeps.results.parts import check_unused

    check_unused(out)
    write_merged(folders, out, json_file, quiet=quiet)


def write_merged(folders: Sequence[Path], out: Path, json_file: Path | None, *, quiet: bool) -> None:
    """Puts parts together, prints the table, and writes everything that the undivided sweep would write."""
    from functional_nn.storage.files import write_json
    from functional_nn.sweeps.results.parts import put_together

    result = put_together(folders, out)
    click.echo(result)
    write_sweep_files(out, result, quiet=quiet)
    if json_file is not None:
        write_json(json_file, result.to_dict())
