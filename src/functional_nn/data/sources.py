"""Data sets by name: the embedded one, folders of images, IDX files, Debian's package, TensorFlow Datasets."""

from __future__ import annotations

import os
from pathlib import Path

from functional_nn.core.errors import DataError, check, check_data, shown
from functional_nn.data.dataset import Dataset, check_name
from functional_nn.data.idx import read_idx_folder
from functional_nn.data.image_folder import PREFIX, load_image_folder
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


def load_dataset(
    name: str = EMBEDDED,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    image_color: str | None = None,
    progress: bool | None = None,
) -> Dataset:
    """Loads a data set by its name. If it cannot be loaded, that is an error: no other set takes its place.

    Args:
        name: ``mnist5k`` (embedded), ``folder:PATH`` for a folder with a folder of images for each class, a set of
            TensorFlow Datasets, or any name for IDX files of your own.
        data_dir: a folder with the four IDX files, or with a set that TFDS prepared. It is only read. If it is
            None, an installed set is read (Debian's ``fashion_mnist``), or TFDS loads or downloads the set.
        image_size: the height and width that the images of a folder are brought to, or one number for both. None keeps
            the size if all images have the same one, and otherwise is 64.
        image_color: ``"gray"`` or ``"rgb"`` for the images of a folder. None is gray if all of them are.
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
    if isinstance(name, str) and name.startswith(PREFIX):
        check_data("data_dir", data_dir, f"nothing for {PREFIX}PATH", data_dir is None, "The path is in the name.")
        path = check_path("the path in folder:PATH", name.removeprefix(PREFIX))
        folder = Path(os.path.expanduser(path))
        return load_image_folder(name, folder, image_size=image_size, image_color=image_color, progress=progress)
    for argument, value in (("image_size", image_size), ("image_color", image_color)):
        check(argument, value, f"nothing for {shown(name)} (only for {PREFIX}PATH)", value is None)
    check_name(name)
    if data_dir is None:
        folder, source = INSTALLED.get(name, (None, ""))
        if folder and (data := read_idx_folder(folder, name, source)):
            return data
        try:
            return load_tfds(name)
        except DataError as error:
            if not Path(name).is_dir():
                raise
            remedy = f"To load the images in the folder {name}, write {PREFIX}{name}. {error.remedy}"
            raise DataError(error.argument, error.expected, error.given, remedy) from None
    remedy = "Leave data_dir out, or give your files another name, such as mnist."
    check_data("data_dir", data_dir, "nothing for the embedded mnist5k", name != EMBEDDED, remedy)
    folder = check_path("data_dir", data_dir).expanduser()
    check_folder(folder, "a folder")
    if data := read_idx_folder(folder, name, f"the IDX files in {folder}"):
        return data
    return load_tfds(name, folder)


def dataset_names() -> tuple[str, ...]:
    """The names of data sets for help texts. `load_dataset` also loads any other image set of TFDS.

    >>> import functional_nn as fnn
    >>> fnn.data.dataset_names()[:3]
    ('mnist5k', 'mnist', 'fashion_mnist')
    """
    return NAMES
