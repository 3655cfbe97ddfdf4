"""``functional-nn predict``: classifying image files with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration.flag_types import JSON_FILE
from functional_nn.core.errors import escaped

if TYPE_CHECKING:
    import numpy as np

TABLE_WIDTH = 80
NEXT_BEST = 2
"""The number of classes that are printed after the most probable one. ``--json`` writes all classes."""

CLASS_WIDTH = 10
"""Longer names of classes are cut in the table. ``--json`` writes them whole."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE…")
@JSON_FILE
@COMPILATION_CACHE
def predict(run: Path, images: tuple[Path, ...], json_file: Path | None) -> None:
    """Classify image files with the network in a run folder.

    Give the run folder first, then the pictures. A picture of the size of the training images keeps its pixels.
    Other pictures are scaled. Digits are centered, too, and may be dark on bright or bright on dark at any size. If the
    network takes gray images, a scaled picture with a bright border is inverted. For a network that was trained on a
    folder of images, nothing is inverted.
    """
    with importing():
        import numpy as np

        from functional_nn.data.image_folder import PREFIX, read_fitted_images
        from functional_nn.data.images import read_image
        from functional_nn.exchange.hub import load
        from functional_nn.storage.files import write_json

    network = load(run)
    dataset, class_names = network.configuration.dataset, network.class_names
    if dataset.startswith(PREFIX):
        x = read_fitted_images(images, network.in_shape)
    else:
        x = np.stack([read_image(image, network.in_shape, digits=is_digits(dataset)) for image in images])
    probabilities = network.predict(x)
    click.echo("\n".join(_table([escaped(str(image)) for image in images], probabilities, class_names)))
    if json_file is not None:
        rows: list[dict[str, object]] = [
            {"image": str(image), "class": int(row.argmax()), "probabilities": row.tolist()}
            for image, row in zip(images, probabilities, strict=True)
        ]
        if class_names is not None:
            for row, number in zip(rows, probabilities.argmax(axis=1), strict=True):
                row["class_name"] = class_names[number]
        write_json(json_file, rows)


def is_digits(dataset: str) -> bool:
    """Whether a data set has centered digits as MNIST has, so that new images must be centered too."""
    return dataset.startswith("mnist")


def _table(names: list[str], probabilities: np.ndarray, class_names: Sequence[str] | None = None) -> list[str]:
    """The lines of a table: each image with its class, the class's probability, and the next best classes."""
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
