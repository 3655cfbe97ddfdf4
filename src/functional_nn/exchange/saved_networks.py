"""The trained network in a run folder, or in a copy of one that came from a hub of models."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from functional_nn.configuration.run_configuration import Configuration
from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, short_repr, shortened
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.validation import as_host_array, check_count, check_counts
from functional_nn.data.images import MOST_PIXELS
from functional_nn.storage import run_folder
from functional_nn.storage.arrays import load_parameters
from functional_nn.storage.files import check_path
from functional_nn.training.prediction import predict_probabilities


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
            InputError: for images of another shape, and for numbers above 1 that are not bytes.
        """
        images = as_host_array("images", images)
        if images.shape[1:] != self.in_shape:
            expected = f"a batch of images, (images, {', '.join(map(str, self.in_shape))})"
            remedy = "For one image, give images[None]." if images.shape == self.in_shape else ""
            raise InputError("images", expected, f"the shape {images.shape}", remedy)
        if images.dtype != np.uint8 and images.size and images.max() > 1:
            remedy = "Divide them by 255, or give them as uint8."
            raise InputError(
                "images", "bytes, or numbers from 0 to 1", f"{images.dtype} up to {images.max():g}", remedy
            )
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
    values = run_folder.read_configuration(folder)
    run_folder.verify_run_folder(folder)
    path = folder / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    classes, in_shape = image_shapes(values, path)
    class_names = class_names_of(values, classes, path)
    with jax.enable_x64(configuration.precision == "float64"):
        net, shapes = network_of_run(configuration, classes, in_shape, path)
        params, state = load_parameters(folder / run_folder.PARAMETERS, shapes)
    check_finite(params, state, folder / run_folder.PARAMETERS, "Train again.")
    return SavedNetwork(net, params, state, in_shape, classes, class_names, configuration)


def network_of_run(
    configuration: Configuration, classes: int, in_shape: tuple[int, int, int], path: Path
) -> tuple[Layer, tuple[Params, State]]:
    """The network of a run, and the shapes of its parameters and its state. ``path`` is named in errors."""
    try:
        net = configuration.network(classes)
        return net, jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = error if isinstance(error, InputError) else shortened(error)
        raise DataError(str(path), "a run's configuration", f"one that makes no network ({reason})") from None


def image_shapes(values: Mapping[str, object], path: Path) -> tuple[int, tuple[int, int, int]]:
    """The number of classes of a run, and the height, width and channels of its images.

    Raises:
        DataError: if the configuration lacks them, or if its images are larger than the largest image that can be read.
    """
    try:
        classes = check_count("classes", values.get("classes"))
        shape = check_counts("image_shape", values.get("image_shape"))
        if len(shape) != 3 or math.prod(shape) > MOST_PIXELS:
            expected = f"height, width and channels, at most {MOST_PIXELS:,} numbers"
            raise InputError("image_shape", expected, short_repr(values["image_shape"]))
    except InputError as error:
        expected = "a run's configuration with classes and image_shape"
        raise DataError(str(path), expected, f"one where {error}") from None
    height, width, channels = shape
    return classes, (height, width, channels)


def class_names_of(values: Mapping[str, object], classes: int, path: Path) -> tuple[str, ...] | None:
    """The names of a run's classes; None if they have numbers only, as in runs of earlier versions."""
    names = values.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise DataError(str(path), f"a run's configuration with {classes} class_names", short_repr(names))
    return tuple(names)


def check_finite(params: Params, state: State, path: Path, remedy: str = "") -> None:
    """Requires finite parameters. With NaN in them, the network would still seem to give an answer."""
    named = trees.flatten({"params": params, "state": state})
    if bad := [name for name, leaf in named.items() if not np.isfinite(np.asarray(leaf, np.float64)).all()]:
        raise DataError(str(path), "finite numbers", f"NaN or infinity in {', '.join(bad[:5])}", remedy)
