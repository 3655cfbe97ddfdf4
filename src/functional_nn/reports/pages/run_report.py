"""The HTML page of a run; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import counted, words
from functional_nn.metrics import confusion_matrix
from functional_nn.reports.pages import run_contents
from functional_nn.reports.pages.drawing import drawing_panel
from functional_nn.reports.pages.page import as_svg, check_libraries, number, write_template
from functional_nn.reports.pages.pictures import MOST_UNITS, as_png, shown_pixels, weights_picture
from functional_nn.reports.pages.run_contents import RunContents, metrics_of
from functional_nn.reports.pages.run_findings import findings, layer_names
from functional_nn.reports.plots.run import PARTS, TEST, TRAIN, VALIDATION, metric_chart, small_curve, weight_on_pixels
from functional_nn.storage.files import JsonObject
from functional_nn.training.prediction import predict_probabilities

COLORS = {TRAIN: "var(--hand)", TEST: "var(--automatic)", VALIDATION: "var(--good)"}
"""The page's colors of the lines."""

MOST_CLASSES = 30
"""With more classes, a list of the most frequent errors takes the place of the confusion matrix."""

MOST_WRONG = 24
"""The number of examples among the most wrong ones that are shown."""

MOST_CONFUSIONS = 20
"""The length of the list of the most frequent errors."""

MOST_EPOCHS = 100
"""With more epochs, tables show this many of them, spread evenly."""


class Wrong(NamedTuple):
    """A test example that was taken for another class, for the page."""

    picture: str
    label: str
    answer: str
    of_label: str
    of_answer: str


class LayerRow(NamedTuple):
    """A layer's statistics after the last epoch, as texts and small lines."""

    name: str
    units: str
    dead: str
    zeros: str
    zeros_line: str
    spread: str
    gradient: str
    gradient_line: str


def write_page(path: str | Path, contents: RunContents) -> None:
    """Writes the page of a run as one self-contained HTML file.

    The same run gives the same bytes. Whatever is not known about the run is left out.

    Args:
        path: the file, in a folder that exists.
        contents: what is known about the run.

    Raises:
        InputError: if Jinja or matplotlib is missing, or the file cannot be written.
    """
    check_libraries(("jinja2", "matplotlib"))
    probabilities, reason = _probabilities(contents)
    rows = contents.statistics
    values = {
        "title": run_contents.title(contents),
        "sentence": run_contents.sentence(contents),
        "outcome": [(words(name), number(value)) for name, value in run_contents.outcome(contents).items()],
        "message": run_contents.message(contents),
        "notes": [*contents.notes, reason] if reason else contents.notes,
        "charts": _charts(contents.history),
        "metric_names": [words(name) for name in metrics_of(contents.history[-1])] if contents.history else [],
        "metric_rows": [
            (row["epoch"], [number(value) for value in metrics_of(row).values()]) for row in _some(contents.history)
        ],
        "epochs": len(contents.history),
        "confusion": _confusion(contents, probabilities),
        "wrong": _most_wrong(contents, probabilities),
        "weights": _weights(contents),
        "findings": findings(rows) if rows else [],
        "statistics": _statistics(rows),
        "layers": _layers(rows),
        "gradient_rows": _gradient_rows(rows),
        "drawing": _drawing(contents),
        "times": run_contents.times(contents),
        "environment": run_contents.environment(contents),
        "settings": run_contents.settings_table(contents.settings),
    }
    write_template("run_report.html", path, {}, values)


def _drawing(contents: RunContents) -> str:
    """The section of the page on which one draws a digit, as HTML; empty if the network is not known.

    If the page cannot compute this network, the section says why.
    """
    if contents.net is None or contents.params is None or contents.state is None or contents.image_shape is None:
        return ""
    try:
        return drawing_panel(contents.net, contents.params, contents.state, contents.image_shape, contents.class_names)
    except InputError as error:
        return f'<section><h2>Draw a digit</h2><p class="faint">{escape(str(error))}</p></section>'


def _probabilities(contents: RunContents) -> tuple[np.ndarray | None, str]:
    """The class probabilities of all test images, or None and the reason, if there is one that the page should give.

    There are none if the network, its parameters or the data are missing, or if an output is not finite: the largest
    probability would then be that of no class.
    """
    if contents.net is None or contents.params is None or contents.state is None or contents.data is None:
        return None, ""
    images = contents.data.test_images
    if not len(images):
        return None, ""
    found = predict_probabilities(contents.net, contents.params, contents.state, images, precision=contents.precision)
    bad = int(np.sum(~np.isfinite(found).all(axis=1)))
    if not bad:
        return found, ""
    reason = (
        f"The network's outputs are not finite for {bad} of {counted(len(images), 'test image')}, so these have no "
        "probabilities. The confusion matrix and the most wrong test images are left out."
    )
    return None, reason


def _charts(history: Sequence[JsonObject]) -> list[tuple[str, str]]:
    """A chart for each metric, with a line for each part of the data: the losses first. A changing rate is the last."""
    if not history:
        return []
    by_metric: dict[str, list[str]] = {}
    for name in metrics_of(history[-1]):
        part, _, metric = name.partition("_")
        by_metric.setdefault(metric if part in PARTS else name, []).append(name)
    if len({row.get("learning_rate") for row in history}) > 1:
        by_metric["learning_rate"] = ["learning_rate"]
    epochs = [row["epoch"] for row in history]
    charts = []
    for metric, names in by_metric.items():
        curves = {name: [math.nan if row.get(name) is None else row[name] for row in history] for name in names}
        ends = "; ".join(f"{words(name)} from {number(y[0])} to {number(y[-1])}" for name, y in curves.items())
        figure = metric_chart(epochs, curves, metric)
        charts.append((words(metric), as_svg(figure, metric, f"{words(metric)} by epoch: {ends}", COLORS)))
    return charts


