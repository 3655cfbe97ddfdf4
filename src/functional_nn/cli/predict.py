"""``functional-nn predict``: classifying image files with a trained network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.compilation_cache import COMPILATION_CACHE
from functional_nn.cli.options import JSON_FILE
from functional_nn.cli.startup import importing

if TYPE_CHECKING:
    import numpy as np

    from functional_nn.core.layer import Params, State

TABLE_WIDTH = 80
NEXT_BEST = 2
"""The number of classes that are printed after the most probable one. ``--json`` writes all classes."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE…")
@JSON_FILE
@COMPILATION_CACHE
def predict(run: Path, images: tuple[Path, ...], json_file: Path | None) -> None:
    """Classify image files with the network in a run folder.

    Images may have any size and either polarity (dark on bright or bright on dark).
    """
    with importing():
        import jax
        import numpy as np

        from functional_nn.cli.configuration import Configuration
        from functional_nn.core.errors import DataError, InputError, shortened
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
    with jax.enable_x64(configuration.precision == "float64"):
        try:
            net = configuration.network(classes)
            shapes = jax.eval_shape(lambda key: net.init(key, image_shape), jax.random.key(0))
        except (TypeError, ValueError, ArithmeticError) as error:
            reason = error if isinstance(error, InputError) else shortened(error)
            raise DataError(str(path), "a run's configuration", f"one that makes no network ({reason})") from None
        params, state = load_parameters(run / run_folder.PARAMETERS, shapes)
        _check_finite(params, state, run / run_folder.PARAMETERS)
        x = np.stack([read_image(image, image_shape, digits=is_digits(configuration.dataset)) for image in images])
        probabilities = predict_probabilities(net, params, state, x, precision=configuration.precision)
    click.echo("\n".join(_table([click.format_filename(image) for image in images], probabilities)))
    if json_file is not None:
        rows: list[dict[str, object]] = [
            {"image": str(image), "class": int(row.argmax()), "probabilities": row.tolist()}
            for image, row in zip(images, probabilities, strict=True)
        ]
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


def _table(names: list[str], probabilities: np.ndarray) -> list[str]:
    """The lines of a table: each image with its class, the class's probability, and the next best classes."""
    best = probabilities.argsort(axis=1)[:, ::-1][:, : NEXT_BEST + 1]
    cells = []
    for row, classes in zip(probabilities, best, strict=True):
        others = ", ".join(f"{number} ({row[number]:.2%})" for number in classes[1:])
        cells.append((f"{classes[0]:5}", f"{row[classes[0]]:11.2%}", others))
    room = TABLE_WIDTH - max(len("  ".join(("", *row))) for row in cells)
    # Paths of images differ at their ends, so a long path is cut at its start.
    names = [name if len(name) <= room else f"…{name[1 - room :]}" for name in names]
    width = max(len(name) for name in ("image", *names))
    lines = [f"{'image':{width}}  class  probability  next best"]
    lines.extend("  ".join((f"{name:{width}}", *row)) for name, row in zip(names, cells, strict=True))
    return lines
