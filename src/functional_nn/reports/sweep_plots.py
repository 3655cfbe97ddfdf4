"""Pictures of a sweep, as matplotlib figures; matplotlib is the extra ``functional-nn[plots]``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from functional_nn.errors import InputError, suggest
from functional_nn.sweeps.results import SweepResult, check_metric
from functional_nn.sweeps.statistics import Summary, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR, MEAN = "#0072b2", "#d55e00"
MOST_LINES = 10
WIDE = 20.0
"""A hyper-parameter whose values span more than this factor has a logarithmic axis."""


def plot_curves(result: SweepResult, metric: str = "test_accuracy") -> Figure:
    """A metric epoch by epoch: for each configuration the mean over its seeds, in a band from smallest to largest.

    Of more than ten configurations the best ten are shown.
    """
    summaries = _best_first(summarize(result, check_metric(metric)), metric)
    names = [name for name in result.varied if name != "seed"]
    figure, (axes,) = _figure(8, 4.2)
    curves = result.curves(metric)
    for row in summaries[:MOST_LINES]:
        own = curves[[member.hyperparameters.items() >= row.hyperparameters.items() for member in result.members]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # an epoch that no member ran has no mean
            mean, low, high = np.nanmean(own, axis=0), np.nanmin(own, axis=0), np.nanmax(own, axis=0)
        epochs = np.arange(1, len(mean) + 1)
        label = ", ".join(f"{name} {_shown(row.hyperparameters[name])}" for name in names) or "all"
        (line,) = axes.plot(epochs, mean, marker="o" if len(mean) <= 30 else None, ms=3.5, label=label)
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set(xlabel="epoch", ylabel=_words(metric))
    left_out = len(summaries) - MOST_LINES
    heading = f"the best {MOST_LINES} of {len(summaries)}" if left_out > 0 else None
    axes.legend(frameon=False, fontsize=8, title=heading, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title(f"Mean over seeds, and from the smallest to the largest ({len(result.members)} models)", fontsize=9)
    return figure


def plot_heat_map(result: SweepResult, x: str, y: str, metric: str = "test_accuracy") -> Figure:
    """The mean of a metric for each pair of values of two hyper-parameters; the best one has a frame.

    Members that are not finite are left out of the mean; a cell that has no other is hatched.
    """
    for name in (x, y):
        _check_varied(result, name)
    others = [name for name in result.members[0].hyperparameters if name not in (x, y)]
    rows = summarize(result, check_metric(metric), over=others)
    columns, lines = (_sorted({row.hyperparameters[name] for row in rows}) for name in (x, y))
    table = np.full((len(lines), len(columns)), np.nan)
    for row in rows:
        table[lines.index(row.hyperparameters[y]), columns.index(row.hyperparameters[x])] = row.mean
    figure, (axes,) = _figure(1.9 + 0.85 * len(columns), 1.5 + 0.55 * len(lines))
    axes.set_facecolor("0.85")
    picture = axes.imshow(table, cmap="viridis" if metric == "test_accuracy" else "viridis_r", aspect="auto")
    figure.colorbar(picture, label=_words(metric))
    bright = np.nanmean(table) if np.isfinite(table).any() else 0.0
    for place in np.ndindex(table.shape):
        value = table[place]
        if math.isnan(value):
            axes.text(*place[::-1], "none\nfinite", ha="center", va="center", fontsize=7, color="0.35")
        else:
            dark = (value < bright) == (metric == "test_accuracy")
            axes.text(*place[::-1], f"{value:.4f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    if np.isfinite(table).any():
        from matplotlib.patches import Rectangle

        best = np.nanargmax(table) if metric == "test_accuracy" else np.nanargmin(table)
        line, column = np.unravel_index(best, table.shape)
        axes.add_patch(Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor=MEAN, lw=2.5))
    axes.set_xticks(range(len(columns)), [_shown(value) for value in columns])
    axes.set_yticks(range(len(lines)), [_shown(value) for value in lines])
    axes.set(xlabel=_words(x), ylabel=_words(y))
    folded = len(result.members) / max(table.size, 1)
    axes.set_title(f"{_words(metric)}, mean of {folded:g} models a cell" if folded > 1 else _words(metric), fontsize=9)
    return figure


def plot_effects(result: SweepResult, metric: str = "test_accuracy") -> Figure:
    """Each hyper-parameter against a metric: a point for each member, whatever the others are, and the means."""
    names = [name for name in result.varied if name != "seed"]
    if not names:
        raise InputError("result", "a sweep over something besides the seed", "none", "See plot_spread.")
    figure, grid = _figure(3.4 * min(len(names), 3), 3.2 * math.ceil(len(names) / 3), len(names))
    values = np.array([member.last(check_metric(metric)) for member in result.members])
    for axes, name in zip(grid, names, strict=False):
        given = [member.hyperparameters[name] for member in result.members]
        known = _sorted(set(given))
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        places = np.array(given if numbers else [known.index(value) for value in given], float)
        axes.plot(places, values, ".", color=COLOUR, alpha=0.4, ms=5)
        if len(known) <= len(given) / 2:
            at = [float(value) if numbers else place for place, value in enumerate(known)]
            means = [_mean(values[places == place]) for place in at]
            axes.plot(at, means, "o-", color=MEAN, ms=5, label="mean")
        positive = [value for value in known if value > 0] if numbers else []
        if positive and max(known) / min(positive) > WIDE:
            axes.set_xscale("symlog", linthresh=min(positive)) if min(known) <= 0 else axes.set_xscale("log")
        if not numbers:
            axes.set_xticks(range(len(known)), [_shown(value) for value in known], rotation=20)
        axes.set(xlabel=_words(name), ylabel=_words(metric))
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure


def plot_spread(result: SweepResult, metric: str = "test_accuracy") -> Figure:
    """How often each value of a metric came out, over all members: what the seed alone is good for."""
    values = np.array([member.last(check_metric(metric)) for member in result.members])
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError("result", f"a member with a finite {metric}", "none")
    figure, (axes,) = _figure(7, 3.8)
    axes.hist(
        finite, bins=min(40, max(5, round(math.sqrt(len(finite)) * 1.5))), color=COLOUR, alpha=0.75, ec="w", lw=0.5
    )
    axes.axvline(finite.mean(), color=MEAN, lw=2)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=_words(metric), ylabel="models")
    deviation = f" ± {finite.std(ddof=1):.4f}" if len(finite) > 1 else ""
    not_finite = f", {len(values) - len(finite)} not finite" if len(finite) < len(values) else ""
    ends = f"from {finite.min():.4f} to {finite.max():.4f}"
    axes.set_title(f"{len(finite)} models: {finite.mean():.4f}{deviation}, {ends}{not_finite}", fontsize=9)
    return figure


def draw_all(result: SweepResult, folder: Path) -> list[str]:
    """The pictures that a sweep gives something for, as files; none where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return []
    if not any(np.isfinite(member.last("test_accuracy")) for member in result.members):
        return []
    settings = [name for name in result.varied if name != "seed"]
    figures = {"curves.png": plot_curves(result)}
    if "seed" in result.varied:
        figures["spread.png"] = plot_spread(result)
    if settings:
        figures["effects.png"] = plot_effects(result)
    if len(settings) == 2 and len(result.members) >= len(set(_pairs(result, settings))) > 3:
        figures["heat_map.png"] = plot_heat_map(result, *settings)
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return sorted(figures)


def _pairs(result: SweepResult, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return [tuple(member.hyperparameters[name] for name in names) for member in result.members]


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    grid = figure.subplots(math.ceil(panels / 3), min(panels, 3), squeeze=False).ravel()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def _best_first(rows: Sequence[Summary], metric: str) -> list[Summary]:
    sign = -1 if metric == "test_accuracy" else 1
    return sorted(rows, key=lambda row: (math.isnan(row.mean), 0.0 if math.isnan(row.mean) else sign * row.mean))


def _check_varied(result: SweepResult, name: str) -> None:
    if name not in result.varied:
        known = [name for name in result.varied if name != "seed"]
        raise InputError("axes", "hyper-parameters that differ between members", repr(name), suggest(name, known))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _sorted(values: set[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (isinstance(value, str), value if value is not None else -math.inf))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
