"""Plots of a sweep, as matplotlib figures. matplotlib is in the extra ``functional-nn[plots]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from functional_nn.core.errors import InputError, check, shortened
from functional_nn.core.texts import counted, words
from functional_nn.reports.plots.axes import (
    BAD,
    MEAN,
    MOST_LETTERS,
    POINT,
    are_numbers,
    as_plain_text,
    check_hyperparameters,
    is_share,
    limit_accuracy,
    make_axes,
    plain_axes,
    scale_losses,
    tick_texts,
    values_of,
    with_plain_texts,
)
from functional_nn.reports.plots.run import LARGEST, learning_curves
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.results import (
    Member,
    Setting,
    SweepResult,
    check_result,
    chosen_metric,
    half_width,
    has_number,
    ranked_settings,
    settings_of,
    shown_value,
)
from functional_nn.training.evaluate import check_metric, larger_is_better
from functional_nn.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c613c", "#4d4d4d", "#b2a800")
GRAY = "#999999"
MOST_LINES = len(COLORS)
MOST_POINTS = 80
"""The largest number of points of a model's curve."""
MOST_POINTS_OF_MEAN = 1000
"""The largest number of points of the mean of a setting's members: about as many as a picture has pixels."""
NO_NUMBER = -0.16
"""Where a model without a finite number ends on the last axis of parallel coordinates, which goes from 0 to 1."""
MOST_PANELS = 6
MOST_BINS = 60
FEW_MEMBERS = 4
"""With fewer members a 95% interval is wider than the picture, so the band is drawn from the lowest to the highest."""
MOST_TICKS = 12
"""Up to this number, values have even distances on an axis, each with a tick. More numbers are placed by value."""


def plot_curves(result: SweepResult | Run, metric: str | None = None, by: str | Sequence[str] | None = None) -> Figure:
    """Plots a metric over the epochs: the mean of each setting's members, and a band that the title explains.

    For the result of ``fit``, the losses in training and on the evaluated examples are plotted, and the metric.

    Members that stopped early keep their last value. A line ends when successive halving or an interruption ends one
    of its members, since the mean over the others would jump. Members that are not finite are left out of means.

    Args:
        result: of ``sweep`` or of ``fit``.
        metric: a name such as ``test_loss``; None for ``SweepResult.metric``, and for the accuracy of a run.
        by: the hyper-parameters that distinguish the lines; by default all that vary except the seed. At most 10
            lines are drawn, those of the best settings. Not for a run.

    Raises:
        InputError: for an unknown metric or hyper-parameter, or if no member ran an epoch.
    """
    if isinstance(result, Run):
        check("by", by, "None, because a run has no hyper-parameters that vary", by is None)
        check("result", result, "a run of at least one epoch", result.history)
        if metric is not None:
            check_metric("metric", metric, result.history[-1].metrics)
        return learning_curves(result.history, metric=metric)
    check_result(result)
    metric = chosen_metric(result, metric)
    by = check_hyperparameters(result, [name for name in result.varied if name != "seed"] if by is None else by, "by")
    if not _has_curves(result, metric):
        raise InputError("result", "a member that ran an epoch", f"{len(result.members)} that ran none")
    settings = _best_first(result, metric, by)
    longest = max(len(", ".join(by)), *(len(_label(row.hyperparameters, by)) for row, _ in settings))
    figure, ((axes,),) = make_axes(1, 1, width=6.5 + 0.08 * min(longest, MOST_LETTERS), height=4.2)
    drawn = []
    most = max(len(members) for _, members in settings[:MOST_LINES])
    interval = most >= FEW_MEMBERS
    for color, (row, members) in zip(COLORS, settings[:MOST_LINES], strict=False):
        epochs, values = _aligned([member for member in members if member.status != "non-finite"], metric)
        label = _label(row.hyperparameters, by) or "all members"
        if bad := len(members) - len(values):
            label += f" ({bad} of {len(members)} not finite)"
        mean = values.mean(axis=0) if len(values) else np.zeros(0)
        marker = {"marker": "o", "ms": 3.5} if len(epochs) <= 30 else {}
        style = "-" if len(values) else ":"
        axes.plot(epochs, mean, color=color, lw=1.6, label=label, ls=style, clip_on=False, **marker)
        if len(values) > 1:
            half = half_width(values.std(axis=0, ddof=1), len(values))
            low, high = (mean - half, mean + half) if interval else (values.min(axis=0), values.max(axis=0))
            axes.fill_between(epochs, low, high, color=color, alpha=0.2 if len(settings) <= 5 else 0.1, lw=0)
        drawn.append(mean)
    scale_losses(axes, np.concatenate(drawn), metric)
    limit_accuracy(axes, metric)
    axes.set(xlabel="epoch", ylabel=words(metric))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    some = f"the best {MOST_LINES} of {len(settings)} settings: " if len(settings) > MOST_LINES else ""
    band = "its 95% interval" if interval else "lowest to highest"
    axes.set_title(some + (f"mean of {most} members, and {band}" if most > 1 else "one member each"), fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=", ".join(by) or None)
    return with_plain_texts(figure)


