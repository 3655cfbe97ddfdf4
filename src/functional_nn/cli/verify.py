"""The command ``functional-nn verify``: compares the hand-derived formulas with ``jax.grad`` and an arbiter."""

from __future__ import annotations

from pathlib import Path

import click

from functional_nn.cli.startup import importing
from functional_nn.configuration.flag_types import COUNT, JSON_FILE, NewFile


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--quick/--full", default=True, help="A few minutes on two cores, or several times as long.  [default: quick]"
)
@JSON_FILE
@click.option("--html", "html_file", type=NewFile(), metavar="FILE", help="Write a page with derivations and tables.")
@click.option("--jobs", type=COUNT, default=2, show_default=True, help="Number of processes that share the work.")
def verify(
    names: tuple[str, ...],
    quick: bool,
    json_file: Path | None,
    html_file: Path | None,
    jobs: int,
) -> int:
    """Compare hand-derived gradients with jax.grad and with an arbiter in 50 digits.

    NAME is a layer, an activation, a loss, a penalty, or "optimizers"; by default everything public is compared. The
    quick comparison (--quick) compares each public name once; the full one (--full) adds all variants, types and
    transforms.

    The exit status is 1 if a formula fails, a comparison is inconclusive, a planted error is not found, or something
    public is not compared.
    """
    if html_file:
        from functional_nn.reports.page import check_libraries

        check_libraries()  # before the minutes of work
    with importing():
        from functional_nn.gradients.verify import verify as run

    report = run(names, quick=quick, jobs=jobs)
    click.echo(report)
    if json_file:
        from functional_nn.storage.files import write_json

        write_json(json_file, report.to_dict())
    if html_file:
        from functional_nn.reports.verification import write_page

        write_page(report, html_file, title="functional_nn: hand-derived gradients, verified")
    return 0 if report.passed else 1
