"""A run on disk: its configuration, metrics, parameters and pictures."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError
from functional_nn.core.layer import Layer
from functional_nn.data.dataset import Dataset
from functional_nn.metrics import confusion_matrix
from functional_nn.storage.checkpoint_folder import steps
from functional_nn.storage.files import (
    check_new_folder,
    finite_json,
    read_signed,
    remove_leftovers,
    signed_text,
    write_whole,
)
from functional_nn.storage.identity import check_kind
from functional_nn.storage.parameters import save_parameters
from functional_nn.training.prediction import predict_probabilities
from functional_nn.training.run import EpochMetrics, Run

CONFIGURATION, METRICS, PARAMETERS, RESULT = "config.json", "metrics.jsonl", "parameters.safetensors", "result.json"
CHECKPOINTS = "checkpoints"
TIED = (CONFIGURATION, METRICS, PARAMETERS)
"""The files whose checksums stand in the result."""


def check_run_folder(folder: Path, resume: bool = False) -> None:
    """Makes the folder, empty, for a run that may yet fail before it has anything to write.

    Raises:
        InputError: where it holds a run already, which would be lost, or cannot be written to; where a run is to be
            resumed that has no checkpoints.
    """
    check_new_folder("--out", folder)
    check_kind("--out", folder, "a run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError("--out", "a folder that can be written to", f"{folder} ({error.strerror})") from None
    has_checkpoints = bool(steps(folder / CHECKPOINTS))
    has_run = has_checkpoints or (folder / CONFIGURATION).exists()
    if has_run and not resume:
        remedy = "Name another folder." + (" With --resume the run in it goes on." if has_checkpoints else "")
        raise InputError("--out", "a folder without a run in it", f"{folder}, which has one", remedy)
    if has_run and not has_checkpoints:
        given = f"{folder}, whose run has none"
        raise InputError("--resume", "a run with checkpoints, or a new folder", given, "Name another folder.")


def create_run_folder(folder: Path, configuration: dict[str, Any]) -> None:
    """Writes the configuration, which makes the folder a run's, and begins its metrics.

    Its checkpoints' writer has locked them, so what is half written here is an earlier process's, which was killed.
    """
    remove_leftovers(folder)
    write_json(folder / CONFIGURATION, configuration)
    write_whole(folder / METRICS, "")


def read_configuration(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        DataError: where there is none, or not a readable one.
    """
    path = folder / CONFIGURATION
    remedy = "Give a folder that 'functional-nn train --out' wrote."
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(str(path), "a run's configuration", error.strerror, remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), "a run's configuration as JSON", error, remedy) from None
    if not isinstance(configuration, dict):
        raise DataError(str(path), "a JSON object", type(configuration).__name__, remedy)
    return configuration


def append_metrics(folder: Path, metrics: EpochMetrics) -> None:
    """Adds an epoch's line to the metrics."""
    with open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(_metrics_line(metrics))


def finish_run_folder(folder: Path, net: Layer, run: Run, data: Dataset, result: dict[str, Any]) -> list[str]:
    """Writes metrics, parameters, result, and the pictures if matplotlib is there; gives the pictures' names.

    The result has the checksums of the files before it, so that they are known to belong together.
    """
    write_whole(folder / METRICS, "".join(_metrics_line(metrics) for metrics in run.history))
    save_parameters(folder / PARAMETERS, run.params, run.state)
    checksums = {name: _sha256(folder / name) for name in TIED if (folder / name).exists()}
    write_whole(folder / RESULT, signed_text({**result, "files": checksums}))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return []
    return _draw(folder, net, run, data)


def check_files(folder: Path) -> None:
    """Requires the configuration, the metrics and the parameters of a run to be those that it wrote together.

    Raises:
        DataError: where one was changed, or the run has not come to its end; it names the file.
    """
    path = folder / RESULT
    try:
        checksums = read_signed(path.read_bytes()).get("files")
    except OSError as error:
        remedy = "Let the run come to its end: functional-nn train … --resume."
        raise DataError(str(path), "the result of a run", error.strerror, remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), "the result that the run wrote", f"a changed file ({error})") from None
    for name in TIED:
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise DataError(str(folder / name), "a file of the run", error.strerror) from None
        if found != expected:
            remedy = "Train again, or take the file from a copy. If the run was interrupted, let it come to its end."
            raise DataError(str(folder / name), "the file that belongs to result.json", "another one", remedy)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; what is not finite becomes null."""
    write_whole(path, json.dumps(finite_json(value), indent=2) + "\n")


def _draw(folder: Path, net: Layer, run: Run, data: Dataset) -> list[str]:
    from functional_nn.reports.plots import run as plots

    x = data.test_images.reshape(len(data.test_images), *run.in_shape)
    given = predict_probabilities(net, run.params, run.state, x, precision=run.precision)
    matrix = confusion_matrix(np.nan_to_num(given), data.test_labels)
    figures = {
        "confusion.png": plots.confusion(np.asarray(matrix, int)),
        "most_wrong.png": plots.most_wrong(data.test_images, data.test_labels, given),
    }
    if run.history:
        figures["learning_curves.png"] = plots.learning_curves(run.history, data.name)
    image_shape = data.test_images.shape[1:]
    for weight in map(np.asarray, trees.flatten(run.params).values()):
        if weight.ndim == 2 and weight.shape[0] == math.prod(image_shape):
            weight = weight.reshape(*image_shape, -1)
        if weight.ndim == 4 and weight.shape[2] == image_shape[-1]:
            figures["first_layer_weights.png"] = plots.first_layer_weights(weight)
            break
    for name, figure in figures.items():
        plots.write_picture(folder / name, figure)
    return sorted(figures)


def _metrics_line(metrics: EpochMetrics) -> str:
    return json.dumps(finite_json(metrics._asdict())) + "\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