def plot_spread(result: SweepResult, metric: str | None = None) -> Figure:
    """Plots the spread of a metric over seeds: a histogram for each of at most 6 settings, the best ones.

    Args:
        result: of a sweep.
        metric: a name such as ``test_loss``, after the last epoch; None for ``SweepResult.metric``.

    Raises:
        InputError: for an unknown metric, or if no member ended with a finite number.
    """
    check_result(result)
    metric = chosen_metric(result, metric)
    by = [name for name in result.varied if name != "seed"]
    settings = [(row, members) for row, members in _best_first(result, metric, by) if row.models]
    if not settings:
        raise InputError("members", f"one with a finite {shortened(metric)}", f"none of {len(result.members)}")
    shown = settings[:MOST_PANELS]
    panels = [np.array([m.last(metric) for m in members if has_number(m, metric)]) for _, members in shown]
    drawn = [np.clip(values, -LARGEST, LARGEST) for values in panels]
    together = np.concatenate(drawn)
    edges = np.histogram_bin_edges(together, bins=min(MOST_BINS, 1 + math.isqrt(len(together))))
    titles = [_spread_title(row, values, by) for (row, _), values in zip(shown, panels, strict=True)]
    height = 1.1 + 1.5 * len(shown) + (1.2 if len(shown) == 1 else 0)
    figure, grid = make_axes(
        len(shown), 1, width=max(7, 0.8 + 0.067 * min(MOST_LETTERS, max(map(len, titles)))), height=height
    )
    for axes, (row, _), values, title in zip(grid.flat, shown, drawn, titles, strict=True):
        axes.hist(values, bins=edges, color="#66a9d2", edgecolor="white", lw=0.5)
        axes.axvline(row.mean, color=MEAN, lw=1.8)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylabel("members")
        axes.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelbottom=axes is grid.flat[-1])
    grid.flat[-1].set_xlabel(words(metric))
    if len(settings) > len(shown):
        figure.suptitle(f"the best {len(shown)} of {len(settings)} settings", fontsize=10)
    return with_plain_texts(figure)


@dataclass(frozen=True)
class ParallelAxis:
    """An axis of parallel coordinates: the place of each value, from 0 to 1, and the places and texts of its ticks."""

    name: str
    places: Mapping[PlainValue, float]
    ticks: Sequence[tuple[float, str]]


