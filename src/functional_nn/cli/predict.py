"""``functional-nn predict``: classifying image files with a trained network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.compilation_cache import COMPILATION_CACHE
from functional_nn.cli.flag_types import JSON_FILE
from functional_nn.cli.startup import importing

if TYPE_CHECKING:
    import numpy as np

    from functional_nn.core.layer import Params, State

TABLE_WIDTH = 80
NEXT_BEST = 2
"""The number of classes that are printed after the most probable one. ``--json`` writes all classes."""

CLASS_WIDTH = 10
"""Longer names of classes are cut in the table. ``--json`` writes them whole."""


class _Pictures(click.Argument):
    """The pictures. If only one path is given, it may be a picture, and then the run folder is missing."""

    def process_value(self, ctx: click.Context, value: object) -> object:
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter:
            message = "Two arguments are needed: first the run folder, then the pictures, as in runs/first drawing.png."
            raise click.UsageError(message, ctx) from None


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", cls=_Pictures, nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE…")
@JSON_FILE
@COMPILATION_CACHE
def predict(run: Path, images: tuple[Path, ...], json_file: Path | None) -> None:
    """Classify image files with the network in a run folder.

    Give the run folder first, then the pictures. A picture of the size of the training images is taken as it is.
    Other pictures are scaled, and digits are centered. Digits may be dark on bright or bright on dark.
    """
    with importing():
        import jax
        import numpy as np

        from functional_nn.cli.configuration import Configuration
        from functional_nn.core.errors import DataError, InputError, shortened
        from functional_nn.data.image_folder import PREFIX, read_fitted_images
        from functional_nn.data.images import read_image
        from functional_nn.storage import run_folder
        from functional_nn.storage.files import write_json
        from functional_nn.storage.parameters import load_parameters
        from functional_nn.training.prediction import predict_probabilities

    values = run_folder.read_configuration(run)
    run_folder.verify_run_folder(run)
    path = run / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    classes, image_shape = image_shapes(values, path)
    class_names = _class_names(values, classes, path)
    with jax.enable_x64(configuration.precision == "float64"):
        try:
            net = configuration.network(classes)
            shapes = jax.eval_shape(lambda key: net.init(key, image_shape), jax.random.key(0))
        except (TypeError, ValueError, ArithmeticError) as error:
            reason = error if isinstance(error, InputError) else shortened(error)
            raise DataError(str(path), "a run's configuration", f"one that makes no network ({reason})") from None
        params, state = load_parameters(run / run_folder.PARAMETERS, shapes)
        _check_finite(params, state, run / run_folder.PARAMETERS)
        if configuration.dataset.startswith(PREFIX):
            x = read_fitted_images(images, image_shape)
        else:
            x = np.stack([read_image(image, image_shape, digits=is_digits(configuration.dataset)) for image in images])
        probabilities = predict_probabilities(net, params, state, x, precision=configuration.precision)
    click.echo("\n".join(_table([click.format_filename(image) for image in images], probabilities, class_names)))
    if json_file is not None:
        rows: list[dict[str, object]] = [
            {"image": str(image), "class": int(row.argmax()), "probabilities": row.tolist()}
            for image, row in zip(images, probabilities, strict=True)
        ]
        if class_names is not None:
            for row, number in zip(rows, probabilities.argmax(axis=1), strict=True):
                row["class_name"] = class_names[number]
        write_json(json_file, rows)


def image_shapes(values: Mapping[str, object], path: Path) -> tuple[int, tuple[int, int, int]]:
    """The number of classes of a run, and the height, width and channels of its images.

    Raises:
        DataError: if the configuration lacks them, or if its images are larger than the largest image that can be read.
    """
    from functional_nn.core.errors import DataError, InputError, short_repr
    from functional_nn.core.validation import check_count, check_counts
    from functional_nn.data.images import MOST_PIXELS

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


def _class_names(values: Mapping[str, object], classes: int, path: Path) -> list[str] | None:
    """The names of a run's classes; None if they have numbers only, as in runs of earlier versions."""
    from functional_nn.core.errors import DataError, short_repr

    names = values.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise DataError(str(path), f"a run's configuration with {classes} class_names", short_repr(names))
    return names


def _check_finite(params: Params, state: State, path: Path) -> None:
    """Requires finite parameters. With NaN in them, the network would still seem to give an answer."""
    import numpy as np

    from functional_nn.core import trees
    from functional_nn.core.errors import DataError

    named = trees.flatten({"params": params, "state": state})
    if bad := [name for name, leaf in named.items() if not np.isfinite(np.asarray(leaf, np.float64)).all()]:
        raise DataError(str(path), "finite numbers", f"NaN or infinity in {', '.join(bad[:5])}", "Train again.")


def is_digits(dataset: str) -> bool:
    """Whether a data set has centered digits as MNIST has, so that new images must be centered too."""
    return dataset.startswith("mnist")


def _table(names: list[str], probabilities: np.ndarray, class_names: list[str] | None = None) -> list[str]:
    """The lines of a table: each image with its class, the class's probability, and the next best classes."""
    from functional_nn.core.errors import escaped

    best = probabilities.argsort(axis=1)[:, ::-1][:, : NEXT_BEST + 1]
    shown = [str(number) for number in range(probabilities.shape[1])]
    if class_names is not None:
        shown = [_cut(escaped(name), CLASS_WIDTH) for name in class_names]
    class_width = max(len("class"), *(len(shown[row[0]]) for row in best))
    cells = []
    for row, classes in zip(probabilities, best, strict=True):
        others = ", ".join(f"{shown[number]} ({row[number]:.2%})" for number in classes[1:])
        first = shown[classes[0]]
        cell = f"{first:>{class_width}}" if class_names is None else f"{first:{class_width}}"
        cells.append((cell, f"{row[classes[0]]:11.2%}", others))
    room = TABLE_WIDTH - max(len("  ".join(("", *row))) for row in cells)
    # Paths of images differ at their ends, so a long path is cut at its start.
    names = [name if len(name) <= room else f"…{name[1 - room :]}" for name in names]
    width = max(len(name) for name in ("image", *names))
    lines = [f"{'image':{width}}  {'class':{class_width}}  probability  next best"]
    lines.extend("  ".join((f"{name:{width}}", *row)) for name, row in zip(names, cells, strict=True))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
