"""``functional-nn predict``: what a trained network takes an image file for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from functional_nn.cli.beginning import importing
from functional_nn.cli.compilation_cache import COMPILATION_CACHE
from functional_nn.cli.options import JSON_FILE


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

        from functional_nn.checkpoints.parameters import load_parameters
        from functional_nn.cli.configuration import Configuration
        from functional_nn.data.images import read_image
        from functional_nn.errors import DataError
        from functional_nn.reports import run_folder
        from functional_nn.training.predict import predict_probabilities

    values = run_folder.read_configuration(run)
    path = run / run_folder.CONFIGURATION
    configuration = Configuration.from_dict(values, path)
    try:
        classes, (height, width, channels) = int(values["classes"]), map(int, values["image_shape"])
    except (KeyError, TypeError, ValueError):
        raise DataError(str(path), "a run's configuration with classes and image_shape", "one without") from None
    image_shape = (height, width, channels)
    with jax.enable_x64(configuration.precision == "float64"):
        try:
            net = configuration.network(classes)
            shapes = jax.eval_shape(lambda key: net.init(key, image_shape), jax.random.key(0))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise DataError(str(path), "a run's configuration", f"one that makes no network ({error})") from None
        params, state = load_parameters(run / run_folder.PARAMETERS, shapes)
        x = np.stack([read_image(image, image_shape, digits=is_digits(configuration.dataset)) for image in images])
        probabilities = predict_probabilities(net, params, state, x, precision=configuration.precision)
    _report(images, probabilities)
    if json_file is not None:
        rows: list[dict[str, Any]] = [
            {"image": str(image), "class": int(row.argmax()), "probabilities": row.tolist()}
            for image, row in zip(images, probabilities, strict=True)
        ]
        run_folder.write_json(json_file, rows)


def is_digits(dataset: str) -> bool:
    """Whether a set's images were centred as MNIST's digits were, so that a new one has to be."""
    return dataset.startswith("mnist")


def _report(images: tuple[Path, ...], probabilities: Any) -> None:
    names = [click.format_filename(image) for image in images]
    width = max(map(len, names))
    classes = probabilities.shape[1]
    click.echo(f"{'image':{width}}  class  " + "  ".join(f"{number:>6}" for number in range(classes)))
    for name, row in zip(names, probabilities, strict=True):
        click.echo(f"{name:{width}}  {row.argmax():5}  " + "  ".join(f"{share:6.2%}" for share in row))
