"""``functional-nn sweep --part`` and ``--submit``, and ``functional-nn merge``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from tests.cli.parts import (
    command,
    contents,
    has_batches,
    need_slurm,
    need_submitit,
    slurm_jobs,
    started,
    sweep_of,
    undivided,
    wait_for,
)

from functional_nn import cli
from functional_nn.cli import submitted
from functional_nn.cli.submitted import PARTS
from functional_nn.core.errors import InputError

LIMIT = ["--job", "timeout_min=10"]
FLAGS = ["--hidden", "5/4", "--dropout", "0,0.2", "--seeds", "2"]


@pytest.fixture
def swept(tiny):
    return sweep_of(tiny, FLAGS)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of the undivided sweep."""
    return undivided(sweep_of(tiny, FLAGS), tmp_path_factory.mktemp("sweep"))


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

    # A merge that was killed between the tables and the page is completed by the same command.
    for name in ("members.jsonl", "curves.png", "report.html"):
        (tmp_path / "merged" / name).unlink()
    assert cli.run(merged) == 0
    assert contents(tmp_path / "merged") == contents(whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--part", "3/2"], "expected a part and the number of parts, such as 1/8 to 8/8, got '3/2'"),
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


def test_another_number_of_parts_is_refused(swept, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    (tmp_path / PARTS / "1-of-2").mkdir(parents=True)
    assert cli.run([*swept, "--submit", "3", "--out", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--submit: expected 2, the number of parts in" in said
    assert "got 3. Give this number, or name another folder by --out." in said


def test_an_undivided_sweep_is_not_divided(swept, whole, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    assert cli.run([*swept, "--submit", "2", "--out", str(whole)]) == 2
    assert "which holds an undivided sweep" in " ".join(capsys.readouterr().err.split())


def run_submitted(swept, folder, *flags):
    return subprocess.run(
        command(*swept, "--submit", "2", "--out", str(folder), *flags), capture_output=True, text=True
    )


@pytest.mark.slow
def test_parts_as_processes_of_this_computer(swept, whole, tmp_path):
    need_submitit()
    # The working directory may be a folder of a stranger, with a module whose name is that of a library.
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "numpy.py").write_text("raise SystemExit('a module of a stranger')")
    arguments = [*swept, "--submit", "2", "--out", str(tmp_path / "jobs"), "--job", "cluster=local"]
    without_folder = [sys.executable, "-P", "-m", "functional_nn", *arguments]
    done = subprocess.run(without_folder, capture_output=True, text=True, cwd=tmp_path / "strange")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "jobs") == contents(whole)
    # A finished sweep stays as it is. Another one is refused by its parts.
    done = run_submitted(swept, tmp_path / "jobs", "--job", "cluster=local")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "jobs") == contents(whole)
    done = run_submitted(swept, tmp_path / "jobs", "--job", "cluster=local", "--patience", "3")
    assert done.returncode == 1
    assert "whose sweep has patience null instead of 3" in done.stderr

    # A part that fails each time ends the sweep with its own words, and what the others finished is kept.
    (tmp_path / "jobs" / "sweep.json").unlink()
    (tmp_path / "jobs" / PARTS / "1-of-2" / "sweep.json").write_text("{}")
    done = run_submitted(swept, tmp_path / "jobs", "--job", "cluster=local")
    assert done.returncode == 1
    assert done.stderr.count("part 1 of 2 failed: Error: ") == 1, "wrong input is not tried again"
    assert not (tmp_path / "jobs" / "sweep.json").exists()
    (tmp_path / "jobs" / PARTS / "1-of-2" / "sweep.json").unlink()
    done = run_submitted(swept, tmp_path / "jobs", "--job", "cluster=local")
    assert contents(tmp_path / "jobs") == contents(whole)

    done = run_submitted(swept, tmp_path / "other", "--job", "cluster=local", "--job", "wheels=4")
    assert done.returncode == 2
    assert "--job: expected settings that submitit takes" in done.stderr

    done = run_submitted(swept, tmp_path / "other", "--job", "cluster=local", "--job", "tasks_per_node=2")
    assert done.returncode == 2
    assert "--job: expected tasks_per_node=1, because a part is one process" in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_processes_of_this_computer_without_a_traceback(swept, whole, tmp_path):
    """A terminal sends Ctrl-C to the command and to all processes that it started."""
    need_submitit()
    flags = ["--submit", "2", "--job", "cluster=local", "--out", str(tmp_path)]
    with started(*swept, "--epochs", "100000", *flags) as process:
        parts = [tmp_path / PARTS / f"{part}-of-2" for part in (1, 2)]
        wait_for(lambda: all((part / "sweep.json").exists() for part in parts), process)
        os.killpg(process.pid, signal.SIGINT)
        out, said = process.communicate()
        assert process.returncode == 130
        assert said.split("\n")[1:] == ["Stopping after this look at the jobs; once more stops at once.", ""]
        assert "The same command continues the sweep." in out
        left = subprocess.run(["pgrep", "--runstates", "R,S,D", "--pgroup", str(process.pid)], capture_output=True)
        assert left.stdout == b""
    assert not any(map(has_batches, parts))


@pytest.mark.slow
def test_parts_as_an_array_of_slurm(swept, whole, tmp_path):
    """``scripts/one_node_slurm.sh`` starts Slurm on one computer."""
    need_slurm()
    done = run_submitted(swept, tmp_path / "jobs", *LIMIT)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "jobs") == contents(whole)


@pytest.mark.slow
def test_a_killed_part_is_run_again(swept, whole, tmp_path):
    need_slurm()
    with started(*swept, "--submit", "2", "--out", str(tmp_path / "jobs"), *LIMIT) as process:
        killed = wait_for(lambda: slurm_jobs(tmp_path / "jobs"), process)[0]
        subprocess.run(["scancel", "--signal=KILL", "--full", killed], check=True)
        assert "It is run again" in process.communicate()[1]
    assert process.returncode == 0
    assert contents(tmp_path / "jobs") == contents(whole)


class KilledJob:
    """A job whose process was killed, so that it wrote no result of its own."""

    job_id = "7"

    def __init__(self, folder: Path):
        self.paths = SimpleNamespace(result_pickle=folder / f"{self.job_id}_0_result.pkl", stderr=folder / "log")

    def done(self):
        return True

    def exception(self):
        return RuntimeError("no result")

    def stderr(self):
        return "Killed"

    def cancel(self, check):
        pass


def test_a_part_is_run_three_times_at_most(tmp_path, monkeypatch, capsys):
    executor = SimpleNamespace(cluster="local", batch=nullcontext, submit=lambda run, command: KilledJob(tmp_path))
    monkeypatch.setattr(submitted, "POLL_SECONDS", 0.0)
    with pytest.raises(click.ClickException, match="part 1 of 1 failed"):
        submitted.run_parts(executor, {"part 1 of 1": ["sweep"]}, lambda: None, quiet=True)
    said = capsys.readouterr().err
    assert said.count("part 1 of 1 failed: Killed") == 3
    assert said.count("It is run again") == 2


@pytest.mark.parametrize("name", ["jobs", "parts", "parts/1-of-2"])
def test_jobs_follow_no_link(tiny, tmp_path, monkeypatch, capsys, name):
    # Otherwise its import would configure the logging of the process, and close the streams of pytest.
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    need_submitit()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis_result.pkl").touch()
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
    flags = ["--seeds", "2", "--submit", "2", "--job", "cluster=local", "--out", str(tmp_path / "out")]
    assert cli.run(sweep_of(tiny, flags)) == 2
    assert "link" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["thesis_result.pkl"]


@pytest.mark.parametrize("name", ["", "out", "out/jobs"])
@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_no_job_reads_files_that_another_user_can_write(tmp_path, name):
    (tmp_path / "out" / "jobs").mkdir(parents=True)
    assert list(submitted._folder_of_jobs(tmp_path / "out").iterdir()) == []
    # A group can have other users, also one with the user's name, and with an access list its bits are theirs.
    for mode in (0o707, 0o770):
        (tmp_path / name).chmod(mode)
        with pytest.raises(InputError, match=rf"a folder of your own.* chmod go-w {tmp_path / name}"):
            submitted._folder_of_jobs(tmp_path / "out")
