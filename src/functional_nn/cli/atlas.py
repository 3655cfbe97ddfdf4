"""The command ``functional-nn atlas``: a search for inputs at which functions of JAX and Optax lose digits."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.info import versions
from functional_nn.cli.startup import importing
from functional_nn.configuration.flag_types import JSON_FILE, POSITIVE, NewFile, is_given
from functional_nn.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functional_nn.gradients.atlas.survey import Survey
    from functional_nn.storage.files import JsonObject


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--out", type=NewFile(), metavar="FILE", help="Write a page in Markdown, and a picture beside it.")
@click.option(
    "--seconds-per-function",
    "seconds",
    type=POSITIVE,
    default=2.0,
    show_default=True,
    help="How long to search, in processor time.",
)
@JSON_FILE
@click.option(
    "--compare",
    type=(click.Path(exists=True, dir_okay=False, path_type=Path),) * 2,
    metavar="OLD NEW",
    help="Do not search. Compare two files that --json wrote, and write a page. Run this with the newer JAX.",
)
def atlas(
    names: tuple[str, ...], out: Path | None, seconds: float, json_file: Path | None, compare: tuple[Path, Path] | None
) -> None:
    """Search for the inputs at which functions of JAX and Optax, and their derivatives, lose their digits.

    NAME is a function such as jax.nn.gelu, or a module such as jax.nn; by default all functions of the atlas are
    searched, which takes about ten minutes. Each finding has two lines of code that reproduce it, and both are
    run.
    """
    if compare is not None:
        if names or json_file is not None or is_given("seconds"):
            raise click.UsageError("--compare does not search: leave out NAME, --json and --seconds-per-function.")
        _write(_comparison(*compare), out)
        return
    if out is not None and out.suffix.lower() == ".png":
        raise InputError("--out", "a file for a page in Markdown", str(out), "The picture is written beside it.")
    with importing():
        from functional_nn.gradients.atlas.catalog import chosen
        from functional_nn.gradients.atlas.run import run_atlas

    entries = chosen(names)
    surveys = run_atlas(entries, seconds=seconds, progress=_print)
    result = _as_json(surveys, seconds)
    if json_file:
        _write(_one_function_a_line(result), json_file)
    if out:
        from functional_nn.reports.pages.atlas import version_page

        _write(version_page(result, _picture(surveys, out)), out)
    count = sum(len(survey.findings) for survey in surveys)
    click.echo(f"{count} findings in {sum(bool(survey.findings) for survey in surveys)} of {len(surveys)} functions")


def _print(survey: Survey) -> None:
    """Prints a line for a function, and one for each finding."""
    click.echo(f"{survey.name}: {survey.note or f'{len(survey.findings)} findings at {survey.evaluations} points'}")
    for finding in survey.findings:
        worst = finding.worst
        what = f"{worst.quantity}, {worst.dtype}, {finding.regime}"
        click.echo(f"    {what}: {finding.code.splitlines()[1]} gives {finding.printed}, exact {worst.exact:.9g}")


def _as_json(surveys: Sequence[Survey], seconds: float) -> JsonObject:
    import jax

    installed = versions()
    return {
        "jax": installed["jax"],
        "jaxlib": installed["jaxlib"],
        "optax": installed["optax"],
        "platform": jax.default_backend().upper(),
        "date": datetime.date.today().isoformat(),
        "seconds_per_function": seconds,
        "functions": [survey.to_dict() for survey in surveys],
    }


def _one_function_a_line(result: JsonObject) -> str:
    """Formats the result as JSON with one line per function, so that ``diff`` can compare the files of two versions."""
    head = json.dumps({name: value for name, value in result.items() if name != "functions"})
    lines = ",\n".join(json.dumps(function) for function in result["functions"])
    return f'{head[:-1]}, "functions": [\n{lines}\n]}}\n'


def _picture(surveys: Sequence[Survey], out: Path) -> str | None:
    """Draws the picture beside the page, and returns the name of its file. None without findings or matplotlib.

    If ``out`` is a device or a pipe, such as ``/dev/stdout``, no picture is drawn.
    """
    if not any(survey.findings for survey in surveys) or (out.exists() and not out.is_file()):
        return None
    try:
        from functional_nn.reports.plots.atlas import plot_atlas
        from functional_nn.reports.plots.run import write_picture

        figure = plot_atlas(surveys)
    except ImportError:
        click.echo("Warning: no picture, since matplotlib is missing: pip install 'functional-nn[plots]'", err=True)
        return None
    path = out.with_suffix(".png")
    write_picture(path, figure, dpi=70)
    return path.name


def _comparison(older: Path, newer: Path) -> str:
    from functional_nn.reports.pages.atlas import index_page

    old, new = _read(older), _read(newer)
    rerun = None
    if new["jax"] == versions()["jax"]:
        with importing():
            from functional_nn.gradients.atlas.survey import still_wrong

        rerun = still_wrong
    return index_page(old, new, [f"{path.stem}.md" for path in (older, newer)], rerun)


def _read(path: Path) -> JsonObject:
    try:
        found = json.loads(path.read_text("utf-8"))
        used = ("name", "rows", "findings")
        functions = [{name: function[name] for name in used} for function in found["functions"]]
        return {"jax": found["jax"], "optax": found["optax"], "functions": functions}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(str(path), "a file that atlas --json wrote", type(error).__name__) from error


def _write(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text)
        return
    from functional_nn.storage.files import write_whole

    write_whole(out, text, follow_links=True)
