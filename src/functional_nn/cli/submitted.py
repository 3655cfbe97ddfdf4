"""``functional-nn sweep --submit``: the parts of a sweep as jobs of Slurm, or as processes of this computer."""

from __future__ import annotations

import runpy
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from functional_nn.cli.merge import write_merged
from functional_nn.core.errors import InputError, shortened
from functional_nn.core.extras import imported
from functional_nn.core.progress import progress_bar

if TYPE_CHECKING:
    from functional_nn.cli.signals import Signals

ARGUMENTS = "functional_nn.cli.arguments"
"""Where click's context keeps the arguments of the command, as they were typed."""
JOBS, PARTS = "jobs", "parts"
"""The folders of the jobs' logs and of the parts, in the folder of the sweep."""
TRIES = 3
"""How often a part is run at most."""
POLL_SECONDS = 1.0
"""The time between two looks at the jobs."""
QUEUE_SECONDS = 15.0
"""The time between two questions to Slurm about all jobs."""
LONGEST_MINUTES = 7 * 24 * 60
"""The time limit of a job without the setting ``timeout_min``. That of submitit is five minutes."""
NOT_FOR_PARTS = ("--submit", "--job", "--out", "--json")
"""Flags with a value that a part does not get, or gets with another value."""

Job: TypeAlias = Any
"""A job of submitit."""
JobSettings: TypeAlias = dict[str, int | str]


def check_parts(
    part: tuple[int, int] | None,
    parts: int | None,
    job_settings: Collection[object],
    members: int,
    halving: object,
    out: Path | None,
) -> None:
    """Requires flags for parts that go together, before anything is loaded or submitted."""
    from functional_nn.sweeps.argument_checks import check_part

    if part is not None and parts is not None:
        raise InputError("--submit", "a whole sweep", f"--part {part[0]}/{part[1]}", "Leave out one of them.")
    if job_settings and parts is None:
        raise InputError("--job", "--submit in addition", "--job alone")
    for flag, divided in (("--part", part), ("--submit", parts and (1, parts))):
        if divided is not None:
            check_part(divided, members, halving)
            if out is None:
                raise InputError(flag, "a folder for the results", "none", "Name one by --out.")


def submitted_sweep(
    parts: int, settings: JobSettings, out: Path, signals: Signals, json_file: Path | None, *, quiet: bool
) -> int:
    """Runs the sweep in parts elsewhere, and puts them together."""
    signals.defer("look at the jobs")
    try:
        arguments = click.get_current_context().meta[ARGUMENTS]
        folders = submit_parts(arguments, parts, out, settings, signals.check, progress=False if quiet else None)
    except KeyboardInterrupt:
        click.echo("Interrupted; the jobs are cancelled. The same command continues the sweep.")
        return signals.status
    write_merged(folders, out, json_file, quiet=quiet)
    return 0


