"""A run as a folder for a hub of models: configuration, parameters, result, and a model card as ``README.md``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from functional_nn.configuration.run_configuration import Configuration, flag_of
from functional_nn.configuration.run_flags import default_flags
from functional_nn.core import trees
from functional_nn.core.errors import InputError, escaped
from functional_nn.core.texts import counted, words
from functional_nn.data.image_folder import PREFIX
from functional_nn.exchange.saved_networks import SavedNetwork, load
from functional_nn.storage import run_folder
from functional_nn.storage.files import JsonObject, check_path, write_whole

MODEL_CARD = "README.md"
ORIGINS = ("from", "imported_from")
"""The entries of a configuration that say where the parameters came from."""

ABOUT = ("classes", "image_shape", "class_names", "versions", *ORIGINS)
"""The entries of a configuration besides its settings. What else a file has is not written to another one."""

NOT_A_FLAG = ("gradient",)
"""Settings that ``train`` chooses itself."""


def to_hub(run: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Writes a finished run to a new folder that a hub of models understands, and returns its path.

    The folder has ``config.json``, ``model.safetensors``, ``metrics.jsonl``, ``result.json`` and a model card,
    ``README.md``. It is a run folder again: ``load``, ``functional-nn predict`` and ``report`` take it. Paths of this
    computer are left out of it.

    Args:
        run: the folder of the run.
        folder: the folder to write, new or empty.

    Raises:
        DataError: if the run has not finished, or is damaged.
        InputError: if the folder has files already, or cannot be written to.
    """
    run, folder = check_path("run", run), check_path("folder", folder)
    network = load(run)
    if folder.is_dir() and any(folder.iterdir()):
        given = f"{folder}, which has files"
        raise InputError("folder", "a new or empty folder", given, "Files are never overwritten.")
    values, result = run_folder.read_configuration(run), run_folder.read_result(run)
    public = _without_paths(network.configuration)
    network = network._replace(configuration=public)
    config = public.to_dict() | {name: values[name] for name in ABOUT if name in values}
    origins = {name: values[name] for name in ORIGINS if isinstance(values.get(name), dict)}
    shown = {name: value for name, value in result.items() if name not in ("files", "sha256")}
    shown |= {"config": public.to_dict()}
    metrics = run_folder.read_metrics(run)
    with run_folder.opened_run_folder(folder, argument="folder"):
        # The model card is written before the result, whose presence shows that the folder is whole.
        run_folder.create_run_folder(folder, config)
        write_whole(folder / MODEL_CARD, model_card(network, result, origins))
        run_folder.finish_run_folder(folder, network.params, network.state, metrics, shown)
    return folder


def model_card(network: SavedNetwork, result: Mapping[str, object], origins: Mapping[str, JsonObject]) -> str:
    """The model card of a trained network, in Markdown with a header that hubs read.

    Args:
        network: the network.
        result: the result of its run, as ``result.json`` has it.
        origins: the entries of the configuration that say where the parameters came from.
    """
    configuration = network.configuration
    dataset = _name(configuration.dataset)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(network.params).items()}
    height, width, channels = network.in_shape
    header = [
        "---",
        "library_name: functional_nn",
        "pipeline_tag: image-classification",
        "tags: [jax, functional_nn, image-classification]",
        "---",
    ]
    lines = [
        *header,
        "",
        f"# {configuration.model} trained on {_plain(dataset)}",
        "",
        "A classifier of images, trained with functional_nn, a neural network toolkit for JAX.",
        "",
        "## How to load it",
        "",
        "```python",
        "import functional_nn as fnn",
        "",
        'network = fnn.exchange.load("FOLDER")',
        f"probabilities = network.predict(images)  # images: (batch, {height}, {width}, {channels}), bytes or 0 to 1",
        "```",
        "",
        "On the command line: `functional-nn predict FOLDER image.png`.",
        "",
        "## Results",
        "",
        "| number | value |",
        "|---|---|",
        *(f"| {_plain(words(name))} | {value:.4f} |" for name, value in _numbers(result).items()),
        "",
        "## Data",
        "",
        f"The data set `{dataset}`, as images of {height} x {width} pixels and {channels} "
        f"{'channel' if channels == 1 else 'channels'}. Bytes are divided by 255.",
        *_classes(network),
        "",
        "## Architecture",
        "",
        f"{sum(trees.size(leaf) for leaf in network.params.values()):,} parameters:",
        "",
        "| parameter | shape |",
        "|---|---|",
        *(f"| `{path}` | {' x '.join(map(str, shape)) or 'one number'} |" for path, shape in shapes.items()),
        "",
        "## Training",
        "",
        *_training(configuration, result, origins),
        "",
    ]
    return "\n".join(lines)


def _training(
    configuration: Configuration, result: Mapping[str, object], origins: Mapping[str, JsonObject]
) -> list[str]:
    """How the parameters came about: the command with the settings, or the file that they were imported from."""
    if "imported_from" in origins:
        return [f"The parameters were imported from the file `{_name(origins['imported_from'].get('file'))}`."]
    lines = ["```sh", escaped(command_of(configuration)), "```"]
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


def _plain(text: str) -> str:
    """A text from a file, in which Markdown sees no syntax, HTML or link. Readers see the same characters."""
    return re.sub(r"[^\w :-]", lambda other: f"&#{ord(other[0])};", escaped(text))


def command_of(configuration: Configuration) -> str:
    """The command that trains with a configuration. Flags that have their default value are left out."""
    words, defaults = ["functional-nn", "train"], default_flags()
    for name, value in configuration.to_dict().items():
        if name in NOT_A_FLAG or value == defaults[name]:
            continue
        words.append(flag_of(name))
        if value is not True:
            words.append(",".join(map(str, value)) or "none" if isinstance(value, list) else str(value))
    return shlex.join(words)


def _without_paths(configuration: Configuration) -> Configuration:
    """The configuration without paths of this computer, which are nobody else's business."""
    dataset = configuration.dataset
    if dataset.startswith(PREFIX):
        dataset = PREFIX + Path(dataset.removeprefix(PREFIX)).resolve().name
    return replace(configuration, dataset=dataset, data_dir=None)


def _numbers(result: Mapping[str, object]) -> dict[str, float]:
    """The losses and metrics in a result."""
    return {
        name: float(value)
        for name, value in result.items()
        if name.startswith(run_folder.PARTS) and isinstance(value, int | float) and abs(value) < 1e9
    }


def _classes(network: SavedNetwork) -> list[str]:
    if network.class_names is None:
        return []
    names = ", ".join(f"`{_name(name)}`" for name in network.class_names)
    return ["", f"Its classes, in the order of the outputs: {names}."]
