"""Records are added, read back and compared; what is no record is named."""

import json
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import click
import pytest

from functional_nn.bench import records
from functional_nn.bench.records import (
    add_records,
    check_matching,
    compare_records,
    environment,
    platform_note,
    read_records,
    without_match,
)
from functional_nn.configuration.flag_types import NewFile
from functional_nn.core.errors import DataError
from functional_nn.reports.benchmark import comparisons
from functional_nn.storage.files import write_json


def record(rounds, reference=None, **changes):
    times = {"round_medians": list(rounds)}
    beside = {"round_medians": list(reference or [1.0] * len(rounds))}
    about = {"date": "2026-01-01", "platform": "cpu", "device": "a", "cores": 2, "model": "mlp", "what": "train"}
    about |= {"batch_size": 8, "precision": "float32", "members": 1, "steps": 32}
    return {**about, "steady": times, "donated": None, "reference": beside, **changes}


def compared(path, new):
    return compare_records(path, read_records(path), new)


def written(path, *several):
    path.unlink(missing_ok=True)
    add_records(path, list(several))
    return path


def test_the_environment_is_complete_and_goes_into_json():
    about = environment()
    assert about["platform"] == "cpu"
    assert about["versions"]["jax"]
    assert about["cores"] >= 1
    assert json.loads(json.dumps(about)) == about
    assert platform_note(about).startswith("CPU")
    assert "TF32" in platform_note({**about, "platform": "gpu", "device": "H100"})
    assert "bfloat16 passes" in platform_note({**about, "platform": "tpu", "device": "TPU v4"})
    assert "TF32" not in platform_note({**about, "platform": "gpu", "matmul_precision": "highest"})


def test_records_are_added_to_what_is_there(tmp_path):
    path = tmp_path / "old.jsonl"
    add_records(path, [record([1.0], what="train")])
    add_records(path, [record([2.0], what="predict"), record([float("nan")])])
    assert [one["what"] for one in read_records(path)] == ["train", "predict", "train"]
    assert len(path.read_text().splitlines()) == 3
    assert [*tmp_path.iterdir()] == [path]


def test_records_of_another_process_are_kept(tmp_path, monkeypatch):
    """The other process writes after this one has read the file."""
    path = written(tmp_path / "old.jsonl", record([1.0]))
    parsed = records._parsed_records

    def read_then_other(*given):
        found = parsed(*given)
        path.write_text(path.read_text() + json.dumps(record([2.0])))  # without the end of the line
        return found

    with monkeypatch.context() as changed:
        changed.setattr(records, "_parsed_records", read_then_other)
        add_records(path, [record([3.0])])
    assert [one["steady"]["round_medians"] for one in read_records(path)] == [[1.0], [2.0], [3.0]]


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize("linked", ["folder", "file"])
def test_nothing_is_written_where_a_link_leads_that_is_put_there_meanwhile(tmp_path, linked):
    (tmp_path / "in").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "new").write_text("")
    with click.Context(click.Command("bench")) as context:
        path = NewFile().convert(str(tmp_path / "in" / "new"), None, context)
        if linked == "folder":
            (tmp_path / "in").rename(tmp_path / "away")
            (tmp_path / "in").symlink_to(tmp_path / "private")
        else:
            path.symlink_to(tmp_path / "private" / "new")
        with nullcontext() if linked == "folder" else pytest.raises(OSError, match="link"):
            add_records(path, [record([1.0])])
            write_json(path, 1)
    assert (tmp_path / "private" / "new").read_text() == ""
    assert linked == "file" or (tmp_path / "away" / "new").read_text() == "1\n"


@pytest.mark.parametrize("text", ["", "x", "[1]", '{"date": "x"}\n', "{" * 100_000])
def test_what_is_no_record_is_named_and_kept(tmp_path, text):
    path = tmp_path / "old.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"old\.jsonl.*functional-nn bench --json"):
        read_records(path)
    if text:
        with pytest.raises(DataError):
            add_records(path, [record([1.0])])
        assert path.read_text() == text


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.timeout(20)
def test_records_go_into_a_pipe_and_are_not_read_from_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_records(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    add_records(path, [record([1.0])])
    assert json.loads(os.read(reader, 10_000))["what"] == "train"
    os.close(reader)
    add_records(Path("/dev/null"), [record([1.0])])


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (record([1.0, 1.02, 0.98] * 4), "level"),
        (record([1.5, 1.52, 1.48] * 4), "slower"),
        (record([0.5, 0.52, 0.48] * 4), "faster"),
        (record([1.5, 0.5, 3.0] * 4), "unclear"),  # within its own noise
        (record([1.5, 0.5, 3.0] * 4, [1.5, 0.5, 3.0] * 4), "level"),  # noise that the product has, too
        (record([1.5] * 12, [0.5, 1.5, 3.0] * 4), "unclear"),  # slower, but the product is noisy
        (record([1.5] * 12, [1.5] * 12), "level"),  # all is slower here, the product too
        (record([1.5] * 12, device="b"), "another device"),
        (record([1.5] * 12, cores=4), "another device"),
        (record([1.5] * 12, matmul_precision="highest"), "another precision of products"),
    ],
)
def test_verdicts(tmp_path, new, verdict):
    (one,) = compared(written(tmp_path / "old.jsonl", record([1.0, 1.02, 0.98] * 4)), [new])
    assert one.verdict == verdict


