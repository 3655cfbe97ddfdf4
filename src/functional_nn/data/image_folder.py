"""Data sets of the user's own images: a folder for each class.

The layout of the folder says which files belong to which class, and to training, test or validation.
"""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from functional_nn.core.display import progress_bar
from functional_nn.core.errors import DataError, check, escaped, reading
from functional_nn.core.texts import counted, is_count
from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.images import image_form, quiet_decoders, read_fitted_image, readable_formats
from functional_nn.storage.files import check_folder, unchanged

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
    check("image_color", image_color, "gray, rgb or None", image_color in (None, *IMAGE_COLORS))
    check_folder(folder, "a folder with a folder of images for each class")
    layout = find_images(folder)
    files = [path for part in layout.parts.values() for of_class in part.values() for path in of_class]
    with unchanged([folder, *files]), quiet_decoders():
        shape = _common_shape(files, size, image_color, progress)
        if (size := len(files) * math.prod(shape)) > MOST_BYTES:
            given = f"{len(files):,} images of {'x'.join(map(str, shape))}, which are {size / 2**30:,.1f} GiB"
            remedy = "Give a smaller image_size, or read the images in batches with a Stream."
            raise DataError(str(folder), f"at most {MOST_BYTES // 2**30} GiB of pixels", given, remedy)
        images = np.empty((len(files), *shape), np.uint8)

        def read(number: int, path: Path) -> None:
            images[number] = read_fitted_image(path, shape)

        _in_threads("reading images", read, files, progress)
    if layout.left_out:
        photographs = " Save photographs of an iPhone as JPEG." if ".heic" in layout.left_out else ""
        warnings.warn(f"{folder}: left out {endings(layout.left_out)}.{photographs}", UserWarning, stacklevel=3)
    return _dataset(name, folder, layout, images)


def images_at(path: Path) -> list[Path]:
    """The images of a folder, also those in folders inside it; of a file, the file itself."""
    return _files_of_class(path, Counter(), least=1) if os.path.isdir(path) else [path]


def read_fitted_images(paths: Sequence[str | os.PathLike[str]], shape: tuple[int, ...]) -> np.ndarray:
    """Reads new images as those of a data set from a folder are read, for a network that was trained on it."""
    with quiet_decoders():
        return np.stack([read_fitted_image(path, shape) for path in paths])


def _dataset(name: str, folder: Path, layout: Layout, images: np.ndarray) -> Dataset:
    # Images are in the order of the parts, one part after the other.
    parts, start = {}, 0
    for part, files in layout.parts.items():
        labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(paths) for paths in files.values()])
        parts[part] = images[start : start + len(labels)], labels
        start += len(labels)
    rule = "" if layout.is_split else " (1 image in 5 of each class is for testing)"
    data = make_dataset(
        name, *parts[TRAIN], *parts[TEST], source=f"the folder {folder}{rule}", class_names=tuple(layout.parts[TRAIN])
    )
    validation_images, validation_labels = parts.get(VALIDATION, (None, None))
    return data._replace(validation_images=validation_images, validation_labels=validation_labels)


