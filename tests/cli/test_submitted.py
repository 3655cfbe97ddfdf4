"""The jobs of ``sweep --submit``, without a cluster: jobs that are made up here stand for those of submitit."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from tests.cli.parts import need_submitit, sweep_of

from functional_nn import cli
from functional_nn.cli import submitted
from functional_nn.core.errors import InputError


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
    (tmp_path / name).chmod(0o777)
    with pytest.raises(InputError, match="a folder of your own"):
        submitted._folder_of_jobs(tmp_path / "out")
