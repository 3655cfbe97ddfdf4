"""What is known about a run, read from its folder for its page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import jax

from functional_nn.configuration.settings import DEFAULTS
from functional_nn.core.errors import DataError, InputError
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.texts import counted
from functional_nn.data.dataset import Dataset
from functional_nn.data.sources import EMBEDDED, path_prefix
from functional_nn.exchange.saved_networks import SavedNetwork, described
from functional_nn.storage import checkpoints, run_folder
from functional_nn.storage.arrays import LARGEST_HEADER, read_parameters
from functional_nn.storage.files import JsonObject, as_json, check_no_link, finite_json, kept_open, names_in
from functional_nn.storage.identity import IDENTITY, difference
from functional_nn.training.checkpointing import saved_history
from functional_nn.training.devices import bytes_of

MOST_COPIES = 8
"""A checkpoint is read only if it is at most this many times as large as the network: parameters, and the numbers that
optimizers keep, at most three for each parameter."""

Trained: TypeAlias = tuple[list[JsonObject], Params | None, State | None]
"""The metrics of each epoch, and the trees of the network after the last or best one, if they could be read."""


@dataclass(frozen=True)
class RunContents:
    """What is known about a run. Whatever is missing is left out of the page, and ``notes`` say why.

    Args:
        settings: its configuration, as in ``config.json``.
        net: the network.
        history: the metrics of each epoch, as in ``metrics.jsonl``.
        params, state: those of the trained network; None if they are not known.
        result: the verified ``result.json``; None if the run has not finished.
        statistics: the rows of ``layer_statistics.jsonl``.
        data: the data set; None if it could not be loaded.
        notes: sentences about what is missing.
    """

    settings: JsonObject
    net: Layer
    history: Sequence[JsonObject]
    params: Params | None = None
    state: State | None = None
    result: JsonObject | None = None
    statistics: Sequence[JsonObject] = ()
    data: Dataset | None = None
    notes: Sequence[str] = ()

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """Height, width and channels of an example; None for the rows of a table."""
        return None if self.settings.get("features") else tuple(self.settings["image_shape"])

    @property
    def class_names(self) -> list[str]:
        """The name of each class, or its number if it has no name."""
        return self.settings.get("class_names") or list(map(str, range(self.settings["classes"])))


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
    notes: list[str] = []
    result: JsonObject | None = None
    with ExitStack() as stack:
        stack.enter_context(run_folder.unchanged(folder))
        values, network = described(folder)
        names = names_in(folder)
        if run_folder.RESULT in names:
            try:
                run_folder.verify_run_folder(folder, bytes_of((network.params, network.state)))
                result = run_folder.read_result(folder)
            except DataError as error:
                notes.append(f"The result is left out, because the run goes on or a file was changed. {error}")
            if result is None:
                stack.close()  # says so, if a file changed meanwhile
        else:
            stack.pop_all()  # the run may go on, so its files may change
        with jax.enable_x64(network.configuration.precision == "float64"):
            history, params, state = (_unfinished if result is None else _finished)(folder, network, notes)
    if data is None:
        data = _data(values, network, data_dir, notes)
    statistics = [row for row in run_folder.read_layer_statistics(folder) if row["epoch"] <= len(history)]
    last = statistics[-1]["epoch"] if statistics else 0
    if result is not None and last < len(history) and run_folder.LAYER_STATISTICS in names:
        notes.append(f"The file {run_folder.LAYER_STATISTICS} has lost its last lines, and the last epoch with them.")
    settings = values | network.configuration.to_dict()
    return RunContents(settings, network.net, history, params, state, result, statistics, data, notes)


def _finished(folder: Path, network: SavedNetwork, notes: list[str]) -> Trained:
    """From the folder of a finished run, whose files are verified. Sentences about what is missing go into notes."""
    history = run_folder.read_metrics(folder)
    try:
        params, state = read_parameters(folder / run_folder.PARAMETERS, (network.params, network.state))
    except DataError as error:
        notes.append(f"The parameters could not be read, so everything that needs them is left out. {error}")
        return history, None, None
    return history, params, state


def _unfinished(folder: Path, network: SavedNetwork, notes: list[str]) -> Trained:
    """The same for a run that has not ended, from its newest checkpoint. Unlike its metrics, it has checksums.

    The checkpoint has to be of a run with the same settings.
    """
    shapes = network.params, network.state
    try:
        check_no_link(str(folder), folder / run_folder.CHECKPOINTS)
        most_bytes = MOST_COPIES * bytes_of(shapes) + LARGEST_HEADER
        with kept_open(folder):  # so that no link is followed in it
            found = checkpoints.newest(folder / run_folder.CHECKPOINTS, most_bytes)
        if found is None:
            notes.append("There are no checkpoints, so the epochs, and everything that needs parameters, are left out.")
            return [], None, None
        history = finite_json([metrics.row() for metrics in saved_history(found)])
        saved, own = found.about["settings"].get(IDENTITY), as_json("settings", network.configuration.settings())
        if different := difference({IDENTITY: saved}, {IDENTITY: own}, DEFAULTS):
            given = f"one of another run, which has {different}"
            raise DataError(str(found.path), "a checkpoint of the run of config.json", given)
        params = found.tree(shapes[0], "train_state/params")
        state = found.tree(shapes[1], "train_state/state") if jax.tree.leaves(shapes[1]) else shapes[1]
    except DataError as error:
        notes.append(f"The checkpoints could not be read, so everything that needs them is left out. {error}")
        return [], None, None
    notes.append(f"The run has not ended. Everything here comes from its newest checkpoint, after epoch {found.step}.")
    try:
        written = run_folder.read_metrics(folder)
    except DataError as error:
        notes.append(f"The metrics were changed, and are not used. {error}")
    else:
        if written[: len(history)] != history[: len(written)]:
            notes.append("The file metrics.jsonl differs from the checkpoint: it was changed, and is not used.")
        elif len(written) < len(history):
            notes.append("The file metrics.jsonl ends before the checkpoint: the run was killed, or the file was cut.")
        elif later := len(written) - len(history):
            notes.append(f"The file metrics.jsonl has {counted(later, 'later epoch')}, without a checkpoint.")
    return history, params, state


def _data(values: JsonObject, network: SavedNetwork, data_dir: str | None, notes: list[str]) -> Dataset | None:
    """The data of a run; None if the user has not named their folder, or if they cannot be loaded any more."""
    configuration = network.configuration
    if data_dir is None and configuration.dataset != EMBEDDED:
        notes.append("The data set is not opened without --data-dir PATH, so everything that needs it is left out.")
        return None
    if data_dir is not None and (prefix := path_prefix(configuration.dataset)):
        configuration, data_dir = replace(configuration, dataset=f"{prefix}{data_dir}"), None
    # Pictures are fitted to this size, which a stranger may have written.
    size = configuration.image_size
    if size is not None and (size[0], size[-1]) != network.in_shape[:2]:
        notes.append("The size of the images in config.json is not that of the network, so the data are left out.")
        return None
    try:
        data = replace(configuration, data_dir=data_dir).load_data()
    except (InputError, OSError) as error:
        notes.append(f"The data set could not be loaded, so everything that needs it is left out. {error}")
        return None
    # Folders of earlier versions have no checksum of the data.
    is_same = values.get("data_sha256") in (None, data.checksum())
    if data.train_images.shape[1:] != network.in_shape or data.classes != network.classes or not is_same:
        notes.append("The data set has changed since the run, so everything that needs it is left out.")
        return None
    return data