def _checked_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width; one number is both."""
    if image_size is None:
        return None
    sizes = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    expected = "a number of pixels such as 64, or height and width such as (48, 64)"
    check("image_size", image_size, expected, len(sizes) == 2 and all(is_count(n, most=MOST_BYTES) for n in sizes))
    height, width = sizes
    return int(height), int(width)


def _common_shape(
    paths: Sequence[Path], size: tuple[int, int] | None, color: str | None, progress: bool | None
) -> tuple[int, int, int]:
    """The shape that all images are brought to: height, width, channels."""
    if size is not None and color is not None:
        return size[0], size[1], IMAGE_COLORS[color]
    forms = _in_threads("looking at images", lambda number, path: image_form(path), paths, progress)
    if size is None:
        sizes = {(height, width) for height, width, _ in forms}
        common = sizes.pop()
        keeps_size = not sizes and max(common) <= LARGEST_COMMON_SIZE
        size = common if keeps_size else (USUAL_SIZE, USUAL_SIZE)
    if color is None:
        color = "gray" if all(is_gray for _, _, is_gray in forms) else "rgb"
    return size[0], size[1], IMAGE_COLORS[color]


def _in_threads(
    title: str, function: Callable[[int, Path], Found], paths: Sequence[Path], progress: bool | None
) -> list[Found]:
    """The results of ``function(number, path)`` for each file, computed in threads: Pillow releases Python's lock.

    Raises:
        DataError: for the first file that cannot be read. It names others, too, so that all can be mended at once.
    """
    show = False if progress is None and len(paths) < MANY else progress
    results: list[Found] = []
    errors: list[DataError] = []
    threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        with progress_bar(title, len(paths), show) as advance:
            # All are submitted before the first result is awaited: otherwise they would run one after the other.
            futures = [threads.submit(function, number, path) for number, path in enumerate(paths)]
            for path, future in zip(paths, futures, strict=True):
                try:
                    results.append(future.result())
                except DataError as error:
                    errors.append(error)
                advance(escaped(path.parent.name))
    finally:
        threads.shutdown(cancel_futures=True)
    if errors:
        error, *others = errors
        error.remedy += " Or remove it from the folder."
        if others:
            names = ", ".join(other.argument for other in others[:3]) + (", …" if len(others) > 3 else "")
            error.remedy += f" {counted(len(others), 'other file')} cannot be used either: {names}."
        raise error from None
    return results


TRAIN, TEST, VALIDATION = "train", "test", "validation"
"""The parts of a data set."""

PART_OF_NAME = {"train": TRAIN, "test": TEST, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
"""The part that a folder holds, by its name in lower case."""

IGNORED = ("__macosx", "thumbs.db", "desktop.ini")
"""What systems put into folders by themselves. Names that begin with a dot are ignored, too."""

TEST_SHARE = 5
"""One image in this number is kept for testing, if the folder does not say which ones."""


OfClasses: TypeAlias = dict[str, list[Path]]
"""The image files of each class, both sorted by name."""


class Layout(NamedTuple):
    """What a folder of images holds.

    Attributes:
        parts: the files of ``train``, ``test``, and of ``validation`` if there is such a folder. All have the same
            classes, which are sorted: the label of a class is its place.
        left_out: the endings of files that are not images, and how many there are of each.
        is_split: whether the folder itself said which images are for testing.
    """

    parts: dict[str, OfClasses]
    left_out: Counter[str]
    is_split: bool


def find_images(folder: Path) -> Layout:
    """Lists the images of a folder that holds a folder for each class, or ``train`` and ``test`` with these in each.

    The result depends on the names of the files alone, not on the order in which the system lists them.

    Raises:
        DataError: if the folder does not have this form.
    """
    left_out: Counter[str] = Counter()
    part_folders = _part_folders(folder)
    if not part_folders:
        files = _files_of_classes(folder, left_out, least=2)
        chosen = {name: _chosen(paths, folder) for name, paths in files.items()}
        train = {name: [path for path in paths if path not in chosen[name]] for name, paths in files.items()}
        test = {name: [path for path in paths if path in chosen[name]] for name, paths in files.items()}
        return Layout({TRAIN: train, TEST: test}, left_out, False)
    parts = {part: _files_of_classes(path, left_out) for part, path in part_folders.items()}
    for part, files in parts.items():
        for name in sorted(parts[TRAIN].keys() ^ files.keys()):
            with_it, without = (TRAIN, part) if name in parts[TRAIN] else (part, TRAIN)
            given = f"the class {name!r} in {part_folders[with_it].name} only"
            remedy = f"Add the folder {part_folders[without] / name}, or remove the other one."
            raise DataError(str(folder), "the same classes for training and testing", given, remedy)
    return Layout(parts, left_out, True)


def _part_folders(folder: Path) -> dict[str, Path]:
    """The folders of the parts: ``train`` and ``test``, perhaps ``validation``; empty if classes are in the folder.

    Without ``test``, the validation images are for testing, as TFDS does. A folder ``train`` alone can be a class.
    """
    folders, _ = _content(folder)
    others = [path.name for path in folders if path.name.lower() not in PART_OF_NAME]
    named = [(PART_OF_NAME[path.name.lower()], path) for path in folders if path.name not in others]
    found = dict(named)
    if TRAIN not in found or len(named) == 1:
        return {}
    names = ", ".join(path.name for path in found.values())
    if len(found) < len(named):
        given = ", ".join(path.name for _, path in named)
        raise DataError(str(folder), "one folder for each part", given, "Keep one folder for each part.")
    if others:
        remedy = "Move it into them if it is a class, and elsewhere if it is not."
        raise DataError(str(folder), f"only {names}", f"the folder {others[0]!r} beside them", remedy)
    if TEST not in found:
        found[TEST] = found.pop(VALIDATION)
    return {part: found[part] for part in (TRAIN, TEST, VALIDATION) if part in found}


def _files_of_classes(folder: Path, left_out: Counter[str], least: int = 1) -> OfClasses:
    """The image files of each class, both sorted by name."""
    found, files = _content(folder)
    loose = [path.name for path in files if is_image_name(path.name)]
    # macOS and Linux write accents in different ways. A class must have one name on both.
    folders = {unicodedata.normalize("NFC", path.name): path for path in found}
    given, remedy = "", "Put the images of each class into a folder that has the name of the class."
    if len(folders) < len(found):
        counts = Counter(unicodedata.normalize("NFC", path.name) for path in found)
        given, remedy = f"two folders with the name {max(counts, key=counts.__getitem__)!r}", "Rename one of them."
    elif not folders:
        given = "no folder"
    elif loose:
        given = f"{loose[0]!r} beside the folders"
    elif len(folders) == 1:
        ((name, path),) = folders.items()
        given = f"only {name!r}"
        if _content(path)[0]:
            remedy = f"If the classes are inside {name!r}, load that folder."
    if given:
        raise DataError(str(folder), "at least two folders, one for each class, and nothing beside them", given, remedy)
    return {name: _files_of_class(folders[name], left_out, least) for name in sorted(folders)}


def _files_of_class(folder: Path, left_out: Counter[str], least: int) -> list[Path]:
    """The image files of a class, also those in folders inside it, sorted by their path inside the class."""
    found = []
    others: Counter[str] = Counter()
    pending = [folder]
    while pending:
        folders, files = _content(pending.pop())
        pending += folders
        found += [path for path in files if is_image_name(path.name)]
        others.update(path.suffix.lower() for path in files if not is_image_name(path.name))
    if len(found) < least:
        given = counted(len(found), "image") if found else "no image"
        if others:
            given += f", and {endings(others)}"
        expected = "at least one image" if least == 1 else "at least 2 images, for training and for testing"
        raise DataError(str(folder), expected, given, "Add images, or remove the folder.")
    left_out.update(others)
    return sorted(found, key=lambda path: _name_in_class(path, folder.parent))


def _name_in_class(path: Path, classes: Path) -> bytes:
    """A file's path inside its class, in the same bytes on all systems; ``classes`` is the folder of the classes."""
    name = path.relative_to(classes).as_posix().partition("/")[2]
    return os.fsencode(unicodedata.normalize("NFC", name))


