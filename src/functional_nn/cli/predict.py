"""``functional-nn predict``: classifying image files, or the rows of a table, with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration.flag_types import JSON_FILE, MEMBER, PATH, check_outside
from functional_nn.core.errors import escaped
from functional_nn.core.texts import WIDTH, aligned, cut_to_end

if TYPE_CHECKING:
    import numpy as np

NEXT_BEST = 2
"""The number of classes that are printed after the most probable one. ``--json`` writes all classes."""

CLASS_WIDTH = 10
"""Longer names of classes are cut in the table. ``--json`` writes them whole."""


@click.command()
@click.argument("run", type=PATH)
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE…")
@MEMBER
@JSON_FILE
@COMPILATION_CACHE
def predict(run: Path, files: tuple[Path, ...], member: int | None, json_file: Path | None) -> None:
    """Classify image files, or rows of CSV files, with the network in a run folder, or with the best one of a sweep.

    Give the folder of the run first, then images or folders of images. A network that was trained on a table takes CSV
    files, in which it finds its columns by their names. A picture of the size of the training images keeps its pixels.
    Other pictures are scaled. Digits are centered, too, and may be dark on bright or bright on dark at any size. If the
    network takes gray images, a scaled picture with a bright border is inverted. For a network that was trained on a
    folder of images, nothing is inverted.
    """
    check_outside(json_file, run, *files)
    with importing():
        import numpy as np

        from functional_nn.cli.trained_run import named_member
        from functional_nn.core.errors import DataError
        from functional_nn.data.csv_table import read_rows
        from functional_nn.data.image_folder import PREFIX, images_at, read_fitted_images
        from functional_nn.data.images import read_image
        from functional_nn.data.sources import are_digits
        from functional_nn.exchange.saved_networks import load
        from functional_nn.storage.files import kept_open, write_json

    if run.is_dir():
        click.get_current_context().with_resource(kept_open(run))
    network = load(run, named_member(run, member))
    if network.features is None:
        files = tuple(image for file in files for image in images_at(file))
    dataset, class_names = network.configuration.dataset, network.class_names
    kind, names = "image", list(map(str, files))
    if network.features is not None:
        tables = [read_rows(file, network.features.names) for file in files]
        x = np.concatenate([table.x for table in tables])
        kind = "row"
        names = [f"{file}:{line}" for file, table in zip(files, tables, strict=True) for line in table.lines]
    elif dataset.startswith(PREFIX):
        x = read_fitted_images(files, network.in_shape)
    else:
        digits = are_digits(dataset)
        x = np.stack([read_image(image, network.in_shape, digits=digits) for image in files])
    probabilities = network.predict(x)
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if wrong.size:
        remedy = "Are its numbers, or the parameters of the network, very large?"
        raise DataError(names[wrong[0]], "finite outputs of the network", "NaN or infinity", remedy)
    click.echo("\n".join(_table(kind, list(map(escaped, names)), probabilities, class_names)))
    if json_file is not None:
        rows = []
        for name, row in zip(names, probabilities, strict=True):
            named = {} if class_names is None else {"class_name": class_names[row.argmax()]}
            rows.append({kind: name, "class": int(row.argmax()), "probabilities": row.tolist()} | named)
        write_json(json_file, rows)


def _table(
    kind: str, names: list[str], probabilities: np.ndarray, class_names: Sequence[str] | None = None
) -> list[str]:
    """The lines of a table: each image or row with its class, the class's probability, and the next best classes."""
    shown = [str(number) for number in range(probabilities.shape[1])]
    if class_names is not None:
        cut = [escaped(name) for name in class_names]
        shown = [name if len(name) <= CLASS_WIDTH else f"{name[: CLASS_WIDTH - 1]}…" for name in cut]
    rows = [("class", "probability", "next best")]
    for row in probabilities:
        best, *next_best = (-row).argsort(stable=True)[: NEXT_BEST + 1]
        others = ", ".join(f"{shown[other]} ({row[other]:.2%})" for other in next_best)
        rows.append((shown[best], f"{row[best]:>11.2%}", others))
    lines = aligned(rows)
    room = WIDTH - 2 - max(map(len, lines))
    names = [cut_to_end(name, room) for name in names]
    return aligned(list(zip([kind, *names], lines, strict=True)))
