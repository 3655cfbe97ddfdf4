"""The HTML page of a run: its charts, tables and sentences; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import counted, words
from functional_nn.data.sources import are_digits
from functional_nn.metrics import confusion_matrix
from functional_nn.names import ACTIVATIONS
from functional_nn.reports.drawing import drawing_panel, panel_data
from functional_nn.reports.page import as_png, as_svg, number, shown_pixels, write_template
from functional_nn.reports.plots.run import PARTS, TEST, TRAIN, VALIDATION, metric_chart, small_curve
from functional_nn.reports.run_contents import RunContents
from functional_nn.storage import run_folder
from functional_nn.storage.files import JsonObject, JsonValue
from functional_nn.training.evaluate import default_metric, predict_probabilities

COLORS = {TRAIN: "var(--hand)", TEST: "var(--automatic)", VALIDATION: "var(--good)"}
"""The page's colors of the lines."""

MOST_CLASSES = 30
"""With more classes, a list of the most frequent errors takes the place of the confusion matrix."""

MOST_WRONG = 24
"""The number of examples among the most wrong ones that are shown."""

MOST_FEATURES = 10
"""The number of columns of a table that are shown of a wrong row."""

MOST_CONFUSIONS = 20
"""The length of the list of the most frequent errors."""


MOST_CHARTS = 40
"""The largest number of charts."""


def write_page(path: str | Path, contents: RunContents) -> None:
    """Writes the page of a run as one self-contained HTML file.

    The same run gives the same bytes. Whatever is not known about the run is left out.

    Args:
        path: the file, in a folder that exists.
        contents: what is known about the run.

    Raises:
        InputError: if the file cannot be written.
    """
    probabilities, reason = _probabilities(contents)
    charts, left_out = _charts(contents.history)
    rows = contents.statistics
    values = {
        "title": title(contents),
        "sentence": sentence(contents),
        "outcome": [(words(name), number(value)) for name, value in outcome(contents).items()],
        "message": message(contents),
        "notes": [*contents.notes, *filter(None, (reason, left_out))],
        "charts": charts,
        "confusion": _confusion(contents, probabilities),
        "wrong": _most_wrong(contents, probabilities),
        "columns": _columns(contents),
        "findings": findings(rows) if rows else [],
        "statistics": _statistics(rows),
        "layers": _layers(rows),
        "drawing": _drawing(contents),
        "times": times(contents),
        "environment": environment(contents),
        "settings": settings_table(contents.settings),
    }
    write_template("run_report.html", path, {}, values)


def _drawing(contents: RunContents) -> str:
    """The section of the page on which one draws a digit, as HTML; empty for a table, and without parameters.

    If the page cannot compute this network, the section says why.
    """
    shape = contents.image_shape
    if contents.params is None or contents.state is None or shape is None:
        return ""
    network = contents.net, contents.params, contents.state
    try:
        digits = are_digits(contents.settings["dataset"])
        return drawing_panel(panel_data(*network, shape, contents.class_names, contents.data, digits=digits))
    except InputError as error:
        return f'<section><h2>Draw</h2><p class="faint">{escape(str(error))}</p></section>'


def _probabilities(contents: RunContents) -> tuple[np.ndarray | None, str]:
    """The class probabilities of all test examples, or None and the reason, if there is one that the page should give.

    There are none if the parameters or the data are missing, or if an output is not finite: the largest probability
    would then be that of no class.
    """
    if contents.params is None or contents.state is None or contents.data is None:
        return None, ""
    images = contents.data.test_images
    precision = contents.settings["precision"]
    with jax.enable_x64(precision == "float64"):
        found = predict_probabilities(contents.net, contents.params, contents.state, images, precision=precision)
    bad = int(np.sum(~np.isfinite(found).all(axis=1)))
    if not bad:
        return found, ""
    reason = (
        f"The network's outputs are not finite for {bad} of {counted(len(images), 'test example')}, so these have no "
        "probabilities. The confusion matrix and the most wrong test examples are left out."
    )
    return None, reason


