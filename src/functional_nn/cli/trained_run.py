"""The folder of a run: statistics while it trains, its best epoch, its test metrics, and its contents for a page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import click
import jax

from functional_nn.configuration.settings import Configuration
from functional_nn.core.errors import DataError, InputError
from functional_nn.core.layer import Params, State
from functional_nn.core.texts import counted
from functional_nn.data.dataset import Dataset
from functional_nn.data.image_folder import PREFIX
from functional_nn.data.sources import EMBEDDED
from functional_nn.exchange.hub import class_names_of, image_shapes, network_of_run
from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
from functional_nn.reports.run_report import RunContents
from functional_nn.storage import checkpoints, run_folder
from functional_nn.storage.arrays import LARGEST_HEADER, load_parameters
from functional_nn.storage.checkpoints import restore_checkpoint
from functional_nn.storage.files import JsonObject, check_no_link, finite_json, kept_open
from functional_nn.training.checkpointing import saved_history
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.devices import bytes_of
from functional_nn.training.evaluate import (
    as_numbers,
    evaluated_metrics,
    evaluation_of_totals,
    number_of_labels,
    totals_of_examples,
)
from functional_nn.training.layer_statistics import StatisticsRecorder
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import Recipe
from functional_nn.training.run import Run
from functional_nn.training.state import TrainState

MOST_COPIES = 8
"""A checkpoint is read only if it is at most this many times as large as the network: parameters, and the numbers that
optimizers keep, at most three for each parameter."""


def at_best_epoch(run: Run, folder: Path, recipe: Recipe, data: Dataset) -> tuple[Run, int]:
    """The run with the parameters and the test metrics of its best epoch, and the number of this epoch.

    It is the epoch with the lowest loss on validation examples, or else on test examples, of those that were saved. If
    no epoch has a finite loss, it is the last one, and a message says so.

    Args:
        run: what ``fit`` returned, with at least one epoch.
        folder: the folder of its checkpoints.
        recipe: what was trained.
        data: what it was trained on.

    Raises:
        DataError: if the checkpoint is damaged.
    """
    losses = [epoch.deciding_loss for epoch in run.history]
    if not any(map(math.isfinite, losses)):
        click.echo("No epoch has a finite loss, so --keep-best keeps the last one.", err=True)
        return run, len(losses)
    best = restore_checkpoint(folder, run.train_state, step="best", part="train_state")
    lowest = min(filter(math.isfinite, losses))
    if losses[best.step - 1] > lowest:
        # An earlier part of the run was without --keep-best, and saved after some minutes only.
        unsaved = losses.index(lowest) + 1
        click.echo(f"Epoch {unsaved} was better than epoch {best.step}, but it was not saved.", err=True)
    if best.step == len(losses):
        return run, best.step
    found = {name: value for name, value in run.history[best.step - 1].metrics.items() if name.startswith("test_")}
    # With validation examples, the test examples are evaluated once, and only if the run was not interrupted.
    if not found and run.test_metrics:
        found = test_metrics(recipe, best.tree, data, run.precision)
    return replace(run, train_state=best.tree, test_metrics=found), best.step


def test_metrics(
    recipe: Recipe, train_state: TrainState, data: Dataset, precision: str | Precision
) -> dict[str, float]:
    """The loss and the metrics of a network on the test examples."""
    split = data_for_network(recipe.net, recipe.loss, data)
    policy = as_precision(precision)

    @jax.jit
    def evaluate(*arguments):
        return evaluation_of_totals(recipe, totals_of_examples(recipe, policy, *arguments))

    evaluation = evaluate(train_state, split.test_x, split.test_labels)
    return as_numbers(evaluated_metrics("test", evaluation), number_of_labels(split.test_labels))[0]


def statistics_recorder(
    folder: Path, recipe: Recipe, precision: str, data: Dataset, restored_epochs: int
) -> StatisticsRecorder:
    """The writer of the statistics of layers after each epoch of a run; see ``training.layer_statistics``."""
    images, labels = data.train_images, data.train_labels
    return StatisticsRecorder(
        folder, with_hand_vjp(recipe.net), recipe.loss, precision, images, labels, restored_epochs
    )


def read_run(folder: Path, data: Dataset | None = None, *, data_dir: str | None = None) -> RunContents:
    """What is known about the run in a folder.

    Args:
        folder: what ``train --out`` wrote. The run may have been interrupted, and may be going on.
        data: the data of the run; None to load them.
        data_dir: the folder of the data, which the user has named. Without it, only the digits in the package are
            loaded: a folder that came from a stranger must not choose which files are opened, or whose pictures the
            page shows.

    Raises:
        DataError: if the configuration or the metrics are damaged.
    """
    values = run_folder.read_configuration(folder)
    path = folder / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(dict(values), path)
    classes, image_shape = image_shapes(values, path)
    class_names_of(values, classes, path)
    notes: list[str] = []
    net, shapes = network_of_run(configuration, classes, image_shape, path)
    result: JsonObject | None = None
    if (folder / run_folder.RESULT).exists():
        try:
            run_folder.verify_run_folder(folder, bytes_of(shapes))
            result = run_folder.read_result(folder)
        except DataError as error:
            notes.append(f"The result is left out, because the run goes on or a file was changed. {error}")
    read = _finished(folder, shapes, result, notes) if result is not None else _unfinished(folder, shapes, notes)
    history, params, state, epoch = read
    if data is None:
        data = _data(configuration, data_dir, classes, image_shape, notes)
    statistics = run_folder.read_layer_statistics(folder)
    return RunContents(
        values,
        history,
        result,
        [row for row in statistics if row["epoch"] <= len(history)],
        params,
        state,
        epoch,
        net,
        data,
        configuration.precision,
        notes,
    )


def _finished(
    folder: Path, shapes: tuple[Params, State], result: JsonObject, notes: list[str]
) -> tuple[list[JsonObject], Params | None, State | None, int]:
    """The history of a finished run, its parameters and state, and the number of epochs that they were trained for.

    Args:
        folder: the folder, whose files are verified.
        shapes: those of the network's parameters and state.
        result: the result of the run.
        notes: sentences about what is missing are added here.
    """
    history = run_folder.read_metrics(folder)
    try:
        params, state = load_parameters(folder / run_folder.PARAMETERS, shapes)
    except DataError as error:
        notes.append(f"The parameters could not be read, so everything that needs them is left out. {error}")
        return history, None, None, 0
    return history, params, state, run_folder.kept_epoch(result, len(history))


def _unfinished(
    folder: Path, shapes: tuple[Params, State], notes: list[str]
) -> tuple[list[JsonObject], Params | None, State | None, int]:
    """The same for a run that has not ended, from its newest checkpoint. Unlike its metrics, it has checksums."""
    try:
        check_no_link(str(folder), folder / run_folder.CHECKPOINTS)
        most_bytes = MOST_COPIES * bytes_of(shapes) + LARGEST_HEADER
        with kept_open(folder):  # so that no link is followed in it
            found = checkpoints.newest(folder / run_folder.CHECKPOINTS, most_bytes)
        if found is None:
            notes.append("There are no checkpoints, so the epochs, and everything that needs parameters, are left out.")
            return [], None, None, 0
        history = finite_json([metrics.row() for metrics in saved_history(found)])
        params = found.tree(shapes[0], "train_state/params")
        state = found.tree(shapes[1], "train_state/state") if jax.tree.leaves(shapes[1]) else shapes[1]
    except DataError as error:
        notes.append(f"The checkpoints could not be read, so everything that needs them is left out. {error}")
        return [], None, None, 0
    notes.append(f"The run has not ended. Everything here comes from its newest checkpoint, after epoch {found.step}.")
    try:
        written = run_folder.read_metrics(folder)
    except DataError as error:
        notes.append(f"The metrics were changed, and are not used. {error}")
    else:
        if written[: len(history)] != history:
            notes.append("The file metrics.jsonl differs from the checkpoint: it was changed, and is not used.")
        elif later := len(written) - len(history):
            notes.append(f"The file metrics.jsonl has {counted(later, 'later epoch')}, without a checkpoint.")
    return history, params, state, found.step


def _data(
    configuration: Configuration,
    data_dir: str | None,
    classes: int,
    image_shape: tuple[int, int, int],
    notes: list[str],
) -> Dataset | None:
    """The data of a run; None if the user has not named their folder, or if they cannot be loaded any more."""
    if data_dir is None and configuration.dataset != EMBEDDED:
        notes.append("The data set is not opened without --data-dir DIR, so everything that needs it is left out.")
        return None
    if data_dir is not None and configuration.dataset.startswith(PREFIX):
        configuration, data_dir = replace(configuration, dataset=f"{PREFIX}{data_dir}"), None
    try:
        data = replace(configuration, data_dir=data_dir).load_data()
    except (InputError, OSError) as error:
        notes.append(f"The data set could not be loaded, so everything that needs it is left out. {error}")
        return None
    if data.train_images.shape[1:] != image_shape or data.classes != classes:
        notes.append("The data set has changed since the run, so everything that needs it is left out.")
        return None
    return data
