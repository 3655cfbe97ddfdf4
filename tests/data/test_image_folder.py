"""Folders of images as data sets: which files are read, how they are brought to one form, and what is refused."""

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from functional_nn import load_dataset
from functional_nn.core.errors import DataError, InputError
from functional_nn.data import Dataset, image_folder


def save(path: Path, pixels: np.ndarray | PIL.Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    image.save(path, **options)
    return path


def plain(value: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def write_classes(folder: Path, count: int = 10, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Gray images of 8 x 8 pixels. Each has a brightness of its own, by which a test knows it again."""
    for label, name in enumerate(names):
        for number in range(count):
            save(folder / name / f"{number}.png", plain(label * 100 + number))
    return folder


def loaded(folder: Path, **options: object) -> Dataset:
    return load_dataset(f"folder:{folder}", **options)  # pyright: ignore[reportArgumentType]


def brightness(images: np.ndarray) -> list[int]:
    return [int(image.flat[0]) for image in images]


# Classes and parts


def test_a_folder_for_each_class(tmp_path):
    data = loaded(write_classes(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == (16, 8, 8, 1)
    assert np.bincount(data.train_labels).tolist() == [8, 8]
    assert np.bincount(data.test_labels).tolist() == [2, 2]
    everything = brightness(data.train_images) + brightness(data.test_images)
    assert sorted(everything) == sorted([*range(10), *range(100, 110)])
    assert [value // 100 for value in brightness(data.train_images)] == data.train_labels.tolist()
    assert data.describe().endswith(f"from the folder {tmp_path} (1 image in 5 of each class is for testing)")


def test_the_split_is_the_same_on_every_machine(tmp_path):
    assert brightness(loaded(write_classes(tmp_path)).test_images) == [0, 6, 100, 106]


@pytest.mark.parametrize(("images", "for_testing"), [(2, 1), (3, 1), (7, 1), (8, 2), (12, 2), (13, 3)])
def test_one_image_in_five_is_for_testing_but_at_least_one(tmp_path, images, for_testing):
    data = loaded(write_classes(tmp_path, images))
    assert np.bincount(data.test_labels).tolist() == [for_testing] * 2


def test_a_new_image_moves_at_most_one_other_in_its_class(tmp_path):
    before = brightness(loaded(write_classes(tmp_path, 20)).test_images)
    for name in ("new", "z", "a"):
        save(tmp_path / "cat" / f"{name}.png", plain(99))
        after = brightness(loaded(tmp_path).test_images)
        assert len(set(before) - set(after) - {99}) <= 1
        before = after


def test_images_of_another_folder_get_no_label_of_this_one(tmp_path, monkeypatch):
    """A link to the newest images moves on while they are read."""
    for name in ("old", "new"):
        write_classes(tmp_path / name)
    (tmp_path / "latest").symlink_to("old")
    (tmp_path / "next").symlink_to("new")

    def move_and_read(path, shape):
        with suppress(FileNotFoundError):  # it has moved
            (tmp_path / "next").replace(tmp_path / "latest")
        return np.zeros(shape, np.uint8)

    monkeypatch.setattr("functional_nn.data.image_folder.read_fitted_image", move_and_read)
    with pytest.raises(DataError, match="stays the same while it is read"):
        loaded(tmp_path / "latest")


def test_folders_of_classes_that_change_their_names_meanwhile(tmp_path, monkeypatch):
    names = iter([("cat", "away"), ("dog", "cat"), ("away", "dog")])
    write_classes(tmp_path)

    def rename_and_read(path, shape):
        for old, new in names:
            (tmp_path / old).rename(tmp_path / new)
        return np.zeros(shape, np.uint8)

    monkeypatch.setattr("functional_nn.data.image_folder.read_fitted_image", rename_and_read)
    with pytest.raises(DataError, match="stays the same while it is read"):
        loaded(tmp_path)


def test_folders_of_training_and_testing(tmp_path):
    write_classes(tmp_path / "Train", 3)
    write_classes(tmp_path / "test", 1)
    data = loaded(tmp_path)
    assert brightness(data.train_images) == [0, 1, 2, 100, 101, 102]
    assert brightness(data.test_images) == [0, 100]
    assert data.validation_images is None
    assert data.source == f"the folder {tmp_path}"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images(tmp_path, name):
    write_classes(tmp_path / "train", 3)
    write_classes(tmp_path / name, 2)
    data = loaded(tmp_path)
    assert len(data.test_images) == 4
    assert data.validation_images is None
    write_classes(tmp_path / "test", 1)
    data = loaded(tmp_path)
    assert len(data.test_images) == 2
    assert brightness(data.validation_images) == [0, 1, 100, 101]
    assert data.validation_labels.tolist() == [0, 0, 1, 1]


def test_train_may_be_a_class(tmp_path):
    assert loaded(write_classes(tmp_path, 3, ("plane", "train"))).class_names == ("plane", "train")


def test_links_to_images_are_followed_and_links_to_folders_are_an_error(tmp_path):
    write_classes(tmp_path / "there", 3)
    folder = tmp_path / "here"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in (0, 1):
            (folder / name / f"{number}.png").symlink_to(tmp_path / "there" / name / f"{number}.png")
    assert len(loaded(folder).train_images) == 2
    (folder / "private").symlink_to(tmp_path / "there" / "cat")
    refused(folder, "private: expected an image, or a folder of images, got a link to a folder")


NAMES = ("ñandú 猫 😀", "a 'b' $c$ %s {0}", "-rf", "two\nlines", "\udcff\udcfe")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of these names")
def test_names_with_odd_characters(tmp_path):
    folder = tmp_path / "\x1b[31m \udce9"
    for label, name in enumerate(NAMES):
        for number in range(2):
            save(folder / "class", plain(label), format="png").rename(folder / f"{number}")
            (folder / name).mkdir(exist_ok=True)
            (folder / f"{number}").rename(folder / name / f"{name}{number}.PNG")
    data = loaded(folder)
    assert data.class_names == tuple(sorted(NAMES))
    for text in (data.describe(), repr(data)):
        text.encode()
        assert "\x1b" not in text


def test_hidden_files_and_those_of_systems_are_ignored(tmp_path):
    write_classes(tmp_path, 2)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.hidden.png", "cat/Thumbs.db"):
        (tmp_path / name).write_bytes(b"nothing")
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/.thumbnails"):
        save(tmp_path / name / "1.png", plain(9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = loaded(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert len(data.train_images) == 2


def test_other_files_are_left_out_with_a_warning(tmp_path):
    write_classes(tmp_path, 2)
    for name in ("cat/1.HEIC", "cat/2.heic", "dog/notes.txt"):
        (tmp_path / name).write_text("text")
    with pytest.warns(UserWarning, match=r"left out 3 files .*\(\.heic, \.txt\)\. Save photographs") as caught:
        loaded(tmp_path)
    assert caught[0].filename == __file__ or "test_image_folder" in caught[0].filename


# The form of the images


def test_images_of_one_size_keep_their_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 12, 20, 3), np.uint8)
    for label, number in np.ndindex(2, 2):
        save(tmp_path / "ab"[label] / f"{number}.png", pixels[label, number])
    data = loaded(tmp_path)
    found = np.concatenate([data.train_images, data.test_images])
    assert sorted(map(bytes, found)) == sorted(map(bytes, pixels.reshape(4, 12, 20, 3)))


def test_images_of_different_sizes_are_64_by_64(tmp_path):
    write_classes(tmp_path, 2)
    save(tmp_path / "cat" / "wide.png", plain(1, (30, 200)))
    assert loaded(tmp_path).train_images.shape[1:] == (64, 64, 1)


@pytest.mark.parametrize(("size", "shape"), [(10, (10, 10)), ((6, 12), (6, 12)), ([6, 12], (6, 12)), (1, (1, 1))])
def test_the_size_can_be_chosen(tmp_path, size, shape):
    assert loaded(write_classes(tmp_path, 2), image_size=size).train_images.shape[1:3] == shape


def test_the_middle_is_kept_in_its_proportions(tmp_path):
    wide = plain(0, (10, 30))
    wide[:, 10:20] = 200
    for name in ("a", "b"):
        for number in range(2):
            save(tmp_path / name / f"{number}.png", wide)
    images = loaded(tmp_path, image_size=10).train_images
    assert images.min() == images.max() == 200


def test_colors(tmp_path):
    write_classes(tmp_path, 2)
    assert loaded(tmp_path, image_color="rgb").train_images.shape == (2, 8, 8, 3)
    save(tmp_path / "cat" / "red.png", np.full((8, 8, 3), (255, 0, 0), np.uint8))
    assert loaded(tmp_path).train_images.shape[1:] == (8, 8, 3)
    gray = loaded(tmp_path, image_color="gray", image_size=8)
    assert gray.train_images.shape[1:] == (8, 8, 1)
    assert 76 in brightness(np.concatenate([gray.train_images, gray.test_images]))  # 0.299 of 255


def test_large_photographs_are_the_same_whether_decoded_small_or_whole(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    photograph = np.stack([np.tile(ramp, (800, 1)), np.tile(ramp[:, None], (1, 800)), plain(90, (800, 800))], -1)
    for name, ending in (("a", "jpg"), ("b", "png")):
        for number in range(2):
            save(tmp_path / name / f"{number}.{ending}", photograph, **({"quality": 95} if ending == "jpg" else {}))
    jpeg, png = loaded(tmp_path, image_size=32).train_images.astype(int)
    assert np.abs(jpeg - png).max() <= 6


# What is refused


def refused(folder: Path | str, words: str, **options: object) -> str:
    with pytest.raises(DataError, match=words) as caught:
        loaded(folder, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


def test_no_folder(tmp_path):
    refused(tmp_path / "missing", "expected a folder with a folder of images for each class, got nothing there")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "got a file")
    refused("~no_such_user/x", "got nothing there")
    for name in ("folder:", "folder:a\0b"):
        with pytest.raises(InputError, match=r"the path in folder:PATH: expected the path of a file or folder"):
            load_dataset(name)


def test_no_classes(tmp_path):
    refused(
        tmp_path,
        "nothing beside them, got no folder. Put the images of each class into a folder",
    )
    save(tmp_path / "1.png", plain(0))
    refused(tmp_path, "got no folder")


def test_one_class(tmp_path):
    write_classes(tmp_path / "pets", 2, ("cat",))
    refused(tmp_path / "pets", "at least two folders, one for each class, .*, got only 'cat'. Put the images")
    write_classes(tmp_path / "pets", 2)
    refused(tmp_path, "got only 'pets'. If the classes are inside 'pets', load that folder")


def test_an_empty_class(tmp_path):
    write_classes(tmp_path, 2)
    (tmp_path / "bird").mkdir()
    assert str(tmp_path / "bird") in refused(tmp_path, "at least 2 images, for training and for testing, got no image")
    (tmp_path / "bird" / "1.heic").touch()
    refused(tmp_path, r"got no image, and 1 file of other kinds \(\.heic\)")
    save(tmp_path / "bird" / "1.png", plain(0))
    refused(tmp_path, "got 1 image, and 1 file")


def test_images_beside_the_classes(tmp_path):
    save(write_classes(tmp_path, 2) / "stray.jpg", plain(0))
    refused(tmp_path, "got 'stray.jpg' beside the folders. Put the images of each class")


def test_parts_that_do_not_fit(tmp_path):
    write_classes(tmp_path / "train", 2)
    write_classes(tmp_path / "test", 1, ("cat", "dgo"))
    message = refused(tmp_path, "the same classes for training and testing, got the class 'dgo' in test only")
    assert f"Add the folder {tmp_path / 'train' / 'dgo'}" in message
    (tmp_path / "test" / "dgo").rename(tmp_path / "test" / "dog")
    (tmp_path / "bird").mkdir()
    refused(tmp_path, "expected only (test, train|train, test), got the folder 'bird' beside them")
    (tmp_path / "bird").rename(tmp_path / "Train")
    refused(tmp_path, "one folder for each part, got .*test.*Keep one folder")


def test_broken_images_are_named(tmp_path):
    write_classes(tmp_path, 3)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "a.png").write_bytes(whole[:45])
    assert str(tmp_path / "cat" / "a.png") in refused(tmp_path, "expected a readable image file, got")
    (tmp_path / "cat" / "b.jpg").write_text("not an image")
    (tmp_path / "dog" / "c.png").touch()
    remedy = "Or remove it from the folder. 1 other file cannot be used either: "
    message = refused(tmp_path, f"b.jpg: expected an image file, got another kind of file. .* {remedy}")
    assert str(tmp_path / "dog" / "c.png") in message
    (tmp_path / "cat" / "b.jpg").unlink()
    refused(tmp_path, "c.png: expected an image file, got an empty file")


def test_more_pixels_than_fit_in_memory(tmp_path, monkeypatch):
    write_classes(tmp_path, 2)
    refused(tmp_path, r"at most 4 GiB of pixels, got 4 images of 50000x50000x3, which are 27.9 GiB. Give a smaller",
            image_size=50_000, image_color="rgb")  # fmt: skip
    monkeypatch.setattr(image_folder, "MOST_BYTES", 255)
    refused(tmp_path, "got 4 images of 8x8x1")


def test_links_that_lead_nowhere_or_round_in_circles(tmp_path):
    folder = write_classes(tmp_path / "pets", 2)
    link = folder / "cat" / "link.png"
    link.symlink_to("missing.png")
    refused(folder, "link.png: expected a file or a folder, got a link that leads nowhere")
    link.unlink()
    link.symlink_to("link.png")
    refused(
        folder,
        "link.png: expected a file or a folder, got (Too many levels|a link that leads nowhere)",
    )
    for target in ("..", ".", "/", "../dog"):
        link.unlink()
        link.symlink_to(target)
        refused(folder, "link.png: expected an image, or a folder of images, got a link to a folder")
    link.unlink()
    (folder / "loop").symlink_to(".")
    refused(folder, "loop: expected an image, or a folder of images, got a link to a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(write_classes(tmp_path, 2) / "cat" / "pipe.png")
    refused(tmp_path, "pipe.png: expected a file or a folder, got neither of these")


@pytest.mark.parametrize("size", [0, -1, 2.5, "64", True, (64,), (1, 2, 3), (64, 0), (), 10**400])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(InputError, match="image_size: expected a number of pixels such as 64"):
        loaded(write_classes(tmp_path, 2), image_size=size)


def test_colors_that_are_none_and_other_data_sets_that_take_neither_size_nor_color(tmp_path):
    with pytest.raises(InputError, match="image_color: expected gray, rgb or None, got 'RGB'"):
        loaded(write_classes(tmp_path, 2), image_color="RGB")
    with pytest.raises(InputError, match=r"image_size: expected nothing for 'mnist5k' \(only for folder:PATH\), got 3"):
        load_dataset("mnist5k", image_size=3)
    with pytest.raises(InputError, match="image_color: expected nothing"):
        load_dataset("mnist5k", image_color="gray")
    with pytest.raises(DataError, match="data_dir: expected nothing for folder:PATH"):
        load_dataset(f"folder:{tmp_path}", tmp_path)
