"""Folders for a hub of models, with a model card."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from functional_nn.configuration.flag_types import as_written
from functional_nn.configuration.settings import DEFAULTS, Configuration, flag_of
from functional_nn.core import trees
from functional_nn.core.errors import escaped
from functional_nn.core.texts import counted, words
from functional_nn.data.sources import path_prefix
from functional_nn.exchange.saved_networks import ABOUT, ORIGINS, SavedNetwork, load, run_of
from functional_nn.storage import run_folder
from functional_nn.storage.files import JsonObject, check_lasting_path, new_folder, write_whole

MODEL_CARD = "README.md"
CARD = Path(__file__).with_name("model_card.md")
"""The text of a model card, with places for what is different in each."""


def to_hub(run: str | os.PathLike[str], folder: str | os.PathLike[str], member: int | None = None) -> Path:
    """Writes a finished run, or a member of a sweep, to a new folder for a hub of models, and returns its path.

    The folder has ``config.json``, ``model.safetensors``, ``metrics.jsonl``, ``result.json`` and a model card,
    ``README.md``. It is a run folder again: ``load``, ``functional-nn predict`` and ``report`` take it. Paths of this
    computer are left out of it.

    Args:
        run: the folder of the run or the sweep.
        folder: the folder to write, new or empty.
        member: the number of a member of the sweep; None is the best one.

    Raises:
        DataError: if the run has not finished, or is damaged.
        InputError: if the folder has files already, or cannot be written to.
    """
    run = check_lasting_path("run", run)
    with new_folder("folder", folder) as whole:
        with run_of(run, member) as source, run_folder.unchanged(source):
            network = load(source)
            values, result = run_folder.read_configuration(source), run_folder.read_result(source)
            metrics = run_folder.read_metrics(source)
        # Whoever gets the folder must not see the paths of this computer, nor where a path of a stranger leads on it.
        dataset = network.configuration.dataset
        if prefix := path_prefix(dataset):
            dataset = prefix + os.path.basename(os.path.normpath(dataset.removeprefix(prefix)))
        public = replace(network.configuration, dataset=dataset, data_dir=None)
        network = network._replace(configuration=public)
        origins = {name: values[name] for name in ORIGINS if isinstance(values.get(name), dict)}
        shown = {name: value for name, value in result.items() if name not in ("files", "sha256")}
        config = {name: values[name] for name in ABOUT if name in values}
        run_folder.create_run_folder(whole, public.to_dict() | config)
        write_whole(whole / MODEL_CARD, model_card(network, result, origins))
        run_folder.finish_run_folder(
            whole, network.params, network.state, metrics, shown | {"config": public.to_dict()}
        )
    return Path(folder)


def model_card(network: SavedNetwork, result: Mapping[str, object], origins: Mapping[str, JsonObject]) -> str:
    """The model card of a trained network, in Markdown with a header that hubs read.

    Args:
        network: the network.
        result: the result of its run, as ``result.json`` has it.
        origins: the entries of the configuration that say where the parameters came from.
    """
    configuration = network.configuration
    dataset = _name(configuration.dataset)
    results = [  # the losses and metrics
        f"| {_plain(words(name))} | {value:.4f} |"
        for name, value in result.items()
        if name.startswith(run_folder.PARTS) and isinstance(value, int | float) and abs(value) < 1e9
    ]
    shapes = {path: " x ".join(map(str, leaf.shape)) for path, leaf in trees.flatten(network.params).items()}
    names = _listed(network.class_names or ())
    kind, form = "image", "images, as bytes or as numbers from 0 to 1. Bytes are divided by 255."
    if network.features is not None:
        kind, form = "tabular", f"rows of {_listed(network.features.names)}, which are standardized."
    return CARD.read_text("utf-8").format(
        model=configuration.model,
        title=_plain(dataset),
        dataset=dataset,
        shape=", ".join(map(str, network.in_shape)),
        kind=kind,
        form=form,
        results="\n".join(results),
        classes=f"\nIts classes, in the order of the outputs: {names}.\n" if names else "",
        size=trees.size(network.params),
        shapes="\n".join(f"| `{path}` | {shape or 'one number'} |" for path, shape in shapes.items()),
        training="\n".join(_training(configuration, result, origins)),
    )


def _training(
    configuration: Configuration, result: Mapping[str, object], origins: Mapping[str, JsonObject]
) -> list[str]:
    """How the parameters came about: the command with the settings, or the file that they were imported from."""
    if "imported_from" in origins:
        return [f"The parameters were imported from the file `{_name(origins['imported_from'].get('file'))}`."]
    command = ["functional-nn", "train"]
    for name, value in configuration.to_dict().items():
        if value != DEFAULTS[name]:
            command += [flag_of(name)] if value is True else [flag_of(name), as_written(value)]
    lines = ["```sh", escaped(shlex.join(command)), "```"]
    epochs = result.get("epochs")
    if isinstance(epochs, int):
        lines += ["", f"The run had {counted(epochs, 'epoch')}."]
        if (kept := run_folder.kept_epoch(result, epochs)) != epochs:
            lines[-1] += f" The parameters are those of epoch {kept}, which had the lowest loss."
    if "from" in origins:
        lines += ["", f"It started from the parameters of another run, `{_name(origins['from'].get('run'))}`."]
    return lines


def _name(value: object) -> str:
    """A name from a file, as text between grave accents of Markdown."""
    return escaped(str(value)).replace("`", "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{_name(name)}`" for name in names)


def _plain(text: str) -> str:
    """A text from a file, in which Markdown sees no syntax, HTML or link. Readers see the same characters."""
    return re.sub(r"[^\w :-]", lambda other: f"&#{ord(other[0])};", escaped(text))
