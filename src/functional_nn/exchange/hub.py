"""Trained networks in run folders, and folders for a hub of models with a model card."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from functional_nn.configuration.flag_types import as_written
from functional_nn.configuration.settings import DEFAULTS, Configuration, flag_of
from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, check, escaped, shortened
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.texts import counted, words
from functional_nn.core.validation import as_host_array, check_count, check_counts
from functional_nn.data.image_folder import PREFIX
from functional_nn.data.images import MOST_PIXELS
from functional_nn.storage import run_folder
from functional_nn.storage.arrays import load_parameters
from functional_nn.storage.files import JsonObject, check_path, folder_to_write, names_in, write_whole
from functional_nn.training.devices import bytes_of, check_bytes
from functional_nn.training.evaluate import predict_probabilities


class SavedNetwork(NamedTuple):
    """A trained network that was read from a folder.

    Args:
        net: the network.
        params, state: its trained parameters and its state.
        in_shape: the shape of one image: height, width and channels.
        classes: the number of classes.
        class_names: the names of the classes; None if they have only numbers.
        configuration: the configuration of the run, such as ``configuration.dataset``.
    """

    net: Layer
    params: Params
    state: State
    in_shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...] | None
    configuration: Configuration

    def predict(self, images: ArrayLike) -> np.ndarray:
        """The probability of each class for each image, in the precision of the run: (images, classes).

        It is for folders of the command, which trains classifiers. ``fnn.training.predict``, which takes any network
        and its parameters, gives the network's outputs instead: for a classifier, these are logits.

        Args:
            images: (images, height, width, channels), as bytes from 0 to 255, or as numbers from 0 to 1.

        Raises:
            InputError: for images of another shape, and for numbers below 0 or above 1 that are not bytes.
        """
        images = as_host_array("images", images)
        expected = f"a batch of images, (images, {', '.join(map(str, self.in_shape))})"
        remedy = "For one image, give images[None]." if images.shape == self.in_shape else ""
        check("images", images, expected, images.shape[1:] == self.in_shape, remedy)
        if images.dtype != np.uint8 and images.size and not (images.min() >= 0 and images.max() <= 1):
            given = f"{images.dtype} from {images.min():g} to {images.max():g}"
            remedy = "Divide them by 255, or give them as uint8."
            raise InputError("images", "bytes, or numbers from 0 to 1", given, remedy)
        precision = self.configuration.precision
        with jax.enable_x64(precision == "float64"):
            return predict_probabilities(self.net, self.params, self.state, images, precision=precision)

    def without_augmentation(self) -> SavedNetwork:
        """The same network without the layers that change training images, which do nothing in evaluation.

        With them, the network is a layer of a chain, and its name is in the path of every parameter.
        """
        if not self.configuration.has_augmentation:
            return self
        configuration = replace(self.configuration, shift=0, deform=0.0)
        (params,) = self.params.values()
        (state,) = self.state.values() or ({},)
        net = configuration.network(self.classes)
        return self._replace(net=net, params=params, state=state, configuration=configuration)

    def __repr__(self) -> str:
        return f"SavedNetwork({self.configuration.model}, images {self.in_shape}, {self.configuration.dataset})"


def load(folder: str | os.PathLike[str]) -> SavedNetwork:
    """The trained network in a folder that ``functional-nn train --out``, ``import`` or ``export --to hub`` wrote.

    The files in the folder are data: a configuration as JSON, and parameters as safetensors. No code in them is run.
    Their checksums are verified.

    Raises:
        DataError: if a file is missing, damaged or does not fit the others, or if a parameter is not finite.

    An example is in ``docs/how_to/sharing_runs.md``.
    """
    folder = check_path("folder", folder)
    run = described(folder)
    path = folder / run_folder.PARAMETERS
    run_folder.verify_run_folder(folder, bytes_of(run.shapes))
    with jax.enable_x64(run.configuration.precision == "float64"):
        params, state = load_parameters(path, run.shapes)
    check_finite(params, state, path, "Train again.")
    return SavedNetwork(run.net, params, state, run.in_shape, run.classes, run.class_names, run.configuration)


class RunDescription(NamedTuple):
    """What the configuration of a run says, checked.

    Args:
        values: its file.
        configuration: its settings.
        net: the network.
        shapes: the shapes of its parameters and its state.
        classes, in_shape, class_names: as in ``SavedNetwork``.
    """

    values: JsonObject
    configuration: Configuration
    net: Layer
    shapes: tuple[Params, State]
    classes: int
    in_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None


def described(folder: Path) -> RunDescription:
    """Reads the configuration in the folder of a run, which may not have finished."""
    values, path = run_folder.read_configuration(folder), folder / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    classes, in_shape = _image_shapes(values, path)
    class_names = class_names_of(values, classes, path)
    try:
        with jax.enable_x64(configuration.precision == "float64"):
            net = configuration.network(classes)
            shapes = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
        check_bytes("net", bytes_of(shapes))
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = error if isinstance(error, InputError) else shortened(error)
        raise DataError(str(path), "a run's configuration", f"one that makes no network ({reason})") from None
    return RunDescription(values, configuration, net, shapes, classes, in_shape, class_names)


def _image_shapes(values: Mapping[str, object], path: Path) -> tuple[int, tuple[int, int, int]]:
    """The number of classes of a run, and the height, width and channels of its images.

    Raises:
        DataError: if the configuration lacks them, or if its images are larger than the largest image that can be read.
    """
    try:
        classes = check_count("classes", values.get("classes"))
        shape = check_counts("image_shape", values.get("image_shape"))
        expected = f"height, width and channels, at most {MOST_PIXELS:,} numbers"
        check("image_shape", shape, expected, len(shape) == 3 and math.prod(shape) <= MOST_PIXELS)
    except InputError as error:
        expected = "a run's configuration with classes and image_shape"
        raise DataError(str(path), expected, f"one where {error}") from None
    height, width, channels = shape
    return classes, (height, width, channels)


def class_names_of(values: Mapping[str, object], classes: int, path: Path) -> tuple[str, ...] | None:
    """The names of a run's classes; None if they have numbers only."""
    names: Any = values.get("class_names")
    if names is None:
        return None
    are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    expected = f"a run's configuration with {classes} class_names"
    check(str(path), names, expected, are_texts and len(names) == classes, kind=DataError)
    return tuple(names)