def test_the_last_record_of_the_same_is_what_counts(tmp_path):
    path = written(
        tmp_path / "a", record([9.0] * 5), record([5.0] * 5, what="predict"), record([1.0] * 5, date="later")
    )
    (one,) = compared(path, [record([2.0] * 5), record([1.0] * 5, what="gradient")])
    assert (one.date, one.time.value) == ("later", 2.0)


def test_nothing_to_compare_with_is_said(tmp_path):
    path = written(tmp_path / "old.jsonl", record([1.0]))
    new = [record([1.0], what="predict")]
    with pytest.raises(DataError, match=r"mlp predict, batch 8.*records of mlp train, batch 8, float32"):
        check_matching(path, read_records(path), new)
    assert compared(path, new) == []
    assert without_match(read_records(path), [*new, record([1.0])]) == ["mlp predict, batch 8, float32"]
    old = [
        record([1.0], steady={}),
        *map(record, ([], [0.0], [-1.0], [float("nan")], [1.0] * 10_001, ["1"], [10**400])),
    ]
    for other in old:
        with pytest.raises(DataError, match="times of their rounds"):
            compared(written(path, other), [record([1.0])])


def test_an_old_file_does_not_print_megabytes(tmp_path):
    new, long = [record([1.0] * 5)], "x" * 10**6
    several = [record([1.0] * 5, what=f"{i} {long}") for i in range(20)]
    path = written(tmp_path / "old.jsonl", *several)
    with pytest.raises(DataError, match="and 8 more") as caught:
        check_matching(path, read_records(path), new)
    assert len(str(caught.value)) < 2000
    for versions in ({long: long}, dict.fromkeys(map(str, range(20_000)), "1")):
        path = written(path, record([1.0] * 5, versions=versions, xla_flags=long))
        assert len(comparisons(compared(path, new))) < 1000
    assert " ".join(comparisons(compared(path, new)).split()).endswith("10: none, was 1; and 19989 more")


def test_settings_that_differ_are_named(tmp_path):
    about = {"devices": 1, "xla_flags": None, "versions": {"jax": "0.10", "numpy": "2", "functional-nn": "1"}}
    path = written(tmp_path / "a", record([1.0] * 5, platform="gpu", **about))
    versions = {"jax": "0.12", "numpy": "2", "functional-nn": "2"}
    changes = {"devices": 8, "xla_flags": "--x", "versions": versions, "cores": 64, "matmul_precision": "high"}
    (one,) = compared(path, [record([1.0] * 5, platform="gpu", **changes)])
    assert one.other != "another device"  # the cores of the host do not matter
    assert one.differences == (
        "cores: 64, was 2",
        "devices: 8, was 1",
        "xla_flags: --x, was none",
        "matmul_precision: high, was default",
        "jax: 0.12, was 0.10",
    )
    (one,) = compared(path, [record([1.0] * 5, platform="gpu", **about)])
    assert one.differences == ()


def test_control_characters_of_an_old_record_are_not_printed(tmp_path):
    hostile = "\x1b]0;x\x07"
    about = {"versions": {hostile: hostile}, "date": hostile, "platform": hostile}
    lines = comparisons(compared(written(tmp_path / "a", record([1.0] * 5, **about)), [record([1.0] * 5)])).splitlines()
    assert r"\x1b" in lines[-1]
    assert all(line.isprintable() for line in lines)


def test_the_commit_is_that_of_the_package_and_not_of_a_project_around_it(monkeypatch, tmp_path):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *command], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "a project")
    # The settings of a stranger's repository name programs that git runs.
    (tmp_path / "program").write_text(f"#!/bin/sh\ntouch '{tmp_path}/owned'\n")
    (tmp_path / "program").chmod(0o700)
    git("config", "core.fsmonitor", str(tmp_path / "program"))
    monkeypatch.setattr(records, "__file__", str(tmp_path / "lib/site-packages/functional_nn/bench/records.py"))
    assert environment()["commit"] is None
    monkeypatch.setattr(records, "__file__", str(tmp_path / "src/functional_nn/bench/records.py"))
    assert environment()["commit"] is not None
    assert not (tmp_path / "owned").exists()
