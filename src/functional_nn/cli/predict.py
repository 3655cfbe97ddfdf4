"""``functional-nn predict``: what a trained network takes an image file for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from functional_nn.cli.compilation_cache import COMPILATION_CACHE
from functional_nn.cli.options import JSON_FILE
from functional_nn.cli.startup import importing


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
        from functional_nn.reports import run_folder
        from functional_nn.storage.parameters import load_parameters
        from functional_nn.training.prediction import predict_probabilities

    values = run_folder.read_configuration(run)
    run_folder.check_files(run)
    path = run / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    classes, image_shape = _shapes(values, path)
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
    _report(images, probabilities)
    if json_file is not None:
        rows: list[dict[str, Any]] = [
            {"image": str(image), "class": int(row.argmax()), "probabilities": row.tolist()}
            for image, row in zip(images, probabilities, strict=True)
        ]
        run_folder.write_json(json_file, rows)


def _shapes(values: dict[str, Any], path: Path) -> tuple[int, tuple[int, int, int]]:
    """How many classes a run has, and height, width and channels of its images.

    Raises:
        DataError: where the configuration does not say so, or images would be larger than any that is read.
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


def _check_finite(params: Any, state: Any, path: Path) -> None:
    """Requires numbers: what comes from a parameter that is NaN looks like an answer, and is none."""
    import numpy as np

    from functional_nn.core import trees
    from functional_nn.core.errors import DataError

    named = trees.flatten({"params": params, "state": state})
    if bad := [name for name, leaf in named.items() if not np.isfinite(np.asarray(leaf, np.float64)).all()]:
        raise DataError(str(path), "finite numbers", f"NaN or infinity in {', '.join(bad[:5])}", "Train again.")


def is_digits(dataset: str) -> bool:
    """Whether a set's images were centered as MNIST's digits were, so that a new one has to be."""
    return dataset.startswith("mnist")


def _report(images: tuple[Path, ...], probabilities: Any) -> None:
    names = [click.format_filename(image) for image in images]
    width = max(map(len, names))
    classes = probabilities.shape[1]
    click.echo(f"{'image':{width}}  class  " + "  ".join(f"{number:>6}" for number in range(classes)))
    for name, row in zip(names, probabilities, strict=True):
        click.echo(f"{name:{width}}  {row.argmax():5}  " + "  ".join(f"{share:6.2%}" for share in row))