def _charts(history: Sequence[JsonObject]) -> tuple[list[tuple[str, str]], str]:
    """A chart for each metric, with a line for each part of the data: the losses first. A changing rate is the last.

    The second is a sentence about the metrics that are left out, or empty.
    """
    if not history:
        return [], ""
    by_metric: dict[str, list[str]] = {}
    for name in metrics_of(history[-1]):
        part, _, metric = name.partition("_")
        by_metric.setdefault(metric if part in PARTS else name, []).append(name)
    if len({row.get("learning_rate") for row in history}) > 1:
        by_metric["learning_rate"] = ["learning_rate"]
    epochs = [row["epoch"] for row in history]
    charts = []
    for metric, names in list(by_metric.items())[:MOST_CHARTS]:
        curves = {name: [math.nan if row.get(name) is None else row[name] for row in history] for name in names}
        ends = "; ".join(f"{words(name)} from {number(y[0])} to {number(y[-1])}" for name, y in curves.items())
        figure = metric_chart(epochs, curves, metric)
        charts.append((words(metric), as_svg(figure, metric, f"{words(metric)} by epoch: {ends}", COLORS)))
    left_out = len(by_metric) - len(charts)
    return charts, f"Of {len(by_metric)} charts, the first {len(charts)} are shown." if left_out else ""


def _small(values: Sequence[float | None], label: str, *, logarithmic: bool = False) -> str:
    """Numbers as a small line for a cell of a table; nothing if there are fewer than two."""
    figure = small_curve(values, logarithmic=logarithmic)
    return "" if figure is None else as_svg(figure, label, label, COLORS)


