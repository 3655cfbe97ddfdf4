"""The HTML page of a sweep; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from functional_nn.core.texts import counted, words
from functional_nn.reports.page import as_svg, number, write_template
from functional_nn.reports.plots.axes import are_numbers
from functional_nn.reports.plots.sweep import GRAY, MOST_TICKS, member_curves, parallel_coordinates
from functional_nn.reports.run_report import settings_table
from functional_nn.storage.files import JsonValue
from functional_nn.storage.identity import IDENTITY, SURROUNDINGS
from functional_nn.sweeps import results
from functional_nn.sweeps.grid import PlainValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_AT_FIRST = 200
"""The table shows this many models, and all of them when a button is pressed."""

MOST_DRAWN = 200
"""The largest number of models that are drawn. Half of them are the best ones, the others are spread over the ranks."""

MOST_AXES = 8
"""The largest number of settings with an axis."""

PIXELS_PER_INCH = 96


class Cell(NamedTuple):
    """A cell of the table: its text, and the number that it is sorted by, if it is one."""

    text: str
    value: float | None = None
    is_bad: bool = False


def write_page(path: str | Path, result: results.SweepResult, settings: Mapping[str, JsonValue]) -> None:
    """Writes the page of a sweep as one self-contained HTML file.

    The page opens fast with thousands of models: at most 200 are drawn, and the table shows 200 at first.

    Args:
        path: the file, in a folder that exists.
        result: the result of the sweep; parameters are not needed.
        settings: the entries of ``sweep.json``.

    Raises:
        InputError: if the file cannot be written.
    """
    metric = result.metric
    ranked = result.ranked()
    drawn = drawn_members(ranked)
    names = list(result.varied)
    names_of = {member.number: _name(member, names, metric) for member in drawn}
    without_seed = [name for name in names if name != "seed"]
    with_axis = (without_seed or names)[:MOST_AXES]
    (summary_heads, *summary), _ = results.settings_cells(result)
    table = [(column.title, value) for column, value in results.of_members(result.members) if column.is_shown]
    values = {
        "title": f"A sweep of {counted(len(result.members), 'model')}",
        "sentence": results.sentences(result)[0],
        "message": result.message,
        "counts": _counts(result),
        "metric": words(metric),
        "parallel": _model_chart(
            parallel_coordinates(drawn, with_axis, metric),
            names_of,
            f"Settings and {words(metric)} of {counted(len(drawn), 'model')}",
            is_wide=True,
        ),
        "most_ticks": MOST_TICKS,
        "axes_left_out": [name for name in without_seed if name not in with_axis],
        "charts": _charts(drawn, names_of, results.metric_names(result.members), metric),
        "thinned": len(drawn) < len(ranked),
        "drawn": len(drawn),
        "best_drawn": len(drawn) // 2,
        "models": len(ranked),
        "heads": ["rank", *(title for title, _ in table)],
        "rows": [
            (member.number, [Cell(str(rank), rank), *(_cell(value(member), member) for _, value in table)])
            for rank, member in enumerate(ranked, start=1)
        ],
        "rows_at_first": ROWS_AT_FIRST,
        "summary": summary if "seed" in names and without_seed else [],
        "summary_heads": summary_heads,
        "settings": _settings(settings, names),
        "script": (Path(__file__).parent / "templates" / "sweep_report.js").read_text("utf-8"),
    }
    write_template("sweep_report.html", path, {}, values)


def drawn_members(ranked: Sequence[results.Member]) -> list[results.Member]:
    """The members that are drawn, the best first: all, or the best ones and a sample of the others."""
    if len(ranked) <= MOST_DRAWN:
        return list(ranked)
    best = MOST_DRAWN // 2
    places = np.linspace(best, len(ranked) - 1, MOST_DRAWN - best).astype(int)
    return [*ranked[:best], *(ranked[place] for place in places)]


def _model_chart(figure: Figure, names_of: Mapping[int, str], label: str, *, is_wide: bool = False) -> str:
    """A chart whose lines the page colors by rank and highlights."""
    svg = as_svg(figure, label, label, {GRAY: "var(--faint)"})

    def line(found: re.Match[str]) -> str:
        model, rank, shape = found.groups()
        look = 'class="bad"' if rank == "bad" else f'style="--rank:{rank}%"'
        return f'<path data-model="{model}" {look}{shape}><title>{escape(names_of[int(model)])}</title></path>'

    svg = re.sub(r'<g id="model-(\d+)-(\w+)">\s*<path( d="[^"]*")[^>]*/>\s*</g>', line, svg)
    width = f' style="width:{figure.get_figwidth() * PIXELS_PER_INCH:.0f}px"' if is_wide else ""
    return svg.replace('<svg role="img"', f'<svg class="models-chart" role="img"{width}', 1)


def _name(member: results.Member, varied: Sequence[str], metric: str) -> str:
    """A model in words, for the tooltip of its lines."""
    settings = ", ".join(f"{name} {results.shown_value(member.hyperparameters[name])}" for name in varied)
    return f"model {member.number}: {settings}, {words(metric)} {number(member.last(metric))}"


def _counts(result: results.SweepResult) -> list[tuple[str, int, bool]]:
    """The number of models, and of those with each status."""
    statuses = Counter(member.status for member in result.members)
    rows = [("models", len(result.members), False)]
    rows += [(status, count, status == "non-finite") for status, count in statuses.items()]
    return rows


def _charts(
    drawn: Sequence[results.Member], names_of: Mapping[int, str], metrics: Sequence[str], metric: str
) -> list[tuple[str, str]]:
    """A chart of curves for the metric that models are compared by, for the loss beside it, and for training."""
    part = metric.partition("_")[0]
    chosen = dict.fromkeys((metric, f"{part}_loss", "train_loss"))
    charts = []
    for name in chosen:
        if name in metrics:
            label = f"{words(name)} by epoch of {counted(len(drawn), 'model')}"
            if (figure := member_curves(drawn, name)) is not None:
                charts.append((words(name), _model_chart(figure, names_of, label)))
    return charts


def _cell(value: PlainValue, member: results.Member) -> Cell:
    if value is None or (not member.epochs and value != value):  # NaN is the metric of a member that has not run
        return Cell("–")
    if not are_numbers([value]):
        return Cell(results.shown_value(value), is_bad=value == "non-finite")
    return Cell(results.shown_value(value), value) if math.isfinite(value) else Cell("not finite", is_bad=True)


def _settings(settings: Mapping[str, JsonValue], varied: Sequence[str]) -> list[tuple[str, str]]:
    """The settings that all models share, and the versions and the machine, as texts by name."""
    shared: dict[str, JsonValue] = {}
    identity = settings.get(IDENTITY)
    if isinstance(identity, dict):
        shared |= identity
    elif identity is not None:
        shared[IDENTITY] = identity
    shared |= {name: settings[name] for name in ("epochs", "batch_size", "patience", "halving") if name in settings}
    # What all members of the grid share is not in the identity if it was given in the grid.
    for name, value in settings["grid"][0].items():
        if name not in varied and (name, value) != ("data", ""):
            shared[name] = value
    shared |= settings.get(SURROUNDINGS) or {}
    return settings_table({name: value for name, value in shared.items() if name not in varied})
