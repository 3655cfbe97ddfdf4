"""Data sets by name: the embedded one, folders of images, CSV and IDX files, Debian's package, TensorFlow Datasets."""

from __future__ import annotations

import os
from pathlib import Path

from functional_nn.core.errors import DataError, check, check_data, shown
from functional_nn.data import csv_table, image_folder
from functional_nn.data.csv_table import from_csv
from functional_nn.data.dataset import Dataset, check_name
from functional_nn.data.idx import read_idx_folder
from functional_nn.data.image_folder import load_image_folder
from functional_nn.data.tfds import NAMES, load_tfds
from functional_nn.storage.files import check_folder, check_path

EMBEDDED = "mnist5k"
"""The data set in the package, which needs no other file."""

MNIST5K = Path(__file__).parent / "mnist5k"

INSTALLED = {
    EMBEDDED: (MNIST5K, "the digits embedded in functional_nn (a part of MNIST's training set)"),
    "fashion_mnist": (Path("/usr/share/datasets/fashion-mnist"), "Debian's package dataset-fashion-mnist"),
}
"""The folders of installed data sets by name, and where each came from."""

PATH_PREFIXES = (image_folder.PREFIX, csv_table.PREFIX)
"""Names of data sets that begin with one of these have a path after it."""


def load_dataset(
    name: str = EMBEDDED,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    image_color: str | None = None,
    label: str | None = None,
    progress: bool | None = None,
) -> Dataset:
    """Loads a data set by its name. If it cannot be loaded, that is an error: no other set takes its place.

    Args:
        name: ``mnist5k`` (embedded), ``folder:PATH`` for a folder with a folder of images for each class,
            ``csv:FILE`` for a table, a set of TensorFlow Datasets, or any name for IDX files of your own.
        data_dir: a folder with the four IDX files, or with a set that TFDS prepared. It is only read. If it is
            None, an installed set is read (Debian's ``fashion_mnist``), or TFDS loads or downloads the set.
        image_size: the height and width that the images of a folder are brought to, or one number for both. None keeps
            the size if all images have the same one, and otherwise is 64.
        image_color: ``"gray"`` or ``"rgb"`` for the images of a folder. None is gray if all of them are.
        label: the column of ``csv:FILE`` that has the classes. See `from_csv`.
        progress: whether to show a progress bar while a folder is read. None shows one for 500 images or more, on a
            terminal and in a notebook.

    Returns:
        The data set.

    Raises:
        DataError: if the set is unknown, damaged, or not available; then it names the ways to get it.

    >>> import functional_nn as fnn
    >>> fnn.load_dataset().describe().partition(", from")[0]
    'mnist5k: 4,000 training and 1,000 test images, 28x28x1, 10 classes'
    """
    prefix = path_prefix(name) if isinstance(name, str) else ""
    own = {"image_size": image_size, "image_color": image_color}, {"label": label}
    for needed, arguments in zip(PATH_PREFIXES, own, strict=True):
        for argument, value in arguments.items():
            is_free = value is None or prefix == needed
            check(argument, value, f"nothing for {shown(name)} (only for {needed}PATH)", is_free, _remedy(name))
    if prefix:
        check_data("data_dir", data_dir, f"nothing for {prefix}PATH", data_dir is None, "The path is in the name.")
        path = Path(os.path.expanduser(check_path(f"the path in {prefix}PATH", name.removeprefix(prefix))))
        if prefix == csv_table.PREFIX:
            return from_csv(path, label)
        return load_image_folder(name, path, image_size=image_size, image_color=image_color, progress=progress)
    check_name(name)
    if data_dir is None:
        folder, source = INSTALLED.get(name, (None, ""))
        if folder and (data := read_idx_folder(folder, name, source)):
            return data
        try:
            return load_tfds(name)
        except DataError as error:
            error.remedy = f"{_remedy(name)} {error.remedy}".strip()
            raise
    remedy = "Leave data_dir out, or give your files another name, such as mnist."
    check_data("data_dir", data_dir, "nothing for the embedded mnist5k", name != EMBEDDED, remedy)
    folder = check_path("data_dir", data_dir).expanduser()
    check_folder(folder, "a folder")
    if data := read_idx_folder(folder, name, f"the IDX files in {folder}"):
        return data
    return load_tfds(name, folder)


def _remedy(name: object) -> str:
    """What to write for the path of a folder or a file; empty for a name of another kind."""
    if not isinstance(name, str) or not os.path.exists(name):
        return ""
    return f"For {name}, write {image_folder.PREFIX if os.path.isdir(name) else csv_table.PREFIX}{name}."


def path_prefix(name: str) -> str:
    """The start of the name of a data set if the rest is a path: ``folder:`` or ``csv:``. Empty for other names."""
    return next(filter(name.startswith, PATH_PREFIXES), "")


def are_digits(name: str) -> bool:
    """Whether the images of a data set are single, centered digits, as those of MNIST. New images are then centered."""
    return name.startswith("mnist")


def dataset_names() -> tuple[str, ...]:
    """The names of data sets for help texts. `load_dataset` also loads any other image set of TFDS.

    >>> import functional_nn as fnn
    >>> fnn.data.dataset_names()[:3]
    ('mnist5k', 'mnist', 'fashion_mnist')
    """
    return NAMES