def _confusion(contents: RunContents, probabilities: np.ndarray | None) -> dict[str, object] | None:
    """The confusion matrix, or the most frequent errors if there are many classes."""
    if probabilities is None or contents.data is None:
        return None
    names, labels = contents.class_names, contents.data.test_labels.astype(int)
    answers = probabilities.argmax(axis=1)
    wrong = answers != labels
    # Only pairs that occur are counted, since there may be very many classes.
    pairs, counts = np.unique(labels[wrong] * len(names) + answers[wrong], return_counts=True)
    rows = []
    if len(names) <= MOST_CLASSES:
        matrix = np.asarray(confusion_matrix(probabilities, labels), int)
        errors = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
        largest = max(1, int(errors.max()))
        for row, name in enumerate(names):
            # The share decides how strong the color of an error is.
            cells = [(int(count), round(100 * int(errors[row, at]) / largest)) for at, count in enumerate(matrix[row])]
            rows.append((name, cells))
    order = np.argsort(-counts, kind="stable")[:MOST_CONFUSIONS]
    frequent = [(names[pairs[at] // len(names)], names[pairs[at] % len(names)], int(counts[at])) for at in order]
    return {
        "names": names,
        "rows": rows,
        "frequent": frequent,
        "wrong": int(wrong.sum()),
        "examples": len(labels),
    }


def _most_wrong(contents: RunContents, probabilities: np.ndarray | None) -> list[dict[str, object]]:
    """The misclassified test examples with the least probability of their label, the worst first."""
    if probabilities is None or contents.data is None:
        return []
    x, labels = contents.data.test_images, contents.data.test_labels
    names, features = contents.class_names, contents.data.features
    of_label = probabilities[np.arange(len(labels)), labels]
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    shown: list[dict[str, object]] = []
    for place in wrong[np.argsort(of_label[wrong], kind="stable")][:MOST_WRONG]:
        texts = {
            "label": names[labels[place]],
            "of_label": _percent(float(of_label[place])),
            "answer": names[answers[place]],
            "of_answer": _percent(float(probabilities[place, answers[place]])),
        }
        if features is None:
            shown.append({**texts, "picture": as_png(shown_pixels(x[place]))})
        else:
            (numbers,) = features.in_units(x[[place]])[:, :MOST_FEATURES]
            shown.append({"cells": [*texts.values(), *map(number, numbers)]})
    return shown


def _columns(contents: RunContents) -> list[str]:
    """The heads of the table of wrong rows; empty for images, which are shown as pictures."""
    if contents.data is None or contents.data.features is None:
        return []
    return ["class", "probability", "taken for", "its probability", *contents.data.features.names[:MOST_FEATURES]]


def _percent(share: float) -> str:
    """A probability as people read it.

    >>> _percent(0.1234), _percent(1e-6)
    ('12.3%', 'less than 0.1%')
    """
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _statistics(rows: Sequence[JsonObject]) -> dict[str, object] | None:
    """Which epochs the statistics of layers are from."""
    if not rows:
        return None
    epochs = [row["epoch"] for row in rows]
    return {
        "examples": counted(int(rows[-1]["examples"]), "training example"),
        "last": epochs[-1],
        "count": len(epochs),
        "from_run": len(epochs) > 1,
    }


def _layers(rows: Sequence[JsonObject]) -> list[dict[str, str]]:
    """A row of the table for each layer: its statistics after the last epoch, as texts and small lines."""
    table = []
    for name in layer_names(rows) if rows else ():
        output, gradient = rows[-1]["outputs"].get(name, {}), rows[-1]["gradients"].get(name, {})
        zeros = [row["outputs"].get(name, {}).get("zeros") for row in rows]
        of_gradient = [row["gradients"].get(name, {}).get("gradient") for row in rows]
        of_zeros = f"share of zeros of {name} by epoch, from {number(zeros[0])} to {number(zeros[-1])}"
        of_line = f"gradient of {name} by epoch, from {number(of_gradient[0])} to {number(of_gradient[-1])}"
        share = output.get("zeros")
        table.append(
            {
                "name": name,
                "units": str(int(output["units"])) if output else "",
                "dead": str(int(output["dead"])) if output else "",
                "zeros": f"{share:.1%}" if share is not None else "",
                "zeros_line": _small(zeros, of_zeros),
                "spread": f"{number(output.get('mean'), 3)} ± {number(output.get('deviation'), 3)}" if output else "",
                "gradient": number(gradient.get("gradient"), 3) if gradient else "",
                "gradient_line": _small(of_gradient, of_line, logarithmic=True),
            }
        )
    return table


NOT_METRICS = ("epoch", "seconds", "skipped_steps", "clipped_steps", "learning_rate")
"""The numbers of an epoch that are not its metrics."""

NOT_SETTINGS = ("classes", "image_shape", "features", "versions", "class_names", "data_sha256", "from", "imported_from")
"""The entries of a configuration that are shown elsewhere."""

OF_THE_NETWORK = ("dataset", "model", "hidden", "activation", "dropout", "batch_norm", "precision")
"""The settings that are shown if the parameters were imported, so that the others had no effect."""

TIMES = {
    "compile": "compile",
    "train": "train",
    "statistics": "statistics of layers, for this page",
    "total": "total",
}
"""The times of a run, and their names on the page."""

OFF_AT_ZERO = ("dropout", "l1", "l2", "shift", "deform", "validation", "weight_decay")
"""The settings that change nothing if they are 0."""

ENDINGS = {
    "finished": "It finished.",
    "stopped early": "It stopped early, because the loss was not lower for some epochs.",
    "stopped": "A callback stopped it.",
    "non-finite": "It ended because a loss or an update was not finite; the last finite state is kept.",
    "interrupted": "It was interrupted; the finished epochs are kept.",
}


def title(contents: RunContents) -> str:
    """The heading of the page: the model and the data."""
    settings = contents.settings
    sizes = "-".join(map(str, settings["hidden"] or ()))
    return f"{settings['model']} {sizes} on {settings['dataset']}".replace("  ", " ")


def sentence(contents: RunContents) -> str:
    """The configuration and the outcome of the run in words."""
    settings, done = contents.settings, len(contents.history)
    about = f"{settings['model']} on {settings['dataset']}"
    if settings.get("imported_from"):
        parts = [f"{about} has imported parameters ({_origin(settings, 'imported_from', 'file')})."]
        return " ".join([*parts, *_outcome_in_words(contents)])
    parts = [f"{about} was trained"]
    if settings.get("from"):
        parts.append(f"from the parameters of another run ({_origin(settings, 'from', 'run')})")
    changing = "" if settings["schedule"] == "constant" else f" ({settings['schedule']} schedule)"
    parts.append(f"with {settings['optimizer']}, learning rate {settings['learning_rate']}{changing},")
    started = "" if settings["epochs"] == done else f"{done} of "
    parts.append(f"batch size {settings['batch_size']}, for {started}{counted(settings['epochs'], 'epoch')}.")
    status = "" if contents.result is None else str(contents.result.get("status", ""))
    parts.append(ENDINGS.get(status, "It has not finished, or it was killed." if contents.result is None else ""))
    if kept_epoch(contents) != done:
        parts.append(f"The parameters are those of epoch {kept_epoch(contents)}, the best one.")
    return " ".join(part for part in (*parts, *_outcome_in_words(contents)) if part)


def _outcome_in_words(contents: RunContents) -> list[str]:
    """The metrics at the end of the run as a sentence; an empty list if there are none."""
    text = "; ".join(f"{words(name)} {number(value)}" for name, value in outcome(contents).items())
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _origin(settings: JsonObject, name: str, entry: str) -> str:
    """The name of the file or run that the parameters came from."""
    origin = settings.get(name)
    return str(origin.get(entry)) if isinstance(origin, dict) else "unknown"


def message(contents: RunContents) -> str:
    """Why the run ended before its last epoch, such as where the first NaN comes from; empty if ``sentence`` says it.

    ``result.json`` has it.
    """
    result = contents.result or {}
    return "" if result.get("status") == "interrupted" else str(result.get("message") or "")


def outcome(contents: RunContents) -> dict[str, float | None]:
    """The metrics of the epoch whose parameters were kept, the one that counts first."""
    last = metrics_of(contents.history[kept_epoch(contents) - 1]) if contents.history else {}
    if contents.result is not None:
        last |= {name: contents.result[name] for name in contents.result if name.startswith("test_")}
    known = {name: value for name, value in last.items() if value is not None}
    if not known:
        return {}
    first = default_metric([name for name in known if name.startswith("test_")] or list(known))
    part = f"{first.partition('_')[0]}_"
    ordered = sorted(
        known,
        key=lambda name: (not name.startswith(part), name.startswith("train_"), name.endswith("_loss"), name),
    )
    return {name: known[name] for name in ordered}


def kept_epoch(contents: RunContents) -> int:
    """The number of the epoch whose parameters were kept: the last one, unless the result names the best one."""
    return run_folder.kept_epoch(contents.result or {}, len(contents.history))


def metrics_of(row: JsonObject) -> dict[str, float | None]:
    """The metrics in a row of ``metrics.jsonl``."""
    return {name: value for name, value in row.items() if name not in NOT_METRICS}


def settings_table(settings: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """The settings of a run as texts by name, without those that are off."""
    shown = []
    for name, value in settings.items():
        if settings.get("imported_from") and name not in OF_THE_NETWORK:
            continue
        if name in NOT_SETTINGS or value is None or value is False or (name in OFF_AT_ZERO and value == 0):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        shown.append((words(name), text))
    return shown


def times(contents: RunContents) -> list[tuple[str, str]]:
    """The times that the run recorded, as texts by name."""
    result = contents.result or {}
    seconds = result.get("seconds") or {}
    # A run that was resumed has recorded the times of its last part.
    since = f", since it was resumed after epoch {result['restored_epochs']}" if result.get("restored_epochs") else ""
    shown = [(f"{words}{since}", f"{seconds[name]:.2f} s") for name, words in TIMES.items() if name in seconds]
    each = [row["seconds"] for row in contents.history if row.get("seconds") is not None]
    # The first epoch includes work that is done only once.
    if each:
        shown.append(("an epoch (median)", f"{number(statistics.median(each[1:] or each), 3)} s"))
    return shown


def environment(contents: RunContents) -> list[tuple[str, str]]:
    """The device and the versions that the run was made with, as texts by name."""
    result = contents.result or {}
    versions = result.get("versions") or contents.settings.get("versions") or {}
    device = [("device", str(result["device"]))] if result.get("device") else []
    return [*device, *((str(name), str(version)) for name, version in versions.items())]


VANISHED = 1e-3
"""A gradient has vanished if it is less than this share of the last layer's gradient."""

EXPLODED = 1e3
"""A gradient has exploded if it is more than this many times the last layer's gradient."""

SATURATED = 0.5
"""Saturation is named if more than this share of a layer's outputs is near a limit."""

MOST_ROWS = 40
"""The largest number of layers in the page's table."""

Numbers: TypeAlias = Mapping[str, Mapping[str, float]]


def findings(rows: Sequence[JsonObject]) -> list[str]:
    """Sentences about what may be wrong in a network after the last epoch.

    Args:
        rows: the rows of ``layer_statistics.jsonl``.

    Returns:
        The sentences; none if nothing is wrong.

    >>> outputs = {"dense_0": {"units": 64, "dead": 0}, "relu_0": {"units": 64, "dead": 12}}
    >>> gradients = {"dense_0": {"gradient": 1e-7}, "dense_1": {"gradient": 0.1}}
    >>> for sentence in findings([{"epoch": 1, "examples": 256, "outputs": outputs, "gradients": gradients}]):
    ...     print(sentence.partition(".")[0])
    Layer dense_0: 12 of 64 units are 0 after relu_0 for all of 256 training examples
    The gradient of dense_0 is 1e−6 of that of dense_1, the last layer
    """
    last = rows[-1]
    return [
        *_of_outputs(last["outputs"], last["gradients"], int(last["examples"])),
        *_of_gradients({layer: of_layer.get("gradient") for layer, of_layer in last["gradients"].items()}),
    ]


def _of_outputs(outputs: Numbers, gradients: Numbers, examples: int) -> list[str]:
    sentences = []
    weighted, any_dead = "", False
    paths = sorted(gradients)
    for layer, of_layer in outputs.items():
        # An activation has no weights: the layer with weights before it is the one whose units it shows.
        below = bisect_left(paths, f"{layer}/")
        if layer in gradients or (below < len(paths) and paths[below].startswith(f"{layer}/")):
            weighted = layer
        kind = layer.rpartition("/")[2].rpartition("_")[0]
        # Only activations are looked at. A pooled or flattened image has pixels that are 0 for all examples, too.
        if kind not in ACTIVATIONS:
            continue
        dead, units = of_layer.get("dead", 0), of_layer.get("units", 0)
        if dead:
            which = "all units" if dead == units else f"{int(dead)} of {counted(int(units), 'unit')}"
            verb = "is" if dead == 1 and dead != units else "are"
            place = f"Layer {weighted}: {which} {verb} 0 after {layer}" if weighted else f"{layer}: {which} {verb} 0"
            # What it means is said once.
            meaning = "" if any_dead else " Such a unit is dead: it changes no answer, and its weights get no gradient."
            sentences.append(f"{place} for all of {counted(examples, 'training example')}.{meaning}")
            any_dead = True
        share = of_layer.get("saturated") or 0
        if share > SATURATED:
            sentences.append(
                f"Layer {layer} is saturated: {share:.0%} of its outputs are within 1% of a limit, where the "
                "derivative is almost 0."
            )
    return sentences


def _of_gradients(gradients: Mapping[str, float]) -> list[str]:
    if not gradients:
        return []
    *others, last = gradients
    if any(value is None or not math.isfinite(value) for value in gradients.values()):
        names = [layer for layer, value in gradients.items() if value is None or not math.isfinite(value)]
        return [f"The gradient of {', '.join(names)} is not finite."]
    if gradients[last] == 0:
        return [f"The gradient of {last}, the last layer, is 0 for these images."]
    sentences = []
    for layer in others:
        ratio = gradients[layer] / gradients[last]
        if ratio == 0:
            sentences.append(f"The gradient of {layer} is 0, so {layer} does not learn.")
        elif ratio < VANISHED:
            sentences.append(
                f"The gradient of {layer} is {number(ratio, 1)} of that of {last}, the last layer. It vanishes on its "
                f"way back through the network, so {layer} learns slowly, unless the optimizer rescales gradients as "
                "adam does."
            )
        elif ratio > EXPLODED:
            sentences.append(
                f"The gradient of {layer} is {number(ratio, 1)} times that of {last}, the last layer. It explodes on "
                "its way back through the network. Clipping (--clip-norm) or normalization helps."
            )
    return sentences


def layer_names(rows: Sequence[JsonObject]) -> list[str]:
    """The layers in the order of the network, each before the layers inside it that have weights only."""
    last = rows[-1]
    names = list(last["outputs"])[:MOST_ROWS]
    for path in last["gradients"]:
        if path not in names:
            inside = [place for place, name in enumerate(names) if path.startswith(f"{name}/")]
            names.insert(inside[-1] + 1 if inside else len(names), path)
            del names[MOST_ROWS:]
    return names
