"""The commands on a table: ``train``, ``predict``, ``report``, ``sweep``, ``export``, ``--from`` and ``--resume``."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.cli.conftest import result_of

import functional_nn as fnn
from functional_nn.cli import run
from functional_nn.core.errors import DataError
from functional_nn.exchange import saved_networks

pytestmark = pytest.mark.usefixtures("no_pages")
QUICK = ["--hidden", "8", "--batch-size", "16", "--learning-rate", "0.1", "--quiet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A table whose label says whether two columns differ, but for some rows, and the folder of a run on it."""
    place = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(0)
    rows = random.normal((100, -3), (10, 0.1), (80, 2))
    kinds = np.where((rows[:, 0] > 100) ^ (np.arange(80) % 8 == 0), "large", "small")
    lines = [f"{size:.2f};{kind};{depth:.3f}" for (size, depth), kind in zip(rows, kinds, strict=True)]
    file = place / "animals.csv"
    file.write_text("\n".join(["size;kind;depth", *lines]))
    command = ["train", "--dataset", f"csv:{file}", "--label", "kind", "--epochs", "5", *QUICK]
    assert run([*command, "--out", str(place / "run")]) == 0
    return file, place / "run"


def test_predict_finds_the_columns_by_name(trained, tmp_path, capsys, refused):
    _, folder = trained
    new = tmp_path / "new.csv"
    new.write_text("depth,name,size\n-3,whale,130\n\n-3,mouse,70\n")
    rows = result_of(["predict", folder, new], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["row", "class"]
    assert [line.split("new.csv:")[1].split()[:2] for line in lines[1:]] == [["2", "large"], ["4", "small"]]
    assert rows[1]["row"] == f"{new}:4"
    network = fnn.exchange.load(folder)
    found = network.predict([[130, -3], [70, -3]])
    np.testing.assert_array_equal(found, np.float32([row["probabilities"] for row in rows]))
    names, rows = ["depth", "size"], np.ones((2, 1))
    of_pandas = SimpleNamespace(columns=names, __array__=lambda: rows.T)
    of_arrow = SimpleNamespace(columns=list(rows), column_names=names, __array__=lambda: rows.T)
    for table in (of_pandas, of_arrow):
        with pytest.raises(fnn.InputError, match=r"expected the columns \['size', 'depth'\], in this order, got"):
            network.predict(table)
    masked = np.ma.array([[130, -3]], mask=[[True, False]])
    for convert in (network.predict, network.features.standardized):
        for given in (masked, [masked[0]]):
            with pytest.raises(fnn.InputError, match="expected an array of numbers, got a masked array"):
                convert(given)
    new.write_text("size,name\n1,a\n")
    refused(["predict", folder, new], "that the network was trained on, got a table without 'depth'")


def test_export_says_that_rows_are_standardized(trained, tmp_path, capsys):
    _, folder = trained
    assert run(["export", str(folder), "--to", "torch", "--out", str(tmp_path / "a.safetensors")]) == 0
    assert f"fnn.exchange.load('{folder}').features.standardized(rows)" in capsys.readouterr().out


def test_report_shows_rows_and_no_pictures(trained):
    file, folder = trained
    page = folder / "report.html"
    assert run(["report", str(folder)]) == 0
    assert "The data set is not opened without --data-dir" in page.read_text("utf-8")
    assert run(["report", str(folder), "--data-dir", str(file)]) == 0
    text = page.read_text("utf-8")
    assert 'aria-label="most wrong rows"' in text
    assert "<img" not in text
    assert "<canvas" not in text


def test_other_commands_take_a_table(trained, tmp_path, refused):
    file, folder = trained
    data, kind = ["--dataset", f"csv:{file}"], ["--label", "kind"]
    assert run(["train", "--resume", *data, "--epochs", "6", "--out", str(folder), "--quiet"]) == 0
    assert run(["sweep", *data, *kind, "--epochs", "1", *QUICK, "--out", str(tmp_path / "sweep")]) == 0
    assert run(["export", str(tmp_path / "sweep"), "--to", "hub", "--out", str(tmp_path / "hub")]) == 0
    card = (tmp_path / "hub" / "README.md").read_text("utf-8")
    assert "tabular-classification" in card
    assert "rows of `size`, `depth`" in card
    assert str(file) not in (tmp_path / "hub" / "config.json").read_text("utf-8")
    again = ["train", "--from", str(tmp_path / "hub"), "--epochs", "1", *QUICK, "--out", str(tmp_path / "new")]
    refused(again, "expected the data to train on, by --dataset csv:PATH")
    assert run([*again, *data, *kind]) == 0
    other = tmp_path / "other.csv"
    other.write_text(file.read_text().replace("depth", "height"))
    again = [*again[:-1], tmp_path / "no", "--dataset", f"csv:{other}", *kind]
    refused(again, "--from: expected the columns ('size', 'depth'), in this order")
    refused(["train", *data, *kind, "--model", "cnn"], "--model: expected mlp for a table")


@pytest.mark.parametrize(
    "change", [{"mean": [0.0]}, {"deviation": [0.0, 1.0]}, {"names": "ab"}, {"mean": [1e999, 0.0]}, {"deviation": None}]
)
def test_features_of_a_stranger_that_do_not_fit(change):
    features = {"names": ["a", "b"], "mean": [0, 1.5], "deviation": [1.0, 2.0]}
    *_, found = saved_networks.examples_of({"classes": 2, "features": features}, Path("config.json"))
    assert found == (("a", "b"), (0, 1.5), (1.0, 2.0))
    with pytest.raises(DataError, match=r"expected a run's configuration.*features"):
        saved_networks.examples_of({"classes": 2, "features": features | change}, Path("config.json"))
