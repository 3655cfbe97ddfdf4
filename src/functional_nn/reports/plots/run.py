"""Plots of a run, as matplotlib figures. matplotlib is in the extra ``functional-nn[plots]``."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.core import trees
from functional_nn.core.layer import Params
from functional_nn.core.texts import words
from functional_nn.reports.plots.axes import limit_accuracy, make_axes, plain_axes, scale_losses
from functional_nn.storage.files import write_whole
from functional_nn.training.evaluate import default_metric
from functional_nn.training.run import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, TEST, VALIDATION = "#0072b2", "#d55e00", "#009e73"
PARTS = {"train": (TRAIN, "-", "o"), "test": (TEST, "--", "s"), "validation": (VALIDATION, ":", "D")}
"""The color, the dashes and the marker of each part of the data, so that lines differ without color, too."""

LARGEST = 1e150
"""Numbers beyond it are left out of charts, whose scales would overflow."""

MOST_MARKERS = 40
"""With more points than this, a line of a chart has no markers."""


def write_picture(path: Path, figure: Figure) -> None:
    """Writes a picture as PNG, whole or not at all."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The names of settings may have letters that matplotlib's font lacks. They are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def learning_curves(history: Sequence[EpochMetrics], metric: str | None = None) -> Figure:
    """Plots the losses over the epochs, and another metric beside them, by default the accuracy if there is one.

    They are those of the training examples and of the examples that were evaluated: for validation, or for testing.
    """
    epochs = [metrics.epoch for metrics in history]
    size = 4 if len(epochs) <= 60 else 0
    names = list(history[-1].metrics)
    losses = [name for name in names if name.endswith("_loss")]
    chosen = default_metric(names) if metric is None else metric
    columns = 1 if chosen in losses else 2
    figure, grid = plain_axes(1, columns, width=4.5 * columns, height=3.6)
    left, right = grid[0, 0], grid[0, -1]
    for name, style, color in zip(losses, ("o-", "s-"), (TRAIN, TEST), strict=False):
        values = [metrics.metrics[name] for metrics in history]
        label = name.removesuffix("_loss").replace("train", "training")
        left.plot(epochs, values, style, color=color, ms=size, label=label)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    if columns == 2:
        values = [metrics.metrics[chosen] for metrics in history]
        right.plot(epochs, values, "s-", color=TEST, ms=size, clip_on=False)
        limit_accuracy(right, chosen)
        if math.isfinite(values[-1]):
            place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
            right.annotate(f"{values[-1]:.4f}", (epochs[-1], values[-1]), **place)
        right.set(xlabel="epoch", ylabel=words(chosen))
    margin = max(0.5, 0.03 * len(epochs))
    for axes in grid.flat:
        axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def metric_chart(epochs: Sequence[int], curves: Mapping[str, Sequence[float]], metric: str) -> Figure:
    """Plots a metric over the epochs for a page, with a line for each part of the data.

    Args:
        epochs: their numbers.
        curves: a name such as ``train_loss``, and its numbers. Those that are not finite leave a gap.
        metric: a name such as ``loss``, which decides about the scale.
    """
    figure, ((axes,),) = make_axes(1, 1, width=5, height=3.2)
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
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(drawn) > 1:
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    return figure


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


def weight_on_pixels(params: Params, image_shape: tuple[int, ...]) -> np.ndarray | None:
    """The first weight that is applied to the pixels, as (height, width, channels, units); None if there is none."""
    for leaf in trees.flatten(params).values():
        weight = np.asarray(leaf)
        if weight.ndim == 2 and weight.shape[0] == math.prod(image_shape):  # a dense layer on flattened images
            weight = weight.reshape(*image_shape, -1)
        if weight.ndim == 4 and weight.shape[2] == image_shape[-1]:
            return weight
    return None
