"""Plots of a run, as matplotlib figures. matplotlib is in the extra ``functional-nn[plots]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from functional_nn.core.texts import words
from functional_nn.reports.plots.axes import limit_accuracy, make_axes, plain_axes, scale_losses
from functional_nn.training.evaluate import default_metric
from functional_nn.training.run import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, TEST, VALIDATION = "#0072b2", "#d55e00", "#009e73"
PARTS = {"train": (TRAIN, "-", "o"), "test": (TEST, "--", "s"), "validation": (VALIDATION, ":", "D")}
"""The color, the dashes and the marker of each part of the data, so that lines differ without color, too."""

LARGEST = 1e150
"""Numbers beyond it are left out of charts, whose scales would overflow."""

MOST_MARKERS = 40
"""With more points than this, a line of a chart has no markers."""


def learning_curves(history: Sequence[EpochMetrics], metric: str | None = None) -> Figure:
    """Plots the losses over the epochs, and another metric beside them, by default the accuracy if there is one.

    They are those of the training examples and of the examples that were evaluated: for validation, or for testing.
    """
    names = list(history[-1].metrics)
    losses = [name for name in names if name.endswith("_loss")]
    chosen = default_metric(names) if metric is None else metric
    panels = {"loss": losses[:2]} if chosen in losses else {"loss": losses[:2], chosen: [chosen]}
    figure, (grid,) = make_axes(1, len(panels), width=4.5 * len(panels), height=3.6)
    epochs = [row.epoch for row in history]
    for axes, (name, drawn) in zip(grid, panels.items(), strict=True):
        _draw_metric(axes, epochs, {one: [row.metrics[one] for row in history] for one in drawn}, name)
        axes.set_ylabel(words(name))
    return figure


def metric_chart(epochs: Sequence[int], curves: Mapping[str, Sequence[float]], metric: str) -> Figure:
    """Plots a metric over the epochs for a page, with a line for each part of the data.

    Args:
        epochs: their numbers.
        curves: a name such as ``train_loss``, and its numbers. Those that are not finite leave a gap.
        metric: a name such as ``loss``, which decides about the scale.
    """
    figure, ((axes,),) = make_axes(1, 1, width=5, height=3.2)
    _draw_metric(axes, epochs, curves, metric)
    return figure


def _draw_metric(axes: Axes, epochs: Sequence[int], curves: Mapping[str, Sequence[float]], metric: str) -> None:
    drawn = {name: _drawable(values) for name, values in curves.items()}
    for name, values in drawn.items():
        # A part of the data looks the same in all charts.
        color, dashes, marker = PARTS.get(name.partition("_")[0], PARTS["train"])
        marker = marker if len(epochs) <= MOST_MARKERS else ""
        axes.plot(epochs, values, color=color, ls=dashes, marker=marker, ms=4, clip_on=False, label=words(name))
    scale_losses(axes, np.concatenate(list(drawn.values())), metric)
    limit_accuracy(axes, metric)
    axes.set(xlabel="epoch")
    axes.grid(visible=False, axis="x")
    locator: Any = axes.xaxis.get_major_locator()  # its class lacks the options of the automatic one
    locator.set_params(integer=True, min_n_ticks=1)
    if len(drawn) > 1:
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)


def small_curve(values: Sequence[float | None], *, logarithmic: bool = False) -> Figure | None:
    """Plots numbers as a small line for a cell of a table; None if there are fewer than two."""
    known = _drawable([math.nan if value is None else value for value in values])
    if logarithmic:
        known = np.where(known > 0, known, math.nan)
    if np.isfinite(known).sum() < 2:
        return None
    figure, ((axes,),) = plain_axes(1, 1, width=0.95, height=0.25)
    axes.set_axis_off()
    axes.plot(known, color=TRAIN, lw=1.2)
    if logarithmic:
        axes.set_yscale("log")
    return figure


def _drawable(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, float)
    return np.where(np.abs(array) <= LARGEST, array, math.nan)
