"""Plots of a run, as matplotlib figures. matplotlib is in the extra ``functional-nn[plots]``."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from functional_nn.core import trees
from functional_nn.core.layer import Layer, Params
from functional_nn.core.texts import words
from functional_nn.data.dataset import Dataset
from functional_nn.metrics import confusion_matrix
from functional_nn.reports.page import BLUE, ORANGE, WHITE
from functional_nn.reports.plots.axes import (
    MOST_LETTERS,
    as_plain_text,
    limit_accuracy,
    make_axes,
    plain_axes,
    scale_losses,
)
from functional_nn.storage.files import remove_file, write_whole
from functional_nn.training.evaluate import default_metric
from functional_nn.training.prediction import predict_probabilities
from functional_nn.training.run import EpochMetrics, Run

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


def draw_all(folder: Path, net: Layer, run: Run, data: Dataset) -> list[str]:
    """Draws the pictures of a run into its folder, and returns their names: none if matplotlib is missing.

    If an output for a test image is not finite, there is no picture of the answers: they would be no classes.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return []
    x = data.test_images.reshape(len(data.test_images), *run.in_shape)
    probabilities = predict_probabilities(net, run.params, run.state, x, precision=run.precision)
    figures: dict[str, Figure] = {}
    if np.isfinite(probabilities).all():
        names, labels = data.class_names, data.test_labels
        matrix = np.asarray(confusion_matrix(probabilities, labels), int)
        figures["confusion.png"] = confusion(matrix, class_names=names)
        figures["most_wrong.png"] = most_wrong(data.test_images, labels, probabilities, class_names=names)
    else:
        for name in ("confusion.png", "most_wrong.png"):
            remove_file(folder / name)  # of the run before it was resumed
    if run.history:
        figures["learning_curves.png"] = learning_curves(run.history, as_plain_text(data.name))
    image_shape = data.test_images.shape[1:]
    weight = weight_on_pixels(run.params, image_shape)
    if weight is not None:
        figures["first_layer_weights.png"] = first_layer_weights(weight)
    for name, figure in figures.items():
        write_picture(folder / name, figure)
    return sorted(figures)


def write_picture(path: Path, figure: Figure, *, dpi: float | Literal["figure"] = "figure") -> None:
    """Writes a picture as PNG, whole or not at all."""
    from matplotlib.text import Text

    # Texts may come from a stranger's file. The texts of ticks are set again while they are drawn.
    for text in figure.findobj(Text):
        lines = text.get_text().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
        text.set(text="\n".join(as_plain_text(line, MOST_LETTERS) for line in lines))
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The names of classes may have letters that matplotlib's font lacks. They are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # long texts leave no room
        figure.savefig(content, format="png", dpi=dpi)
    write_whole(path, content.getvalue())


def learning_curves(history: Sequence[EpochMetrics], title: str = "", metric: str | None = None) -> Figure:
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
    figure.suptitle(title)
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


def most_wrong(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    count: int = 24,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Plots the misclassified test images with the least probability of their label, the worst first."""
    given = probabilities[np.arange(len(labels)), labels]
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(given[wrong])][:count]
    if not len(worst):
        figure, ((axes,),) = plain_axes(1, 1, width=4, height=1)
        axes.text(0.5, 0.5, "no test image is wrong", ha="center", va="center")
        axes.set_axis_off()
        return figure
    columns = min(8, max(4, len(worst)))
    names = [as_plain_text(name, 10) for name in class_names or map(str, range(probabilities.shape[1]))]
    rows = math.ceil(len(worst) / columns)
    figure, grid = plain_axes(rows, columns, width=1.3 * columns, height=1.55 * rows + 0.4)
    _tiles(grid, [images[i] for i in worst], cmap="gray_r", vmin=0, vmax=255)
    for axes, i in zip(grid.flat, worst, strict=False):
        first, second = names[labels[i]], names[predicted[i]]
        axes.set_title(f"{first}, not {second}\n{given[i]:.1%} : {probabilities[i].max():.1%}", fontsize=7)
    figure.suptitle("Most wrong: class, what it was taken for, and the probabilities of both", fontsize=9)
    return figure


def first_layer_weights(weight: np.ndarray, count: int = 64) -> Figure:
    """Plots the weights of each unit of the first layer as an image, blue for positive and orange for negative.

    Args:
        weight: (height, width, channels, units), of a convolution or of a dense layer on whole images.
        count: the largest number of units to show.
    """
    from matplotlib.colors import LinearSegmentedColormap

    units = np.moveaxis(weight[..., :count], -1, 0).mean(axis=-1)
    columns = min(16, max(4, len(units)))
    rows = math.ceil(len(units) / columns)
    figure, grid = plain_axes(rows, columns, width=0.6 * columns + 0.2, height=0.6 * rows + 0.5)
    largest = float(np.quantile(np.abs(units), 0.995)) or 1.0
    colors = LinearSegmentedColormap.from_list("signs", np.array([ORANGE, WHITE, BLUE]) / 255)
    _tiles(grid, list(units), cmap=colors, vmin=-largest, vmax=largest)
    figure.suptitle(
        f"Weights of the first layer, blue above 0, orange below: {len(units)} of {weight.shape[-1]} units", fontsize=9
    )
    return figure


def weight_on_pixels(params: Params, image_shape: tuple[int, ...]) -> np.ndarray | None:
    """The first weight that is applied to the pixels, as (height, width, channels, units); None if there is none."""
    for leaf in trees.flatten(params).values():
        weight = np.asarray(leaf)
        if weight.ndim == 2 and weight.shape[0] == math.prod(image_shape):  # a dense layer on flattened images
            weight = weight.reshape(*image_shape, -1)
        if weight.ndim == 4 and weight.shape[2] == image_shape[-1]:
            return weight
    return None


def _tiles(grid: np.ndarray, images: list[np.ndarray], **style) -> None:
    axes: Axes
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image in zip(grid.flat, images, strict=False):
        # Channels that are no colors cannot be shown together, so the first one stands for them.
        has_colors = image.ndim == 3 and image.shape[-1] in (3, 4)
        pixels = image if has_colors or image.ndim == 2 else image[..., 0]
        axes.imshow(pixels, **({} if has_colors else style))


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
