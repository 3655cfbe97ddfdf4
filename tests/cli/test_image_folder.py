"""``train``, ``sweep`` and ``predict`` on a folder of the user's own images."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.cli.conftest import result_of

from functional_nn.cli import run
from functional_nn.core.errors import DataError
from functional_nn.exchange import saved_networks

pytestmark = pytest.mark.usefixtures("no_pages")
NAMES = ("a very long name of a class", "b$c$", "日本")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of images whose color says the class, and the folder of a run on them."""
    place = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (place / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 80, (6 + number, 8, 3), np.uint8)
            pixels[..., label] += 150
            PIL.Image.fromarray(pixels).save(place / "pets" / name / f"{number}.png")
    flags = ["--epochs", "12", "--hidden", "none", "--batch-size", "8", "--learning-rate", "0.03"]
    command = ["train", "--dataset", f"folder:{place / 'pets'}", "--image-size", "4", *flags]
    assert run([*command, "--out", str(place / "run"), "--quiet"]) == 0
    return place / "pets", place / "run"


def test_the_configuration_has_the_names_of_the_classes(trained):
    images, folder = trained
    configuration = json.loads((folder / "config.json").read_text())
    assert configuration["class_names"] == list(NAMES)
    assert configuration["image_shape"] == [4, 4, 3]
    assert configuration["image_size"] == [4]
    assert configuration["dataset"] == f"folder:{images}"


def test_predict_shows_the_names(trained, tmp_path, capsys):
    images, folder = trained
    paths = [str(images / name / "0.png") for name in NAMES]
    rows = result_of(["predict", folder, *paths], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "class", "probability", "next", "best"]
    for line, name in zip(lines[1:], ("a very lo…", "b$c$", "日本"), strict=True):
        assert f"  {name}  " in line
    assert [row["class_name"] for row in rows] == list(NAMES)
    assert [row["class"] for row in rows] == [0, 1, 2]
    in_folder = [row["image"] for row in result_of(["predict", folder, images], tmp_path)]
    assert in_folder == sorted(str(path) for path in images.rglob("*.png"))


@pytest.mark.parametrize("names", ["cat", ["cat"], ["cat", 3], {"cat": 0, "dog": 1}])
def test_names_in_a_configuration_that_do_not_fit(names):
    values = {"classes": 2, "image_shape": [4, 4, 3], "class_names": names}
    with pytest.raises(DataError, match=r"expected a run's configuration.*class_names"):
        saved_networks.examples_of(values, Path("config.json"))


@pytest.mark.parametrize("size", ["none", "0", "1,2,3", "x"])
def test_sizes_that_are_none(size, trained, refused):
    images, _ = trained
    refused(["train", "--dataset", f"folder:{images}", "--image-size", size], "--image-size")


def test_a_sweep_takes_the_same_flags(trained, refused):
    refused(["sweep", "--dataset", "mnist5k", "--image-color", "gray"], "image_color: expected nothing for 'mnist5k'")
    images, _ = trained
    refused(["sweep", "--dataset", f"folder:{images}", "--image-size", "60000,50000"], "60000x50000x3")
