"""Trained networks in the folders of runs and sweeps. A member of a sweep is read as the folder of a run."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from functional_nn.configuration.settings import DEFAULTS, Configuration
from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, check, check_data, escaped, reading, shortened
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.texts import counted
from functional_nn.core.validation import as_examples, check_count
from functional_nn.data.dataset import MOST_CLASSES, MOST_LETTERS, Features
from functional_nn.data.images import MOST_PIXELS
from functional_nn.jaxprs.counts import flops_by_scope
from functional_nn.jaxprs.walk import equations
from functional_nn.storage import run_folder
from functional_nn.storage.arrays import read_parameters
from functional_nn.storage.files import (
    JsonObject,
    check_fits,
    check_lasting_path,
    is_kept_open,
    kept_open,
    make_folder,
    names_in,
    temporary_folder,
)
from functional_nn.storage.identity import IDENTITY
from functional_nn.sweeps.parts import good_batches, read_sweep
from functional_nn.sweeps.results import Member
from functional_nn.sweeps.store import BATCHES, FINGERPRINT, SWEEP, Store
from functional_nn.training.devices import bytes_of, check_bytes
from functional_nn.training.evaluate import predict_probabilities
from functional_nn.training.precision import as_precision


class SavedNetwork(NamedTuple):
    """A trained network that was read from a folder.

    Args:
        net: the network.
        params, state: its trained parameters and its state.
        in_shape: the shape of one example: height, width and channels of an image, or the number of features.
        classes: the number of classes.
        class_names: the names of the classes; None if they have only numbers.
        configuration: the configuration of the run, such as ``configuration.dataset``.
        features: the columns of the table that it was trained on; None for images.
    """

    net: Layer
    params: Params
    state: State
    in_shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...] | None
    configuration: Configuration
    features: Features | None = None

    def predict(self, examples: ArrayLike) -> np.ndarray:
        """The probability of each class for each example, in the precision of the run: (examples, classes).

        It is for folders of the command, which trains classifiers. ``fnn.training.predict``, which takes any network
        and its parameters, gives the network's outputs instead: for a classifier, these are logits.

        Args:
            examples: images (images, height, width, channels), as bytes from 0 to 255, or as numbers from 0 to 1. For a
                network that was trained on a table, rows (rows, features) of numbers as they are in the table:
                ``features`` standardizes them here.

        Raises:
            InputError: for examples of another shape, and for images of numbers below 0 or above 1 that are not bytes.
        """
        x = as_examples("examples", examples, self.in_shape)
        if self.features is not None:
            x = self.features.standardized(examples)
        elif x.dtype != np.uint8 and x.size and not (x.min() >= 0 and x.max() <= 1):
            given = f"{x.dtype} from {x.min():g} to {x.max():g}"
            remedy = "Divide them by 255, or give them as uint8."
            raise InputError("examples", "bytes, or numbers from 0 to 1", given, remedy)
        precision = self.configuration.precision
        with jax.enable_x64(precision == "float64"):
            return predict_probabilities(self.net, self.params, self.state, x, precision=precision)

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
        dataset = escaped(self.configuration.dataset)
        return f"SavedNetwork({self.configuration.model}, examples {self.in_shape}, {dataset})"


def load(folder: str | os.PathLike[str], member: int | None = None) -> SavedNetwork:
    """The trained network in a folder that ``functional-nn train --out``, ``import`` or ``export --to hub`` wrote.

    For a folder that ``functional-nn sweep --out`` wrote, it is the network of the best member, or of the given one. If
    the sweep has not ended, a warning says so.

    The files in the folder are data: a configuration as JSON, and parameters as safetensors. No code in them is run.
    Their checksums are verified. For a file of parameters alone, see ``storage.load_parameters``.

    Args:
        folder: the folder of a run or a sweep.
        member: the number of a member of the sweep; None is the best one.

    Raises:
        DataError: if a file is missing, damaged or does not fit the others, if a parameter is not finite, or if the
            network needs more than 2.7e11 operations for an example.

    An example is in ``docs/how_to/sharing_runs.md``.
    """
    with run_of(check_lasting_path("folder", folder), member) as folder, run_folder.unchanged(folder):
        _, network = described(folder)
        path, shapes = folder / run_folder.PARAMETERS, (network.params, network.state)
        run_folder.verify_run_folder(folder, bytes_of(shapes))
        precision, configuration = network.configuration.precision, folder / run_folder.CONFIGURATION
        with jax.enable_x64(precision == "float64"):
            with reading(configuration, "a run's configuration", errors=(TypeError, ValueError)):
                example = jax.ShapeDtypeStruct((1, *network.in_shape), as_precision(precision).parameters)
                program = jax.make_jaxpr(partial(network.net.apply, train=False))(*shapes, example)
            starts = sum(located.repeats for located in equations(program))
            flops = flops_by_scope(program).total() + FLOPS_OF_START * starts
            expected = f"at most {MOST_FLOPS:.1e} operations for an example"
            check_data(str(configuration), f"{flops:.1e}", expected, flops <= MOST_FLOPS)
            params, state = read_parameters(path, shapes)
        check_finite(params, state, path, "Train again.")
    return network._replace(params=params, state=state)


def described(folder: Path) -> tuple[JsonObject, SavedNetwork]:
    """The configuration in the folder of a run, which may not have finished, as read and as its network.

    The network has shapes and types in place of its parameters and its state.
    """
    values, path = run_folder.read_configuration(folder), folder / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    in_shape, classes, class_names, features = examples_of(values, path)
    try:
        with jax.enable_x64(configuration.precision == "float64"):
            net = configuration.network(classes)
            params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
        check_bytes("net", bytes_of((params, state)))
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = error if isinstance(error, InputError) else shortened(error)
        raise DataError(str(path), "a run's configuration", f"one that makes no network ({reason})") from None
    return values, SavedNetwork(net, params, state, in_shape, classes, class_names, configuration, features)


MOST_FLOPS = 2**38
"""The most floating-point operations for one example, which take a core up to a minute. A folder of a few kilobytes can
ask for any number of them, by the size of its images. For 2,000 x 2,000 pixels, each named model needs fewer by
default."""

FLOPS_OF_START = 2**8
"""A start of an operation on arrays counts as this many: in each step of a loop it takes a core 10 to 60 ns."""

EXAMPLES = {
    "classes": int,
    "image_shape": ([int], None),
    "class_names": ([str], None),
    "features": ({"names": [str], "mean": [float], "deviation": [float]}, None),
}
"""The schema of the entries of a configuration about the examples of the run."""


def examples_of(values: JsonObject, path: Path) -> tuple[tuple[int, ...], int, tuple[str, ...] | None, Features | None]:
    """The shape of an example, the number of classes, their names, and the columns of the table, if it was one.

    Raises:
        DataError: if the entries do not fit each other, or if images are larger than the largest that can be read.
    """
    kind = "a run's configuration"
    with reading(path, kind):
        check_fits(values, EXAMPLES)
    classes, names, columns, features = values["classes"], values.get("class_names"), values.get("features"), None
    check_data(str(path), classes, f"{kind} with classes, at most {MOST_CLASSES:,}", 0 < classes <= MOST_CLASSES)
    if columns is not None:
        features = Features(*(tuple(columns[name]) for name in Features._fields))
        has_columns = len(set(map(len, features))) == 1 and features.names and min(features.deviation) > 0
        check_data(str(path), features, f"{kind} with as many names as numbers in features", has_columns)
        shape = (len(features.names),)
    else:
        shape = tuple(values.get("image_shape") or ())
        is_shape = len(shape) == 3 and min(shape) > 0 and math.prod(shape) <= MOST_PIXELS
        expected = f"{kind} with height, width and channels in image_shape, at most {MOST_PIXELS:,} numbers"
        check_data(str(path), shape, expected, is_shape)
    expected = f"{kind} with {classes} class_names, of {MOST_LETTERS:,} letters at most"
    fits = names is None or (len(names) == classes and sum(map(len, names)) <= MOST_LETTERS)
    check_data(str(path), names, expected, fits)
    return shape, classes, None if names is None else tuple(names), features


def check_finite(params: Params, state: State, path: Path, remedy: str = "") -> None:
    """Requires finite parameters. With NaN in them, the network would still seem to give an answer."""
    named = trees.flatten({"params": params, "state": state})
    if bad := [name for name, leaf in named.items() if not np.isfinite(leaf).all()]:
        raise DataError(str(path), "finite numbers", f"NaN or infinity in {', '.join(bad[:5])}", remedy)


ORIGINS = ("from", "imported_from")
"""The entries of a configuration that say where the parameters came from."""

ABOUT = ("classes", "image_shape", "features", "class_names", "data_sha256", "versions", *ORIGINS)
"""The entries of a configuration besides its settings. What else a file has is not written to another one."""


@contextmanager
def run_of(folder: Path, member: int | None = None) -> Iterator[Path]:
    """The folder of a run: the given one, or for a sweep a temporary one with the run of a member.

    Args:
        folder: the folder of a run or a sweep.
        member: the number of the member; None is the best one.

    Raises:
        InputError: if the sweep has no such member, or was not made by the command.
        DataError: if the member has no parameters, or a file is damaged.
    """
    if folder.is_symlink() and not is_kept_open(folder):
        folder = folder.resolve()  # the user has named it. In a folder that is kept open, no link is followed.
    with ExitStack() as stack:
        if folder.is_dir():  # otherwise, the error is about what it lacks
            stack.enter_context(kept_open(folder))
        values, chosen, settings = chosen_run(folder, member)
        if chosen is None:
            yield folder
            return
        parent = stack.enter_context(temporary_folder("functional-nn-"))
        run = parent / f"{folder.resolve().name[:50]}-member-{chosen.number}"  # a name has at most 255 bytes
        make_folder(run)
        stack.enter_context(kept_open(run))  # nobody can put another folder in its place
        run_folder.create_run_folder(run, values)
        params, state = _parameters(folder, settings, chosen, described(run)[1])
        rows = [
            {"epoch": epoch + 1, **{name: float(curve[epoch]) for name, curve in chosen.curves.items()}}
            for epoch in range(chosen.epochs)
        ]
        last = {name: chosen.last(name) for name in chosen.curves} | dict(chosen.test_metrics)
        result = {**last, "epochs": chosen.epochs, "status": chosen.status, "message": ""}
        run_folder.finish_run_folder(run, params, state, rows, result)
        yield run


def chosen_run(folder: Path, member: int | None) -> tuple[JsonObject, Member | None, JsonObject]:
    """The configuration of the run in a folder; or for a sweep, that of a member, the member, and the sweep's settings.

    JAX computes nothing here. The arguments are those of ``run_of``.
    """
    is_sweep = folder.is_dir() and SWEEP in names_in(folder)
    check("member", member, f"no number, because {folder} has no sweep", is_sweep or member is None)
    if not is_sweep:
        return run_folder.read_configuration(folder), None, {}
    result, settings = read_sweep(folder)
    identity = settings.get(IDENTITY)
    if not isinstance(identity, dict) or "classes" not in identity:
        remedy = "Run functional-nn sweep again, or use the result that fnn.sweep returned."
        given = f"{folder}, which fnn.sweep or an earlier version wrote"
        raise InputError("folder", "a folder of functional-nn sweep", given, remedy)
    if member is None:
        chosen = result.best()
        if result.message:
            ended = sum(one.status != "not run" for one in result.members)
            text = f"{folder}: {result.message} This is the best of {ended} of {len(result.members)} members."
            warnings.warn(text, UserWarning, stacklevel=2)
    else:
        check_count("member", member, least=0)
        count = len(result.members)
        check("member", member, f"one of {counted(count, 'member')}, from 0", member < count)
        chosen = result.members[member]
    known = {name: value for name, value in identity.items() if name in DEFAULTS or name in ABOUT}
    values = {**known, "epochs": settings.get("epochs"), **settings["grid"][chosen.number]}
    configuration = Configuration.from_dict(values, folder / SWEEP, is_completed=False).completed()
    return known | configuration.to_dict(), chosen, settings


def _parameters(folder: Path, settings: JsonObject, member: Member, network: SavedNetwork) -> tuple[Params, State]:
    store = Store(folder, settings[FINGERPRINT])
    for file, rung, batch in good_batches(folder, settings):
        numbers = [history.number for history in batch.histories]
        # If the file of an earlier epoch is lost, the metrics of the member are those of an epoch before.
        epochs = [history.epochs for history in batch.histories if history.number == member.number]
        if rung is None and epochs == [member.epochs]:
            with (
                jax.enable_x64(network.configuration.precision == "float64"),
                kept_open(folder),
                kept_open(folder / BATCHES),
            ):
                found = store.load(file.stem, numbers, (network.params, network.state))
            if found is not None:
                return found[1][numbers.index(member.number)]
    given = f"none that can be read (its status: {member.status})"
    raise DataError(str(folder), f"the parameters of member {member.number}", given, "Choose another member.")
