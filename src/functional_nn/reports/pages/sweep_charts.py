"""Charts of a sweep as plain SVG: parallel coordinates of settings and a metric, and a curve for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from functional_nn.core.texts import words
from functional_nn.reports.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    Scale,
    axes,
    epoch_ticks,
    number,
    path,
    points,
    scale_of,
)
from functional_nn.reports.plots.axes import are_numbers, is_share, spans_decades, tick_texts
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.member import Member, has_number

MOST_DRAWN = 200
"""The largest number of models that are drawn. Half of them are the best ones, the others are spread over the ranks."""

MOST_POINTS = 80
"""The largest number of points of a curve."""

MOST_AXES = 8
"""The largest number of settings with an axis."""

MOST_TICKS = 12
"""Up to this number, values have even distances on an axis, each with a tick."""

SPACE, TALL = 130, 320
"""The least distance between two axes, and the height of the picture with parallel coordinates."""

ALL_SPACE = 960
"""The distance between the first and the last axis if there are few. The picture is then as wide as the page."""

HIGHEST, LOWEST, NOT_FINITE = 44, 268, 300
"""The places of the ends of an axis, and of models that have no finite number."""


def drawn_members(ranked: Sequence[Member]) -> list[Member]:
    """The members that are drawn, the best first: all, or the best ones and a sample of the others."""
    if len(ranked) <= MOST_DRAWN:
        return list(ranked)
    best = MOST_DRAWN // 2
    places = np.linspace(best, len(ranked) - 1, MOST_DRAWN - best).astype(int)
    return [*ranked[:best], *(ranked[place] for place in places)]


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: its name, the place of each value, and the places and texts of its ticks."""

    name: str
    places: Mapping[PlainValue, float]
    ticks: Sequence[tuple[float, str]]


def axis_of(name: str, values: Sequence[PlainValue]) -> Axis:
    """The axis of a setting. A few values, and all that are no numbers, have even distances."""
    known = list(dict.fromkeys(values))
    if are_numbers(known) and len(known) > MOST_TICKS:
        # Numbers that were drawn evenly stay on a linear axis, even if one of them is very small.
        is_skewed = sorted(known)[len(known) // 2] < (min(known) + max(known)) / 4
        scale = scale_of(known, LOWEST, HIGHEST, logarithmic=spans_decades(known) and is_skewed)
        return Axis(name, {value: scale.place(value) for value in known}, _ticks(scale))
    ordered = sorted(known) if are_numbers(known) else known
    step = (LOWEST - HIGHEST) / max(1, len(ordered) - 1)
    places = {value: round(LOWEST - step * place, 1) for place, value in enumerate(ordered)}
    if len(ordered) == 1:
        places = {ordered[0]: (LOWEST + HIGHEST) / 2}
    every = math.ceil(len(ordered) / MOST_TICKS)
    texts = tick_texts(ordered)
    return Axis(name, places, [(places[value], texts[at]) for at, value in enumerate(ordered) if at % every == 0])


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    return [(scale.place(tick), number(tick)) for tick in scale.ticks()]


def parallel_coordinates(drawn: Sequence[Member], names: Sequence[str], metric: str, label: str) -> str:
    """Draws a line for each model through its settings to its metric.

    The best model is blue and the last one orange. Models without a finite number are red and dashed.

    Args:
        drawn: the models, the best first.
        names: the settings with an axis.
        metric: the metric of the last axis, after the last epoch.
        label: what is drawn, for people who cannot see it.
    """
    columns = [axis_of(name, [member.hyperparameters[name] for member in drawn]) for name in names[:MOST_AXES]]
    finite = {member.number: member.last(metric) for member in drawn if has_number(member, metric)}
    within = (0, 1) if is_share(metric) else None
    scale = scale_of(list(finite.values()), LOWEST, HIGHEST, within=within)
    space = max(SPACE, ALL_SPACE // max(1, len(columns)))
    width = 2 * LEFT + 60 + space * len(columns)
    at = [LEFT + 30 + space * column for column in range(len(columns) + 1)]
    parts = []
    for x, column in zip(at, columns, strict=False):
        parts.append(_axis(x, column.name, column.ticks))
    metric_ticks = _ticks(scale)
    if len(finite) < len(drawn):
        metric_ticks.append((NOT_FINITE, "no number"))
    parts.append(_axis(at[-1], words(metric), metric_ticks, is_last=True))
    lines = []
    for rank, member in enumerate(drawn):
        places = [column.places[member.hyperparameters[column.name]] for column in columns]
        value = finite.get(member.number)
        end = NOT_FINITE if value is None else scale.place(value)
        shape = path([list(zip(at, [*places, end], strict=True))])
        lines.append(_model(member, shape, rank / max(1, len(drawn) - 1), value is not None))
    # The best models are drawn last, on top of the others.
    body = f'<g class="models">{"".join(reversed(lines))}</g>{"".join(parts)}'
    return _svg(body, label, width, TALL, f"width:{max(width, WIDTH)}px")


def curves(drawn: Sequence[Member], metric: str, label: str) -> str:
    """Draws a metric over the epochs, with a line for each model."""
    lines = []
    for member in drawn:
        values = np.asarray(member.curves.get(metric, ()), float)
        places = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).astype(int))
        lines.append(Line("", [int(place) + 1 for place in places], [float(values[place]) for place in places]))
    epochs = [at for line in lines for at in line.x]
    if not epochs:
        return ""
    x = scale_of(epochs, LEFT, WIDTH - RIGHT, logarithmic=False)
    share = is_share(metric)
    values = [value for line in lines for value in line.y]
    y = scale_of(values, HEIGHT - BOTTOM, TOP, logarithmic=False if share else None, within=(0, 1) if share else None)
    parts = []
    for rank, (member, line) in enumerate(zip(drawn, lines, strict=True)):
        pieces = points(line, x, y)
        if len(pieces) == 1 and len(pieces[0]) == 1:  # one epoch: a short line, which can be seen
            ((left, top),) = pieces[0]
            pieces = [[(left - 4, top), (left + 4, top)]]
        if pieces:
            parts.append(_model(member, path(pieces), rank / max(1, len(drawn) - 1), member.status != "non-finite"))
    body = f'{axes(x, y, epoch_ticks(epochs), "epoch", "")}<g class="models">{"".join(reversed(parts))}</g>'
    return _svg(body, label, WIDTH, HEIGHT)


def _model(member: Member, shape: str, share: float, is_finite: bool) -> str:
    color = f'style="--rank:{share * 100:.0f}%"' if is_finite else 'class="bad"'
    return f'<path data-model="{member.number}" {color} d="{shape}"/>'


def _axis(x: float, name: str, ticks: Sequence[tuple[float, str]], *, is_last: bool = False) -> str:
    # The texts of the last axis are on its right, where no lines are.
    side, anchor = (7, "start") if is_last else (-7, "end")
    texts = "".join(
        f'<path class="axis" d="M{x - 4} {place:g}h8"/><text x="{x + side}" y="{place + 4:g}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
        for place, text in ticks
    )
    # The long names of settings are cut; the table has the whole ones.
    short = name if len(name) <= 18 else f"{name[:17]}…"
    title = f'<text class="name" x="{x}" y="22" text-anchor="middle">{escape(short)}</text>'
    return f'{title}<path class="axis" d="M{x} {HIGHEST}V{LOWEST}"/>{texts}'


def _svg(body: str, label: str, width: float, height: float, style: str = "") -> str:
    sized = f' style="{style}"' if style else ""
    return (
        f'<svg class="chart models-chart" role="application" tabindex="0" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {height:g}"{sized}>{body}</svg>'
    )
