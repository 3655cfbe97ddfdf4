"""The picture of a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.reports.plots.axes import as_plain_text, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 30
"""The largest number of classes for which a confusion matrix shows its numbers."""


def confusion(matrix: np.ndarray, title: str = "", class_names: Sequence[str] | None = None) -> Figure:
    """Plots the confusion matrix: errors in color, and right answers as numbers on the diagonal."""
    classes = len(matrix)
    room = 0.48 * min(classes, MOST_NUMBERS)
    names = [] if class_names is None else [as_plain_text(name) for name in class_names]
    room_for_names = 0.08 * max((len(name) for name in names), default=0)
    figure, ((axes,),) = plain_axes(1, 1, width=1.6 + room + room_for_names, height=1.2 + room + room_for_names)
    errors = np.where(np.eye(classes, dtype=bool), 0, matrix)
    colors = axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(1, errors.max()))
    if classes > MOST_NUMBERS:
        from matplotlib.ticker import MaxNLocator

        bar = figure.colorbar(colors, shrink=0.6, fraction=0.04, pad=0.01, label="errors")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    for row, column in np.ndindex(matrix.shape):
        if classes <= MOST_NUMBERS and matrix[row, column]:
            strong = errors[row, column] > 0.6 * errors.max() and row != column
            color = "0.55" if row == column else "black"
            if strong:
                color = "white"
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=8, color=color)
    ticks = range(0, classes, math.ceil(classes / MOST_NUMBERS))
    axes.set(xlabel="taken for", ylabel="class", xticks=ticks, yticks=ticks)
    if names:
        shown = [names[number] for number in ticks]
        axes.set_xticklabels(shown, rotation=90)
        axes.set_yticklabels(shown)
    axes.set_title(title or f"{errors.sum()} of {matrix.sum()} wrong")
    return figure
