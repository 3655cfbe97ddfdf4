"""The jobs of ``sweep --submit``, without a cluster: jobs that are made up here stand for those of submitit."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from tests.cli.parts import need_submitit

from functional_nn.cli import submitted
from functional_nn.cli.submitted import JOBS, submit_parts


class KilledJob:
    """A job whose process was killed, so that it wrote no result of its own."""

    job_id = "7"

    def __init__(self, folder: Path):
        self.paths = SimpleNamespace(result_pickle=folder / f"{self.job_id}_0_result.pkl", stderr=folder / "log")

    def done(self):
        return True

    def exception(self):
        return None

    def stderr(self):
        return "Killed"

    def cancel(self, check):
        pass


def test_the_result_of_an_earlier_job_with_the_same_number_does_not_count(tmp_path, monkeypatch, capsys):
    # Otherwise its import would configure the logging of the process, and close the streams of pytest.
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    need_submitit()
    folder = tmp_path / JOBS
    executor = SimpleNamespace(cluster="local", batch=nullcontext, submit=lambda run, command: KilledJob(folder))
    monkeypatch.setattr(submitted, "_executor", lambda submitit, folder, settings: executor)
    monkeypatch.setattr(submitted, "POLL_SECONDS", 0.0)
    folder.mkdir()
    KilledJob(folder).paths.result_pickle.touch()
    with pytest.raises(click.ClickException, match="part 1 of 1 failed"):
        submit_parts(["sweep"], 1, tmp_path, {}, lambda: None, progress=False)
    assert capsys.readouterr().err.count("It is run again") == 2
