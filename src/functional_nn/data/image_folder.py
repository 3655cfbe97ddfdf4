"""Data sets of the user's own images: a folder for each class."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from functional_nn.core.counts import counted, is_count
from functional_nn.core.errors import DataError, InputError, escaped, short_repr
from functional_nn.core.progress import progress_bar
from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.image_folder_layout import (
    TEST,
    TRAIN,
    VALIDATION,
    ImageFile,
    Layout,
    endings,
    find_images,
)
from functional_nn.data.images import image_form, quiet_decoders, read_fitted_image

PREFIX = "folder:"
"""Names of data sets that begin with this are paths of folders."""

IMAGE_COLORS = {"gray": 1, "rgb": 3}
"""The number of channels for each choice of ``image_color``."""

USUAL_SIZE = 64
"""The height and width that images of different sizes are brought to."""

LARGEST_COMMON_SIZE = 256
"""Images that all have one size keep it, if height and width are at most this."""

MOST_BYTES = 4 * 2**30
"""The largest data set that is read, since all images are in memory."""

MANY = 500
"""For this number of images or more, reading shows a progress bar."""

THREADS = 4
"""Images that are decoded at the same time. Each can take hundreds of megabytes for a moment."""

Found = TypeVar("Found")


def load_image_folder(
    name: str,
    folder: Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    image_color: str | None = None,
    progress: bool | None = None,
) -> Dataset:
    """Loads images from a folder that holds a folder for each class, or ``train`` and ``test`` with these in each.

    See docs/how_to/images_in_folders.md for the rules.

    Args:
        name: the data set's name.
        folder: the folder.
        image_size: as for `load_dataset`.
        image_color: as for `load_dataset`.
        progress: as for `load_dataset`.

    Raises:
        DataError: names the file or folder that cannot be used.
        InputError: for a size or a color that is none.
    """
    size = _checked_size(image_size)
    if image_color is not None and image_color not in IMAGE_COLORS:
        raise InputError("image_color", f"one of {', '.join(IMAGE_COLORS)}", short_repr(image_color))
    if not folder.is_dir():
        given = "a file" if folder.is_file() else "nothing there"
        raise DataError(str(folder), "a folder with a folder of images for each class", given)
    layout = find_images(folder)
    files = [file for part in layout.parts.values() for file in part]
    with quiet_decoders():
        shape = _common_shape(files, size, image_color, progress)
        _check_bytes(folder, len(files), shape)
        images = np.empty((len(files), *shape), np.uint8)

        def read(number: int) -> None:
            images[number] = read_fitted_image(files[number].path, shape)

        _in_threads("reading images", read, range(len(files)), lambda number: files[number].path, progress)
    _warn_of_left_out(folder, layout.left_out)
    return _dataset(name, folder, layout, images)


def read_fitted_images(paths: Sequence[str | os.PathLike[str]], shape: tuple[int, int, int]) -> np.ndarray:
    """Reads new images as those of a data set from a folder are read, for a network that was trained on it."""
    with quiet_decoders():
        return np.stack([read_fitted_image(path, shape) for path in paths])


def _dataset(name: str, folder: Path, layout: Layout, images: np.ndarray) -> Dataset:
    labels = np.array([file.label for part in layout.parts.values() for file in part], np.int32)
    # Images and labels are in the order of the parts, one part after the other.
    ends = np.cumsum([len(files) for files in layout.parts.values()])
    split_images, split_labels = np.split(images, ends[:-1]), np.split(labels, ends[:-1])
    parts = dict(zip(layout.parts, zip(split_images, split_labels, strict=True), strict=True))
    rule = "" if layout.is_split else " (1 image in 5 of each class is for testing)"
    data = make_dataset(
        name, *parts[TRAIN], *parts[TEST], source=f"the folder {folder}{rule}", class_names=layout.class_names
    )
    if VALIDATION not in parts:
        return data
    validation_images, validation_labels = parts[VALIDATION]
    return data._replace(validation_images=validation_images, validation_labels=validation_labels)


def _checked_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width; one number is both."""
    if image_size is None:
        return None
    sizes = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sizes) != 2 or not all(is_count(size) for size in sizes):
        expected = "a number of pixels such as 64, or height and width such as (48, 64)"
        raise InputError("image_size", expected, short_repr(image_size))
    height, width = sizes
    return int(height), int(width)


def _common_shape(
    files: Sequence[ImageFile], size: tuple[int, int] | None, color: str | None, progress: bool | None
) -> tuple[int, int, int]:
    """The shape that all images are brought to: height, width, channels."""
    if size is not None and color is not None:
        return size[0], size[1], IMAGE_COLORS[color]
    paths = [file.path for file in files]
    forms = _in_threads("looking at images", image_form, paths, lambda path: path, progress)
    if size is None:
        sizes = {(height, width) for height, width, _ in forms}
        common = sizes.pop()
        keeps_size = not sizes and max(common) <= LARGEST_COMMON_SIZE
        size = common if keeps_size else (USUAL_SIZE, USUAL_SIZE)
    if color is None:
        color = "gray" if all(is_gray for _, _, is_gray in forms) else "rgb"
    return size[0], size[1], IMAGE_COLORS[color]


def _check_bytes(folder: Path, number: int, shape: tuple[int, int, int]) -> None:
    size = number * math.prod(shape)
    if size > MOST_BYTES:
        given = f"{number:,} images of {'x'.join(map(str, shape))}, which are {size / 2**30:,.1f} GiB"
        remedy = "Give a smaller image_size, or read the images in batches with a Stream."
        raise DataError(str(folder), f"at most {MOST_BYTES // 2**30} GiB of pixels", given, remedy)


def _in_threads(
    title: str,
    function: Callable[..., Found],
    arguments: Sequence[object],
    path_of: Callable[..., Path],
    progress: bool | None,
) -> list[Found]:
    """The results of a function for each file, computed in threads: Pillow releases Python's lock.

    Raises:
        DataError: for the first file that cannot be read. It names others, too, so that all can be mended at once.
    """
    show = False if progress is None and len(arguments) < MANY else progress
    results: list[Found] = []
    errors: list[DataError] = []
    threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        with progress_bar(title, len(arguments), show) as advance:
            # All are submitted before the first result is awaited: otherwise they would run one after the other.
            futures = [threads.submit(function, argument) for argument in arguments]
            for argument, future in zip(arguments, futures, strict=True):
                try:
                    results.append(future.result())
                except DataError as error:
                    errors.append(error)
                advance(escaped(path_of(argument).parent.name))
    finally:
        threads.shutdown(cancel_futures=True)
    if errors:
        first, others = errors[0], errors[1:]
        remedy = f"{first.remedy} Or remove it from the folder."
        if others:
            names = ", ".join(error.argument for error in others[:3]) + (", …" if len(others) > 3 else "")
            remedy += f" {counted(len(others), 'other file')} cannot be used either: {names}."
        raise DataError(first.argument, first.expected, first.given, remedy) from None
    return results


def _warn_of_left_out(folder: Path, left_out: Counter[str]) -> None:
    if left_out:
        text = f"{folder}: left out {endings(left_out)}."
        if ".heic" in left_out:
            text += " Save photographs of an iPhone as JPEG."
        warnings.warn(text, UserWarning, stacklevel=4)
