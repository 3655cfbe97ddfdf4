"""``functional-nn sweep --part`` and ``functional-nn merge``."""

import pytest
from tests.bits import contents

from functional_nn import cli

FLAGS = ["--dropout", "0,0.2", "--seeds", "2"]


@pytest.fixture(scope="module")
def swept(tiny):
    """The arguments of a sweep over the data of a tiny run."""
    return ["sweep", *tiny[1:], *FLAGS]


@pytest.fixture(scope="module")
def whole(swept, tmp_path_factory):
    """The folder of the undivided sweep."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    assert cli.run([*swept, "--out", str(folder), "--quiet"]) == 0
    return folder


def test_parts_are_merged_into_the_folder_of_the_undivided_sweep(swept, whole, tmp_path, capsys, refused):
    parts = [tmp_path / f"{part}" for part in (1, 2)]
    for part, folder in enumerate(parts, 1):
        assert cli.run([*swept, "--part", f"{part}/2", "--out", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "part 1 of 2 of 4 models" in said
    assert "When all parts have ended: functional-nn merge" in said

    refused(["merge", parts[1], "--out", tmp_path / "merged"], "got a sweep without 2 members (0, 2): part 1/2")
    assert not (tmp_path / "merged").exists()

    json_file = tmp_path / "merged.json"
    merged = ["merge", *map(str, parts), "--out", str(tmp_path / "merged")]
    assert cli.run([*merged, "--json", str(json_file)]) == 0
    assert contents(tmp_path / "merged") == contents(whole)
    assert "4 finished" in capsys.readouterr().out
    assert '"test_accuracy"' in json_file.read_text()

    refused(merged, "out: expected a new or empty folder")

    # A merge that was killed between the tables and the page is completed by the same command.
    for name in ("members.jsonl", "report.html"):
        (tmp_path / "merged" / name).unlink()
    assert cli.run(merged) == 0
    assert contents(tmp_path / "merged") == contents(whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--part", "3/2"], "expected a part and the number of parts, such as 1/8 to 8/8, got '3/2'"),
        (["--part", "1/5", "--out", "x"], "--part: expected at most 4 parts, the number of members, got 5 parts"),
        (["--part", "1/2"], "--part: expected a folder for the results, got none"),
        (["--part", "1/2", "--halving", "1", "--out", "x"], "--part: expected a sweep without successive halving"),
    ],
)
def test_flags_that_do_not_fit(swept, flags, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused([*swept, *flags], said)
    assert not list(tmp_path.iterdir())