def _chosen(files: list[Path], classes: Path) -> set[Path]:
    """The files of a class that are for testing: one in five, but at least one.

    They are those whose names have the smallest SHA-256. So the choice looks random, is the same on every machine, and
    changes little if images are added.
    """
    # len(files) / 5, rounded to the nearest whole number.
    number = max(1, (len(files) + TEST_SHARE // 2) // TEST_SHARE)
    by_hash = sorted(files, key=lambda path: hashlib.sha256(_name_in_class(path, classes)).digest())
    return set(by_hash[:number])


def endings(left_out: Counter[str]) -> str:
    """Files that are not images, by their endings, the most frequent first.

    >>> endings(Counter({".heic": 200, ".txt": 1}))
    '201 files of other kinds (.heic, .txt)'
    """
    names = sorted(left_out, key=lambda ending: (-left_out[ending], ending))
    shown = ", ".join(escaped(name) or "no ending" for name in names[:5]) + (", …" if len(names) > 5 else "")
    number = sum(left_out.values())
    return f"{counted(number, 'file')} of other kinds ({shown})"


def is_image_name(name: str) -> bool:
    """Whether a file may be an image by its name: files with its ending are read, or it has no ending."""
    import PIL.Image

    ending = os.path.splitext(name)[1].lower()
    return not ending or PIL.Image.registered_extensions().get(ending) in readable_formats()


def _content(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted by name, without hidden ones and those of systems.

    Links to files are followed. Anything but files and folders is an error: reading a pipe would never end.
    """
    with reading(folder, "a folder that can be read", errors=OSError), os.scandir(folder) as found:
        entries = [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in IGNORED]
    folders: list[Path] = []
    files: list[Path] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        with reading(entry.path, "a file or a folder", "Remove it.", errors=OSError):  # a link may lead to itself
            if entry.is_dir():
                if entry.is_symlink():
                    remedy = "Such links can lead round in circles. Move the folder here, or link to each image."
                    raise DataError(entry.path, "an image, or a folder of images", "a link to a folder", remedy)
                folders.append(Path(entry.path))
            elif entry.is_file():
                files.append(Path(entry.path))
            else:
                raise OSError("a link that leads nowhere" if entry.is_symlink() else "neither of these")
    return folders, files