def _small(values: Sequence[float | None], label: str, *, logarithmic: bool = False) -> str:
    """Numbers as a small line for a cell of a table; nothing if there are fewer than two."""
    figure = small_curve(values, logarithmic=logarithmic)
    return "" if figure is None else as_svg(figure, label, label, COLORS)


def _some(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """At most ``MOST_EPOCHS`` rows, spread evenly, the first and the last among them."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), MOST_EPOCHS)).astype(int)
    return [rows[place] for place in places]


def _confusion(contents: RunContents, probabilities: np.ndarray | None) -> dict[str, object] | None:
    """The confusion matrix, or the most frequent errors if there are many classes."""
    if probabilities is None or contents.data is None:
        return None
    matrix = np.asarray(confusion_matrix(probabilities, contents.data.test_labels), int)
    errors = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    largest = max(1, int(errors.max()))
    names = contents.class_names
    rows = []
    if len(matrix) <= MOST_CLASSES:
        for row, name in enumerate(names):
            # The share decides how strong the color of an error is.
            cells = [(int(count), round(100 * int(errors[row, at]) / largest)) for at, count in enumerate(matrix[row])]
            rows.append((name, cells))
    # The places are those of the flat matrix: row · classes + column.
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [divmod(int(place), len(matrix)) for place in order]
    frequent = [(names[row], names[at], int(errors[row, at])) for row, at in places if errors[row, at]]
    return {
        "names": names,
        "rows": rows,
        "frequent": frequent,
        "wrong": int(errors.sum()),
        "examples": int(matrix.sum()),
    }


def _most_wrong(contents: RunContents, probabilities: np.ndarray | None) -> list[Wrong]:
    """The misclassified test images with the least probability of their label, the worst first."""
    if probabilities is None or contents.data is None:
        return []
    labels, names = contents.data.test_labels, contents.class_names
    of_label = probabilities[np.arange(len(labels)), labels]
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(of_label[wrong], kind="stable")][:MOST_WRONG]
    return [
        Wrong(
            as_png(shown_pixels(contents.data.test_images[place])),
            names[labels[place]],
            names[answers[place]],
            _percent(float(of_label[place])),
            _percent(float(probabilities[place, answers[place]])),
        )
        for place in worst
    ]


def _percent(share: float) -> str:
    """A probability as people read it.

    >>> _percent(0.1234), _percent(1e-6)
    ('12.3%', 'less than 0.1%')
    """
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _weights(contents: RunContents) -> dict[str, object] | None:
    """The picture of the weights of the first layer, if it is applied to the pixels of an image."""
    if contents.params is None or contents.image_shape is None:
        return None
    weight = weight_on_pixels(contents.params, contents.image_shape)
    if weight is None:
        return None
    picture = weights_picture(weight)
    return {
        "picture": as_png(picture),
        "width": max(3 * picture.shape[1], 600),
        "shown": min(weight.shape[-1], MOST_UNITS),
        "units": weight.shape[-1],
    }


def _statistics(rows: Sequence[JsonObject]) -> dict[str, object] | None:
    """Which epochs the statistics of layers are from."""
    if not rows:
        return None
    epochs = [row["epoch"] for row in rows]
    return {
        "examples": counted(int(rows[-1]["examples"]), "training image"),
        "last": epochs[-1],
        "count": len(epochs),
        "from_run": len(epochs) > 1,
    }


def _layers(rows: Sequence[JsonObject]) -> list[LayerRow]:
    """A row of the table for each layer."""
    if not rows:
        return []
    last = rows[-1]
    table = []
    for name in layer_names(rows):
        output, gradient = last["outputs"].get(name, {}), last["gradients"].get(name, {})
        zeros = [row["outputs"].get(name, {}).get("zeros") for row in rows]
        of_gradient = [row["gradients"].get(name, {}).get("gradient") for row in rows]
        share = output.get("zeros")
        table.append(
            LayerRow(
                name,
                str(int(output["units"])) if output else "",
                str(int(output["dead"])) if output else "",
                f"{share:.1%}" if share is not None else "",
                _small(zeros, f"share of zeros of {name} by epoch, from {number(zeros[0])} to {number(zeros[-1])}"),
                f"{number(output.get('mean'), 3)} ± {number(output.get('deviation'), 3)}" if output else "",
                number(gradient.get("gradient"), 3) if gradient else "",
                _small(
                    of_gradient,
                    f"gradient of {name} by epoch, from {number(of_gradient[0])} to {number(of_gradient[-1])}",
                    logarithmic=True,
                ),
            )
        )
    return table


def _gradient_rows(rows: Sequence[JsonObject]) -> dict[str, object] | None:
    """The gradient of every layer after every epoch."""
    if len(rows) < 2:
        return None
    layers = list(rows[-1]["gradients"])
    body = []
    for row in _some(rows):
        of_layers = [row["gradients"].get(layer, {}).get("gradient") for layer in layers]
        body.append((row["epoch"], [number(value, 3) for value in of_layers]))
    return {"layers": layers, "rows": body}