def check_finite(params: Params, state: State, path: Path, remedy: str = "") -> None:
    """Requires finite parameters. With NaN in them, the network would still seem to give an answer."""
    named = trees.flatten({"params": params, "state": state})
    if bad := [name for name, leaf in named.items() if not np.isfinite(np.asarray(leaf, np.float64)).all()]:
        raise DataError(str(path), "finite numbers", f"NaN or infinity in {', '.join(bad[:5])}", remedy)


MODEL_CARD = "README.md"
CARD = Path(__file__).with_name("model_card.md")
"""The text of a model card, with places for what is different in each."""

ORIGINS = ("from", "imported_from")
"""The entries of a configuration that say where the parameters came from."""

ABOUT = ("classes", "image_shape", "class_names", "versions", *ORIGINS)
"""The entries of a configuration besides its settings. What else a file has is not written to another one."""


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
    values, result = run_folder.read_configuration(run), run_folder.read_result(run)
    public = _without_paths(network.configuration)
    network = network._replace(configuration=public)
    config = public.to_dict() | {name: values[name] for name in ABOUT if name in values}
    origins = {name: values[name] for name in ORIGINS if isinstance(values.get(name), dict)}
    shown = {name: value for name, value in result.items() if name not in ("files", "sha256")}
    shown |= {"config": public.to_dict()}
    metrics = run_folder.read_metrics(run)
    with folder_to_write("folder", folder, alone=True):
        if names_in(folder):
            given = f"{folder}, which has files"
            raise InputError("folder", "a new or empty folder", given, "Files are never overwritten.")
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
    height, width, channels = network.in_shape
    results = [f"| {_plain(words(name))} | {value:.4f} |" for name, value in _numbers(result).items()]
    shapes = {path: " x ".join(map(str, leaf.shape)) for path, leaf in trees.flatten(network.params).items()}
    names = ", ".join(f"`{_name(name)}`" for name in network.class_names or ())
    return CARD.read_text("utf-8").format(
        model=configuration.model,
        title=_plain(dataset),
        dataset=dataset,
        height=height,
        width=width,
        channels=channels,
        channels_in_words=counted(channels, "channel"),
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
    words = ["functional-nn", "train"]
    for name, value in configuration.to_dict().items():
        if value != DEFAULTS[name]:
            words += [flag_of(name)] if value is True else [flag_of(name), as_written(value)]
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
