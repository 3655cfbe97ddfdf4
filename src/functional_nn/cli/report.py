"""``functional-nn report``: a page about a run or a sweep, made from its folder."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.core.errors import escaped

if TYPE_CHECKING:
    from functional_nn.configuration.run_configuration import Configuration
    from functional_nn.core.layer import Layer, Params, State
    from functional_nn.data.dataset import Dataset
    from functional_nn.reports.run_report import RunContents
    from functional_nn.storage.files import JsonObject
    from functional_nn.sweeps.results import SweepResult
    from functional_nn.training.layer_statistics import StatisticsRecorder

LIBRARIES = ("jinja2", "matplotlib")
"""The libraries that make pages."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--data-dir", metavar="DIR", help="Folder of the run's data. A folder that FOLDER itself names is never opened."
)
@COMPILATION_CACHE
def report(folder: Path, data_dir: str | None) -> None:
    """Write a page about a run or a sweep: FOLDER/report.html.

    FOLDER is what train --out or sweep --out wrote, also after an interruption. The page is one file that needs no
    other. Parts for which something is missing are left out, and the page says so.
    """
    with importing():
        import jax

        from functional_nn.core.errors import DataError
        from functional_nn.reports import run_report, sweep_report
        from functional_nn.reports.page import check_libraries
        from functional_nn.storage import run_folder
        from functional_nn.storage.files import kept_open
        from functional_nn.sweeps.parts import read_sweep
        from functional_nn.sweeps.store import SWEEP

    check_libraries(LIBRARIES)
    if folder.is_dir():
        click.get_current_context().with_resource(kept_open(folder))
    page = folder / run_folder.REPORT
    if (folder / SWEEP).exists():
        result, settings = read_sweep(folder)
        sweep_report.write_page(page, result, settings)
    elif (folder / run_folder.CONFIGURATION).exists():
        values = run_folder.read_configuration(folder)
        with jax.enable_x64(values.get("precision") == "float64"):
            run_report.write_page(page, read_run(folder, data_dir=data_dir))
    else:
        remedy = "Give a folder that train --out or sweep --out wrote."
        given = "nothing of the kind" if folder.is_dir() else "no folder"
        raise DataError(str(folder), "the folder of a run or a sweep", given, remedy)
    click.echo(escaped(str(page)))


def write_run_report(folder: Path, data: Dataset) -> list[str]:
    """Writes the page of a run that has just ended, and returns its name in a list; empty if a library is missing."""
    if not _has_libraries():
        return []
    from functional_nn.reports import run_report
    from functional_nn.storage import run_folder

    run_report.write_page(folder / run_folder.REPORT, read_run(folder, data))
    return [run_folder.REPORT]


def write_sweep_report(folder: Path, result: SweepResult) -> list[str]:
    """Writes the page of a sweep that has just ended, and returns its name in a list; empty if a library is missing."""
    if not _has_libraries():
        return []
    from functional_nn.reports import sweep_report
    from functional_nn.storage import run_folder
    from functional_nn.sweeps.parts import sweep_settings

    sweep_report.write_page(folder / run_folder.REPORT, result, sweep_settings(folder))
    return [run_folder.REPORT]


def _has_libraries() -> bool:
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except ImportError:
            click.echo(f"No report.html, since {library} is missing: pip install 'functional-nn[plots]'.", err=True)
            return False
    return True


def statistics_recorder(
    folder: Path, net: Layer, configuration: Configuration, data: Dataset, restored_epochs: int
) -> StatisticsRecorder:
    """What writes the statistics of layers after each epoch of a run; see ``training.layer_statistics``."""
    from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
    from functional_nn.losses.classification import cross_entropy
    from functional_nn.training.layer_statistics import StatisticsRecorder

    return StatisticsRecorder(
        folder,
        with_hand_vjp(net),
        cross_entropy,
        configuration.precision,
        data.train_images,
        data.train_labels,
        restored_epochs,
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

    from functional_nn.configuration.run_configuration import Configuration
    from functional_nn.core.errors import DataError
    from functional_nn.exchange.hub import class_names_of, image_shapes, network_of_run
    from functional_nn.reports.run_report import RunContents
    from functional_nn.storage import run_folder
    from functional_nn.training.memory import bytes_of

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
    from functional_nn.core.errors import DataError
    from functional_nn.storage import run_folder
    from functional_nn.storage.arrays import load_parameters

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
    import jax

    from functional_nn.core.errors import DataError
    from functional_nn.core.texts import counted
    from functional_nn.storage import checkpoints, run_folder
    from functional_nn.storage.files import check_no_link, finite_json
    from functional_nn.training.checkpointing import saved_history

    try:
        check_no_link(str(folder), folder / run_folder.CHECKPOINTS)
        found = checkpoints.newest(folder / run_folder.CHECKPOINTS)
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
    if not run_folder.has_checksum(folder):
        notes.append("The file config.json has no checksum, so damage in it would not be noticed.")
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
    from functional_nn.core.errors import InputError
    from functional_nn.data.image_folder import PREFIX
    from functional_nn.data.sources import EMBEDDED

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