def submit_parts(
    arguments: Sequence[str],
    parts: int,
    out: Path,
    settings: JobSettings,
    check: Callable[[], None],
    *,
    progress: bool | None = None,
) -> list[Path]:
    """Runs a sweep in parts, waits for them, and returns their folders.

    With Slurm, the parts are one job array. Without it, they are processes of this computer, all at the same time. A
    part that fails is run again, up to three times in all; it goes on with the members that it had not finished.

    Args:
        arguments: the command line of the sweep, after ``functional-nn``.
        parts: the number of parts.
        out: the folder of the sweep.
        settings: settings of the jobs, by the names that submitit gives them, and ``cluster``: ``local`` for processes
            of this computer although it has Slurm.
        check: called between two looks at the jobs. If it raises an error, all jobs are cancelled.
        progress: whether to show a progress bar.

    Raises:
        InputError: if submitit is missing, or does not know a setting.
        ClickException: if a part failed three times.
    """
    submitit = imported("submitit", "submitit", "--submit", extra="cluster")
    chosen = {"name": "functional-nn", "timeout_min": LONGEST_MINUTES, **settings}
    try:
        executor = submitit.AutoExecutor(out / JOBS, cluster=chosen.pop("cluster", None))
        executor.update_parameters(**chosen)
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError("--job", "a setting that submitit knows", shortened(error)) from None
    folders = [out / PARTS / f"{part + 1}-of-{parts}" for part in range(parts)]
    shared = [*_shared(arguments), "--quiet"]
    commands = [[*shared, "--part", f"{part + 1}/{parts}", "--out", str(folder)] for part, folder in enumerate(folders)]
    try:
        with executor.batch():  # with Slurm, one array
            submitted = [executor.submit(_run_command, command) for command in commands]
    except submitit.core.utils.FailedJobError as error:
        raise click.ClickException(f"Slurm did not take the jobs: {error}") from None
    jobs = dict(enumerate(submitted))
    watch = _Watch(executor.cluster == "slurm")
    tries, failed = [1] * parts, []
    with _cancelled_at_the_end(jobs), progress_bar("parts", parts, progress) as advance:
        while jobs:
            check()
            watch.look(jobs.values())
            for part, job in [(part, job) for part, job in jobs.items() if watch.has_ended(job)]:
                del jobs[part]
                if job.paths.result_pickle.exists() and job.exception() is None:
                    advance(f"part {part + 1} of {parts} has ended")
                    continue
                said = f"part {part + 1} of {parts} failed: {_last_line(job)} The log is {job.paths.stderr}."
                if tries[part] < TRIES:
                    tries[part] += 1
                    jobs[part] = executor.submit(_run_command, commands[part])
                    click.echo(f"{said} It is run again.", err=True)
                else:
                    failed.append(said)
            time.sleep(POLL_SECONDS)
    if failed:
        raise click.ClickException("\n".join(failed))
    return folders


class _Watch:
    """Notices when jobs have ended, also those that were killed.

    submitit asks the accounts of Slurm for killed jobs, and would wait for ever where Slurm keeps none. This class asks
    for the queue. The result of a job that has just ended may appear late on a network's disk. So a job has ended if
    there is its result, or if two looks did not find it in the queue.
    """

    def __init__(self, has_queue: bool):
        self._has_queue = has_queue
        self._time = time.monotonic()
        self._missing: Counter[str] = Counter()

    def look(self, jobs: Iterable[Job]) -> None:
        """Asks Slurm for its queue, if the last time was long ago."""
        if not self._has_queue or time.monotonic() - self._time < QUEUE_SECONDS:
            return
        self._time = time.monotonic()
        command = ["squeue", "--me", "--noheader", "--array", "--format", "%i"]
        queue = subprocess.run(command, capture_output=True, text=True)
        if queue.returncode == 0:  # otherwise Slurm is too busy to answer
            listed = queue.stdout.split()
            self._missing.update(job.job_id for job in jobs if job.job_id not in listed)

    def has_ended(self, job: Job) -> bool:
        if not self._has_queue:
            return job.done()
        return job.paths.result_pickle.exists() or self._missing[job.job_id] > 1


@contextmanager
def _cancelled_at_the_end(jobs: dict[int, Job]) -> Iterator[None]:
    """Cancels the jobs that are still there, after an interruption or an error."""
    try:
        yield
    finally:
        for job in jobs.values():
            job.cancel()


def _shared(arguments: Sequence[str]) -> list[str]:
    """The arguments that all parts have: without the flags in ``NOT_FOR_PARTS``.

    >>> _shared(["sweep", "--submit", "4", "--seeds", "8", "--out=runs/x"])
    ['sweep', '--seeds', '8']
    """
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument in NOT_FOR_PARTS:
            next(rest)  # its value
        elif argument.partition("=")[0] not in NOT_FOR_PARTS:
            kept.append(argument)
    return kept


def _run_command(arguments: Sequence[str]) -> None:
    """Runs ``functional-nn`` in the process of a job, so that signals to the job reach it.

    Raises:
        RuntimeError: if it failed.
    """
    sys.argv[1:] = arguments
    try:
        runpy.run_module("functional_nn", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"functional-nn ended with status {end.code}") from None


def _last_line(job: Job) -> str:
    """Why a job failed, in one line: the command's own error, or the end of the log."""
    lines = [line.strip() for line in (job.stderr() or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error:")]
    return shortened((errors or lines or ["it ended without a word."])[-1])
