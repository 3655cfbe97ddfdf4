"""Heat map of a metric over two hyper-parameters. matplotlib is in the extra ``functional-nn[plots]``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import words
from functional_nn.reports.plots.axes import BAD, MEAN, check_hyperparameters, make_axes, tick_texts, values_of
from functional_nn.sweeps.member import chosen_metric
from functional_nn.sweeps.results import SweepResult
from functional_nn.sweeps.statistics import Setting, setting, together
from functional_nn.training.evaluate import larger_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    if x == y:
        raise InputError("y", "another hyper-parameter than x", repr(y))
    metric = chosen_metric(result, metric)
    columns, rows = values_of(result, x), values_of(result, y)
    for name, values in ((x, columns), (y, rows)):
        if len(values) > MOST_CELLS:
            remedy = "Draw plot_effects, or choose members with where(…)."
            raise InputError(name, f"at most {MOST_CELLS} values", f"{len(values)}", remedy)
    others = [name for name in result.members[0].hyperparameters if name not in (x, y)]
    cells: dict[tuple[int, int], Setting] = {}
    for given, members in together(result, others):
        cells[rows.index(given[y]), columns.index(given[x])] = setting(given, members, metric)
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
        frame = {"fill": False, "edgecolor": MEAN, "lw": 2.5, "clip_on": False, "zorder": 3}
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
    return figure


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
