"""``functional-nn report``: a page about a run or a sweep, made from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration.flag_types import PATH
from functional_nn.core.errors import DataError, escaped

if TYPE_CHECKING:
    from functional_nn.data.dataset import Dataset


@click.command()
@click.argument("folder", type=PATH, metavar="FOLDER")
@click.option(
    "--data-dir",
    metavar="PATH",
    help="The run's data: a folder, or a CSV file. What FOLDER itself names is never opened.",
)
@COMPILATION_CACHE
def report(folder: Path, data_dir: str | None) -> None:
    """Write a page about a run or a sweep: FOLDER/report.html.

    FOLDER is what train --out or sweep --out wrote, also after an interruption. The page is one file that needs no
    other. Parts for which something is missing are left out, and the page says so.
    """
    with importing():
        from functional_nn.storage.files import kept_open

    if not folder.is_dir():
        raise _no_run(folder, "no folder")
    # What is read and written from here on is in this folder, whatever others put in its place.
    click.get_current_context().with_resource(kept_open(folder))
    click.echo(escaped(str(_write_page(folder, None, data_dir))))


def page_of(folder: Path, data: Dataset | None = None) -> list[str]:
    """Writes the page of a run or a sweep that has just ended.

    Args:
        folder: the folder of the run or the sweep.
        data: the data of the run.

    Returns:
        the name of the page in a list, which is empty if a library is missing, or if the page could not be written.
    """
    try:
        return [_write_page(folder, data, None).name]
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:  # the run or the sweep is whole
        click.echo(f"No report.html. {error}", err=True)
        return []


def _write_page(folder: Path, data: Dataset | None, data_dir: str | None) -> Path:
    from functional_nn.reports import run_report, sweep_report
    from functional_nn.reports.page import check_libraries
    from functional_nn.reports.plots.axes import default_style
    from functional_nn.reports.run_contents import read_run
    from functional_nn.storage import run_folder
    from functional_nn.storage.files import names_in
    from functional_nn.sweeps.parts import read_sweep
    from functional_nn.sweeps.store import SWEEP

    check_libraries()
    page = folder / run_folder.REPORT
    with default_style():
        names = names_in(folder)
        if SWEEP in names:
            sweep_report.write_page(page, *read_sweep(folder))
        elif run_folder.CONFIGURATION in names:
            run_report.write_page(page, read_run(folder, data, data_dir=data_dir))
        else:
            raise _no_run(folder, "nothing of the kind")
    return page


def _no_run(folder: Path, given: str) -> DataError:
    remedy = "Give a folder that train --out or sweep --out wrote."
    return DataError(str(folder), "the folder of a run or a sweep", given, remedy)
