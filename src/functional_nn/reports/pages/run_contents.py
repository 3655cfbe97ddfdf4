"""What the page of a run is made from, and what it says about the run's settings, its end and its time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from functional_nn.core import trees
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.texts import counted, words
from functional_nn.data.dataset import Dataset
from functional_nn.reports.pages.page import number
from functional_nn.storage import run_folder
from functional_nn.storage.files import JsonObject, JsonValue
from functional_nn.training.evaluate import default_metric
from functional_nn.training.precision import Precision

NOT_METRICS = ("epoch", "seconds", "skipped_steps", "clipped_steps", "rate_share", "learning_rate")
"""The numbers of an epoch that are not its metrics."""

NOT_SETTINGS = ("classes", "image_shape", "versions", "class_names", "from", "imported_from")
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


@dataclass(frozen=True)
class RunContents:
    """What is known about a run. Whatever is missing is left out of the page, and ``notes`` say why.

    Args:
        settings: its configuration, as in ``config.json``.
        history: the metrics of each epoch, as in ``metrics.jsonl``.
        result: the verified ``result.json``; None if the run has not finished.
        statistics: the rows of ``layer_statistics.jsonl``.
        params, state: those of the trained network; None if they are not known.
        params_epoch: the number of epochs that they were trained for.
        net: the network; None if the folder does not say which one it is.
        data: the data set; None if it could not be loaded.
        precision: that of the run.
        notes: sentences about what is missing.
    """

    settings: JsonObject
    history: Sequence[JsonObject]
    result: JsonObject | None = None
    statistics: Sequence[JsonObject] = ()
    params: Params | None = None
    state: State | None = None
    params_epoch: int = 0
    net: Layer | None = None
    data: Dataset | None = None
    precision: str | Precision = "float32"
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """Height, width and channels of an example, if they are known."""
        if self.data is not None:
            return self.data.train_images.shape[1:]
        shape = self.settings.get("image_shape")
        if shape is None and self.params is not None:
            return _square_image(self.params)
        return None if shape is None else tuple(shape)

    @property
    def class_names(self) -> list[str]:
        """The name of each class, or its number if it has no name."""
        names = self.settings.get("class_names")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
        classes = self.data.classes if self.data is not None else self.settings.get("classes", 0)
        return [str(number) for number in range(classes)]


def title(contents: RunContents) -> str:
    """The heading of the page: the model and the data."""
    settings = contents.settings
    sizes = "-".join(map(str, settings.get("hidden") or ()))
    model = " ".join(text for text in (str(settings.get("model", "A run of fit")), sizes) if text)
    return f"{model} on {settings['dataset']}" if settings.get("dataset") else model


def sentence(contents: RunContents) -> str:
    """The configuration and the outcome of the run in words."""
    settings, history = contents.settings, contents.history
    about = [str(settings[name]) for name in ("model", "dataset") if settings.get(name)]
    if settings.get("imported_from"):
        parts = [f"{' on '.join(about)} has imported parameters ({_origin(settings, 'imported_from', 'file')})."]
        return " ".join([*parts, *_outcome_in_words(contents)])
    parts = [f"{' on '.join(about)} was trained" if about else "A network was trained"]
    if settings.get("from"):
        parts.append(f"from the parameters of another run ({_origin(settings, 'from', 'run')})")
    if settings.get("optimizer"):
        schedule = settings.get("schedule", "constant")
        changing = "" if schedule == "constant" else f" ({schedule} schedule)"
        parts.append(f"with {settings['optimizer']}, learning rate {settings.get('learning_rate')}{changing},")
    if settings.get("batch_size"):
        parts.append(f"batch size {settings['batch_size']},")
    planned = settings.get("epochs")
    done = len(history)
    count = counted(done, "epoch")
    if planned is not None and planned != done:
        count = f"{done} of {counted(planned, 'epoch')}"
    parts.append(f"for {count}.")
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

    ``result.json`` has it. Runs of older versions have none there.
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
    shown = [(words, f"{seconds[name]:.2f} s") for name, words in TIMES.items() if name in seconds]
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


def _square_image(params: Params) -> tuple[int, ...] | None:
    """The shape of a square gray image, if the first weight of a network takes as many numbers as one has."""
    for leaf in trees.flatten(params).values():
        if np.ndim(leaf) == 4:
            return (*np.shape(leaf)[:2], np.shape(leaf)[2])
        if np.ndim(leaf) == 2:
            side = round(np.shape(leaf)[0] ** 0.5)
            return (side, side, 1) if side > 3 and side * side == np.shape(leaf)[0] else None
    return None
