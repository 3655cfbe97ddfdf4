"""``functional-nn sweep --part`` and ``--submit``, and ``functional-nn merge``."""

import shutil
import subprocess
import sys
import time

import pytest

from functional_nn import cli
from functional_nn.cli.submitted import JOBS, PARTS

LIMIT = ["--job", "timeout_min=10"]
FLAGS = ["--hidden", "5/4", "--dropout", "0,0.2", "--seeds", "2"]


@pytest.fixture
def swept(tiny):
    _, *flags = tiny
    return ["sweep", *flags, *FLAGS]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of the undivided sweep."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    _, *flags = tiny
    assert cli.run(["sweep", *flags, *FLAGS, "--out", str(folder), "--quiet"]) == 0
    return folder


def contents(folder):
    """All files of a sweep's folder, except for its lock and those of jobs and parts."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    others = (".lock", f"{JOBS}/", f"{PARTS}/")
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(others)}


def test_parts_are_merged_into_the_folder_of_the_undivided_sweep(swept, whole, tmp_path, capsys):
    parts = [tmp_path / f"{part}" for part in (1, 2)]
    for part, folder in enumerate(parts, 1):
        assert cli.run([*swept, "--part", f"{part}/2", "--out", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "part 1 of 2 of 8 models" in said
    assert "When all parts have ended: functional-nn merge" in said

    assert cli.run(["merge", str(parts[1]), "--out", str(tmp_path / "merged")]) == 2
    assert "got a sweep without 4 members (0, 2, 4, 6): part 1/2" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()

    json_file = tmp_path / "merged.json"
    merged = ["merge", *map(str, parts), "--out", str(tmp_path / "merged")]
    assert cli.run([*merged, "--json", str(json_file)]) == 0
    assert contents(tmp_path / "merged") == contents(whole)
    assert "8 finished" in capsys.readouterr().out
    assert '"test_accuracy"' in json_file.read_text()

    assert cli.run(merged) == 2
    assert "out: expected a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--part", "3/2"], "expected a part and the number of parts, such as 1/8 to 8/8, got '3/2'"),
        (["--part", "1"], "got '1'"),
        (["--part", "1/9", "--out", "x"], "--part: expected at most 8 parts, the number of members, got 9 parts"),
        (["--part", "1/2"], "--part: expected a folder for the results, got none"),
        (["--submit", "2"], "--submit: expected a folder for the results, got none"),
        (["--submit", "2", "--part", "1/2", "--out", "x"], "--submit: expected a whole sweep, got --part 1/2"),
        (["--submit", "2", "--halving", "1", "--out", "x"], "--submit: expected a sweep without successive halving"),
        (["--submit", "9", "--out", "x"], "--submit: expected at most 8 parts"),
        (["--job", "timeout_min=60"], "--job: expected --submit in addition"),
        (["--submit", "2", "--job", "gpus"], "expected a name and a value such as timeout_min=60, got 'gpus'"),
    ],
)
def test_flags_that_do_not_fit(swept, flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*swept, *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_without_submitit_nothing_is_written(swept, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.run([*swept, "--submit", "2", "--out", str(tmp_path / "new")]) == 2
    assert "--submit: expected submitit to be installed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def submitted(swept, folder, *flags):
    command = [sys.executable, "-m", "functional_nn", *swept, "--submit", "2", "--out", str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_parts_as_processes_of_this_computer(swept, whole, tmp_path):
    pytest.importorskip("submitit", reason="an optional package")
    done = submitted(swept, tmp_path / "jobs", "--job", "cluster=local")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "jobs") == contents(whole)

    # A part that fails each time ends the sweep with its own words, and what the others finished is kept.
    (tmp_path / "jobs" / PARTS / "1-of-2" / "sweep.json").write_text("{}")
    done = submitted(swept, tmp_path / "jobs", "--job", "cluster=local")
    assert done.returncode == 1
    assert done.stderr.count("part 1 of 2 failed: Error: ") == 1, "wrong input is not tried again"
    assert contents(tmp_path / "jobs") == contents(whole)

    done = submitted(swept, tmp_path / "other", "--job", "cluster=local", "--job", "wheels=4")
    assert done.returncode == 2
    assert "--job: expected settings that submitit takes" in done.stderr

    done = submitted(swept, tmp_path / "other", "--job", "cluster=local", "--job", "tasks_per_node=2")
    assert done.returncode == 2
    assert "--job: expected tasks_per_node=1, because a part is one process" in done.stderr


def has_slurm() -> bool:
    return (
        shutil.which("sinfo") is not None and subprocess.run(["sinfo", "--noheader"], capture_output=True).stdout != b""
    )


@pytest.mark.slow
def test_parts_as_an_array_of_slurm(swept, whole, tmp_path):
    """``scripts/one_node_slurm.sh`` starts Slurm on one computer."""
    pytest.importorskip("submitit", reason="an optional package")
    if not has_slurm():
        pytest.skip("needs Slurm, as scripts/one_node_slurm.sh starts it")
    done = submitted(swept, tmp_path / "jobs", *LIMIT)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "jobs") == contents(whole)


@pytest.mark.slow
def test_a_killed_part_is_run_again(swept, whole, tmp_path):
    pytest.importorskip("submitit", reason="an optional package")
    if not has_slurm():
        pytest.skip("needs Slurm, as scripts/one_node_slurm.sh starts it")
    command = [sys.executable, "-m", "functional_nn", *swept, "--submit", "2", "--out", str(tmp_path / "jobs"), *LIMIT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        killed = ""
        while process.poll() is None and not killed:
            time.sleep(0.2)
            running = ["squeue", "--me", "--noheader", "--array", "--states", "R", "--format", "%i"]
            numbers = subprocess.run(running, capture_output=True, text=True).stdout.split()
            scripts = {path.name.partition("_")[0] for path in (tmp_path / "jobs" / JOBS).glob("*_submission.sh")}
            killed = next((number for number in numbers if number.partition("_")[0] in scripts), "")
        subprocess.run(["scancel", "--signal=KILL", "--full", killed], check=True)
        assert "It is run again" in process.communicate()[1]
    assert process.returncode == 0
    assert contents(tmp_path / "jobs") == contents(whole)