def parallel_axis(name: str, values: Sequence[PlainValue]) -> ParallelAxis:
    """The axis of a setting. A few values, and all that are no numbers, have even distances."""
    known = list(dict.fromkeys(values))
    if are_numbers(known) and len(known) > MOST_TICKS:
        # Numbers that were drawn evenly stay on a linear axis, even if one of them is very small.
        is_skewed = sorted(known)[len(known) // 2] < (min(known) + max(known)) / 4
        spans_decades = min(known) > 0 and max(known) / min(known) >= 30  # one and a half of them
        return _axis_of_numbers(name, known, logarithmic=spans_decades and is_skewed)
    ordered = sorted(known) if are_numbers(known) else known
    even = np.linspace(0, 1, len(ordered)) if len(ordered) > 1 else np.array([0.5])
    places = dict(zip(ordered, even.tolist(), strict=True))
    every = math.ceil(len(ordered) / MOST_TICKS)
    return ParallelAxis(name, places, list(zip(places.values(), tick_texts(ordered), strict=True))[::every])


def _axis_of_numbers(name: str, values: Sequence[float], *, logarithmic: bool) -> ParallelAxis:
    from matplotlib.ticker import LogLocator, MaxNLocator

    known = np.array([value for value in dict.fromkeys(values) if abs(value) <= LARGEST] or [0.0])
    low, high = float(known.min()), float(known.max())
    if low == high:
        return ParallelAxis(name, dict.fromkeys(known.tolist(), 0.5), [(0.5, f"{low:g}")])
    scale = np.log10 if logarithmic else np.asarray
    span = scale(high) - scale(low)
    locator = LogLocator(subs=(1.0,)) if logarithmic else MaxNLocator(5)
    ticks = [float(f"{tick:.12g}") for tick in locator.tick_values(low, high)]  # 0.9440000000000001 is 0.944
    ticks = [tick for tick in ticks if low <= tick <= high]
    if logarithmic and len(ticks) < 2:
        ticks = [low, high]

    def place(value: float) -> float:
        return float((scale(value) - scale(low)) / span)

    return ParallelAxis(
        name, {value: place(value) for value in known.tolist()}, [(place(tick), f"{tick:.3g}") for tick in ticks]
    )


def parallel_coordinates(drawn: Sequence[Member], names: Sequence[str], metric: str) -> Figure:
    """Plots a line for each model through its settings to its metric after the last epoch, for the page of a sweep.

    Args:
        drawn: the models, the best first. The best are drawn last, on top of the others.
        names: the settings with an axis.
        metric: the metric of the last axis. Models without a finite number end below it.
    """
    finite = {member.number: member.last(metric) for member in drawn if has_number(member, metric)}
    values = list(finite.values())
    logarithmic = not is_share(metric) and min(values, default=0) > 0 and max(values) / min(values) >= 20
    columns = [parallel_axis(name, [member.hyperparameters[name] for member in drawn]) for name in names]
    last = _axis_of_numbers(words(metric), values, logarithmic=logarithmic)
    figure, ((axes,),) = plain_axes(1, 1, width=max(9.6, 1.6 * (len(columns) + 1)), height=3.3)
    axes.set_axis_off()
    for rank, member in reversed(list(enumerate(drawn))):
        places = [column.places[member.hyperparameters[column.name]] for column in columns]
        end = last.places.get(finite.get(member.number), NO_NUMBER)
        _draw_model(axes, range(len(columns) + 1), [*places, end], rank / max(1, len(drawn) - 1), member, metric)
    no_number = [(NO_NUMBER, "no number")] if len(finite) < len(drawn) else []
    for x, column in enumerate([*columns, last]):
        is_last = x == len(columns)
        # The texts of the last axis are on its right, where no lines are.
        side, align = (0.03, "left") if is_last else (-0.03, "right")
        axes.plot([x, x], [0, 1], color=GRAY, lw=0.8, zorder=3)
        for place, text in [*column.ticks, *(no_number if is_last else [])]:
            axes.plot([x - 0.01, x + 0.01], [place, place], color=GRAY, lw=0.8, zorder=3)
            axes.text(x + side, place, text, ha=align, va="center", fontsize=9, zorder=4)
        axes.text(x, 1.08, as_plain_text(column.name, 18), ha="center", fontsize=9, fontweight="bold", zorder=4)
    axes.set_xlim(-0.3, len(columns) + 0.3)
    return figure


def member_curves(drawn: Sequence[Member], metric: str) -> Figure | None:
    """Plots a metric over the epochs with a line for each model, for the page of a sweep; None without an epoch.

    Args:
        drawn: the models, the best first. The best are drawn last, on top of the others.
        metric: the metric.
    """
    curves = [np.asarray(member.curves.get(metric, ()), float) for member in drawn]
    if not any(map(len, curves)):
        return None
    figure, ((axes,),) = make_axes(1, 1, width=5, height=3.2)
    curves = [np.where(np.abs(curve) <= LARGEST, curve, np.nan) for curve in curves]
    for rank, (member, curve) in reversed(list(enumerate(zip(drawn, curves, strict=True)))):
        places = _places(len(curve), MOST_POINTS)
        x, y = places + 1.0, curve[places]
        if len(x) == 1:  # one epoch: a short line, which can be seen
            x, y = np.array([x[0] - 0.05, x[0] + 0.05]), y.repeat(2)
        if np.isfinite(y).any():
            _draw_model(axes, x, y, rank / max(1, len(drawn) - 1), member, metric)
    scale_losses(axes, np.concatenate(curves), metric)
    limit_accuracy(axes, metric)
    axes.set(xlabel="epoch")
    axes.grid(visible=False, axis="x")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure


def _draw_model(axes: Axes, x: ArrayLike, y: ArrayLike, share: float, member: Member, metric: str) -> None:
    """Draws the line of a model. Its identifier tells the page which model it is, and its place in the ranking."""
    is_bad = not has_number(member, metric)
    gid = f"model-{member.number}-{'bad' if is_bad else round(share * 100)}"
    axes.plot(x, y, color=BAD if is_bad else POINT, lw=1.2, clip_on=False, gid=gid)


def _best_first(result: SweepResult, metric: str, by: Sequence[str]) -> list[tuple[Setting, list[Member]]]:
    others = [name for name in (result.members[0].hyperparameters if result.members else ()) if name not in by]
    return ranked_settings(result, metric, others)


def _has_curves(result: SweepResult, metric: str) -> bool:
    return any(len(member.curves.get(metric, ())) for member in result.members)


def _aligned(members: Sequence[Member], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs to draw, and the curves there as (members, epochs). Members that stopped early keep their last value.

    The curves are cut to the shortest one of a member that did not stop early.
    """
    curves = [np.asarray(member.curves.get(metric, ()), float) for member in members]
    going = [
        len(c) for c, member in zip(curves, members, strict=True) if member.status != "stopped early" or not len(c)
    ]
    places = _places(min(going) if going else max(map(len, curves), default=0), MOST_POINTS_OF_MEAN)
    values = [curve[np.minimum(places, len(curve) - 1)] for curve in curves]
    return places + 1, np.reshape(values, (len(curves), len(places)))


def _places(length: int, most: int) -> np.ndarray:
    """Places on a curve at even distances, with the first and the last one: all of them if they are not too many."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int))


def _label(hyperparameters: Mapping[str, object], by: Sequence[str]) -> str:
    values = [hyperparameters[name] for name in by]
    return ", ".join(f"{value:.3g}" if isinstance(value, float) else shown_value(value) for value in values)


def _spread_title(row: Setting, values: np.ndarray, by: Sequence[str]) -> str:
    about = ", ".join(f"{name} {shown_value(row.hyperparameters[name])}" for name in by)
    count = counted(row.models, "member")
    deviation = "" if math.isnan(row.deviation) else f", sd {row.deviation:.4f}"
    left_out = f"; {row.left_out}" if row.left_out else ""
    numbers = f"mean {row.mean:.4f}{deviation}, from {values.min():.4f} to {values.max():.4f}"
    return f"{about + ': ' if about else ''}{count}, {numbers}{left_out}"


MOST_CELLS = 20
"""The largest number of rows and of columns."""


def plot_heat_map(result: SweepResult, x: str, y: str, metric: str | None = None) -> Figure:
    """Plots the mean of a metric for each pair of values of two hyper-parameters, with a frame around the best.

    Args:
        result: of a sweep.
        x, y: the hyper-parameters.
        metric: a name such as ``test_loss``, after the last epoch; None for ``SweepResult.metric``.

    Raises:
        InputError: for an unknown name, the same name twice, or a hyper-parameter with too many values.
    """
    check_hyperparameters(result, (x, y), "x and y")
    check("y", y, "another hyper-parameter than x", x != y)
    metric = chosen_metric(result, metric)
    columns, rows = values_of(result, x), values_of(result, y)
    for name, values in ((x, columns), (y, rows)):
        is_small = len(values) <= MOST_CELLS
        check(name, len(values), f"at most {MOST_CELLS} values", is_small, "Choose members with where(…).")
    others = [name for name in result.members[0].hyperparameters if name not in (x, y)]
    cells: dict[tuple[int, int], Setting] = {}
    for cell, _ in settings_of(result, metric, others):
        cells[rows.index(cell.hyperparameters[y]), columns.index(cell.hyperparameters[x])] = cell
    table = np.full((len(rows), len(columns)), np.nan)
    for place, cell in cells.items():
        table[place] = cell.mean

    figure, ((axes,),) = make_axes(1, 1, width=2.6 + 0.75 * len(columns), height=1.7 + 0.55 * len(rows))
    low, high, extend = _limits(table, metric)
    colors = "viridis" if larger_is_better(metric) else "viridis_r"
    axes.set_facecolor("0.93")
    axes.grid(False)
    image = axes.imshow(table, cmap=colors, vmin=low, vmax=high, origin="lower", aspect="auto")
    figure.colorbar(image, label=f"mean {words(metric)}", extend=extend, fraction=0.05, pad=0.02)
    for place, cell in cells.items():
        _write(axes, place, cell, image)
    if np.isfinite(table).any():
        from matplotlib.patches import Rectangle

        best = np.nanargmax(table) if larger_is_better(metric) else np.nanargmin(table)
        row, column = divmod(int(best), len(columns))
        frame = {"fill": False, "edgecolor": MEAN, "lw": 2.5, "clip_on": False}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    axes.set_xticks(range(len(columns)), tick_texts(columns), rotation=45 if len(columns) > 8 else 0)
    axes.set_yticks(range(len(rows)), tick_texts(rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=x, ylabel=y)
    counts = sorted({cell.models + cell.not_finite + cell.not_run for cell in cells.values()})
    if counts[-1] > 1:
        members = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        axes.set_title(f"{words(metric)}, mean of {members} members a cell", fontsize=10)
    else:
        axes.set_title(words(metric), fontsize=10)
    return with_plain_texts(figure)


def _limits(table: np.ndarray, metric: str) -> tuple[float, float, str]:
    """The range of the colors. A few very bad cells are outside it, so that the colors of the others still differ."""
    values = table[np.isfinite(table)]
    if not len(values):
        return 0.0, 1.0, "neither"
    low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
    if larger_is_better(metric):
        limit = high - 3 * (high - middle)
        return (limit, high, "min") if low < limit < high else (low, high, "neither")
    limit = low + 3 * (middle - low)
    return (low, limit, "max") if low < limit < high else (low, high, "neither")


def _write(axes: Axes, place: tuple[int, int], cell: Setting, image: Any) -> None:
    """Writes the mean into a cell, and the number of members that it leaves out."""
    row, column = place
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    if math.isnan(cell.mean):
        text = "not\nfinite" if cell.not_finite else "not\nrun"
        axes.text(column, row, text, fontsize=7, color=BAD, **middle)
        return
    red, green, blue, _ = image.cmap(image.norm(cell.mean))
    # The factors say how bright each color looks to the eye (ITU-R BT.601).
    color = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
    number = f"{cell.mean:.3f}" if abs(cell.mean) < 100 else f"{cell.mean:.2g}"
    axes.text(column, row + (0.12 if cell.left_out else 0), number, fontsize=8, color=color, **middle)
    if cell.left_out:
        axes.text(column, row - 0.25, cell.left_out.replace(", ", "\n"), fontsize=5.5, color=color, **middle)
