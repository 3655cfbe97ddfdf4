"""The benchmarks' own side imports names that still exist, and arguments that cannot work are refused at once."""

from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

PEERS = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "peers").glob("*functional_nn.py"))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_the_package_s_own_peers_import(path):
    assert import_module(f"benchmarks.peers.{path.stem}").__doc__


def test_a_page_is_not_made_from_results_of_another_file(monkeypatch, tmp_path):
    """Nothing is measured here, so the file does not even exist: a page could not be made from it."""
    from benchmarks import records
    from benchmarks.growth import compare as growth

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if matplotlib were installed
    growth.compare(Console(quiet=True), [], 1, tmp_path / "none.jsonl", quick=False)
    assert records.is_of_documents(records.RESULTS / "growth.jsonl")


@pytest.mark.parametrize("peer", ["functional_n", "haiku"])
def test_the_baseline_of_a_race_is_one_of_its_peers(monkeypatch, capsys, peer):
    main = import_module("benchmarks.__main__")
    arguments = ["w1", "--data-dir", "none", "--peers", "functional_nn,stax", "--baseline", peer]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main.parse_arguments()
    assert "--baseline: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flag", "expected"),
    [
        (["w1", "--data-dir", "none", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["compile", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["accelerator", "--out", "new", "--results", "folder"], "--results", "expected a file, got the folder"),
        (["all", "--data-dir", "none", "--results", "file"], "--results", "expected a folder, got the file"),
        (["tables", "--results", "file"], "--results", "expected a folder, got the file"),
    ],
)
def test_results_that_could_not_be_written_are_refused_before_the_measurement(
    monkeypatch, capsys, tmp_path, arguments, flag, expected
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        import_module("benchmarks.__main__").parse_arguments()
    assert f"argument {flag}: {expected} {arguments[-1]}" in capsys.readouterr().err
