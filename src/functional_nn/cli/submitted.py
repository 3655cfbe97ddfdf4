"""``functional-nn sweep --submit``: the parts of a sweep as jobs of Slurm, or as processes of this computer."""

from __future__ import annotations

import os
import runpy
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from functional_nn.cli import ARGUMENTS
from functional_nn.cli.job_watch import Job, JobWatch, has_result
from functional_nn.cli.local_jobs import end_processes, kept_from_interrupts
from functional_nn.core.display import progress_bar
from functional_nn.core.errors import InputError, escaped, imported, shortened

if TYPE_CHECKING:
    from functional_nn.cli.signals import Signals
    from functional_nn.configuration.flag_types import FlagValue
    from functional_nn.configuration.run_configuration import Configuration
    from functional_nn.sweeps.results.results import SweepResult

JOBS, PARTS = "jobs", "parts"
"""The folders of the jobs' logs and of the parts, in the folder of the sweep."""
TRIES = 3
"""How often a part is run at most."""
POLL_SECONDS = 1.0
"""The time between two looks at the jobs."""
LONGEST_MINUTES = 7 * 24 * 60
"""The time limit of processes of this computer. That of submitit is five minutes."""
STATUS = "functional-nn ended with status "
"""What the error of a job begins with."""
NOT_FOR_PARTS = ("--submit", "--job", "--out", "--json")
"""Flags with a value that a part does not get, or gets with another value."""

JobSettings: TypeAlias = dict[str, int | float | str]


def check_part_flags(
    part: tuple[int, int] | None,
    number_of_parts: int | None,
    job_settings: Collection[object],
    members: int,
    halving: object,
    out: Path | None,
) -> None:
    """Requires flags for parts that go together, before anything is loaded or submitted."""
    from functional_nn.sweeps.argument_checks import check_part_of_sweep

    if part is not None and number_of_parts is not None:
        raise InputError("--submit", "a whole sweep", f"--part {part[0]}/{part[1]}", "Leave out one of them.")
    if job_settings and number_of_parts is None:
        raise InputError("--job", "--submit in addition", "--job alone")
    for flag, divided in (("--part", part), ("--submit", None if number_of_parts is None else (1, number_of_parts))):
        if divided is not None:
            check_part_of_sweep(divided, members, halving, flag=flag)
            if out is None:
                raise InputError(flag, "a folder for the results", "none", "Name one by --out.")


def submitted_sweep(
    number_of_parts: int,
    settings: JobSettings,
    out: Path,
    ended_before: Callable[[Path], SweepResult | None],
    signals: Signals,
    *,
    quiet: bool,
) -> SweepResult | None:
    """Runs the sweep in parts elsewhere, and puts them together. None after a signal.

    ``out`` is a path as ``Path.resolve`` gives it. If the folder has the merged sweep already, no job is started.
    ``ended_before`` reads its result, and requires that it is the same sweep.
    """
    from functional_nn.storage.files import folder_to_write, one_writer
    from functional_nn.storage.identity import check_kind
    from functional_nn.sweeps.execution.store import SWEEP
    from functional_nn.sweeps.results.parts import put_together

    imported("submitit", "submitit", "--submit", extra="cluster")
    check_kind("out", out, "a sweep")
    if (out / SWEEP).exists() and not (out / PARTS).exists():
        raise InputError("out", "a new folder, or one that --submit wrote", f"{out}, which holds an undivided sweep")
    if (out / SWEEP).exists() and (result := ended_before(out)) is not None:
        if not quiet:
            click.echo(f"{escaped(str(out))} has the whole sweep already, so no job was started.")
        return result
    _check_same_division(out / PARTS, number_of_parts)
    signals.defer("look at the jobs")
    arguments = click.get_current_context().meta[ARGUMENTS]
    progress = False if quiet else None
    click.get_current_context().with_resource(folder_to_write("out", out))
    with one_writer("out", out):
        try:
            folders = submit_parts(arguments, number_of_parts, out, settings, signals.check, progress=progress)
            return put_together(folders, out)
        except KeyboardInterrupt:
            click.echo("Interrupted; the jobs are cancelled. The same command continues the sweep.")
            return None


def _check_same_division(parts: Path, number_of_parts: int) -> None:
    """Requires the same number of parts as before. With another number, finished members would be trained again."""
    before = {folder.name.partition("-of-")[2] for folder in parts.glob("*-of-*")}
    if before and before != {str(number_of_parts)}:
        expected = f"{' or '.join(sorted(before))}, the number of parts in {parts}"
        raise InputError("--submit", expected, number_of_parts, "Give this number, or name another folder by --out.")


def read_ended_sweep(
    base: Configuration,
    members: Sequence[Mapping[str, FlagValue]],
    order_seed: int | None,
    patience: int | None,
    metrics: Collection[str] | None,
    folder: Path,
    *,
    progress: bool | None = None,
) -> SweepResult | None:
    """The result in the folder of a merged sweep; None if members are missing, as after a file was damaged.

    Args:
        base: the configuration that all models share.
        members: the hyper-parameters of each model.
        order_seed, patience: as for ``sweep``.
        metrics: the names of the metrics; None for those of the loss.
        folder: the folder with the result.
        progress: whether to show a progress bar while data are loaded.

    Raises:
        InputError: if another sweep is in the folder.
    """
    from functional_nn.data.preparation import as_arrays
    from functional_nn.sweeps.execution.settings import comparable_settings
    from functional_nn.sweeps.grid.grid import check_grid
    from functional_nn.sweeps.results.folder import ended_sweep

    settings = comparable_settings(
        check_grid([{**member, "data": ""} for member in members]),
        {"": as_arrays(base.load_data(progress=progress))},
        epochs=base.epochs,
        batch_size=base.batch_size,
        precision=base.precision,
        order_seed=order_seed,
        patience=patience,
        halving=None,
        keep=True,
        static=(),
        identity=base.settings(),
    )
    result = ended_sweep(folder, settings)
    if result is not None:
        _check_metrics(folder, result, metrics)
    return result


def _check_metrics(folder: Path, result: SweepResult, metrics: Collection[str] | None) -> None:
    """Requires that the members have these metrics. They are no settings, and the programs are not compared here."""
    from functional_nn.sweeps.results.member import metric_names

    # The names are those of a part of the data, such as test_accuracy. Every part has a loss in addition.
    found = {name.partition("_")[2] for name in metric_names(result.members)} - {"loss"}
    wanted = {"accuracy"} if metrics is None else set(metrics)
    if found and found != wanted:
        known, given = (", ".join(sorted(names)) for names in (found, wanted))
        raise InputError(
            "out",
            "a new folder, or the folder of this sweep",
            f"{folder}, whose sweep has the metrics {known} instead of {given}",
            "Use another folder.",
        )


def submit_parts(
    arguments: Sequence[str],
    number_of_parts: int,
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
        number_of_parts: into how many parts it is divided.
        out: the folder of the sweep, as ``Path.resolve`` gives it.
        settings: settings of the jobs, by the names that submitit gives them, and ``cluster``: ``local`` for processes
            of this computer although it has Slurm.
        check: called between two looks at the jobs. If it raises an error, all jobs are cancelled.
        progress: whether to show a progress bar.

    Raises:
        InputError: if submitit is missing, or does not take a setting.
        ClickException: if Slurm does not take the jobs, or a part failed three times.
    """
    from functional_nn.storage.files import check_no_link

    submitit = imported("submitit", "submitit", "--submit", extra="cluster")
    refused = (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError)
    executor = _executor(submitit, _folder_of_jobs(out), settings)
    has_slurm = executor.cluster == "slurm"
    starting = nullcontext if has_slurm else kept_from_interrupts
    folders = [out / PARTS / f"{part + 1}-of-{number_of_parts}" for part in range(number_of_parts)]
    for folder in (out / PARTS, *folders):
        check_no_link("--out", folder)
    shared = [*_shared(arguments), "--quiet"]
    commands = [
        [*shared, "--part", f"{part + 1}/{number_of_parts}", "--out", str(folder)]
        for part, folder in enumerate(folders)
    ]
    try:
        with starting(), executor.batch():  # with Slurm, one array
            submitted = [executor.submit(_run_command, command) for command in commands]
    except refused as error:
        raise click.ClickException(f"Slurm did not take the jobs: {error}") from None
    except (TypeError, ValueError) as error:
        raise InputError("--job", "settings that submitit takes", shortened(error).rstrip(".")) from None

    jobs = dict(enumerate(submitted))
    watch = JobWatch(has_slurm)
    tries, failed = [1] * number_of_parts, []
    with _cancelled_at_the_end(jobs, has_slurm), progress_bar("parts", number_of_parts, progress) as advance:
        while jobs:
            check()
            watch.look(jobs.values())
            for part, job in [(part, job) for part, job in jobs.items() if watch.has_ended(job)]:
                del jobs[part]
                name = f"part {part + 1} of {number_of_parts}"
                if has_result(job) and job.exception() is None:
                    advance(f"{name} has ended")
                    continue
                said = f"{name} failed: {_last_line(job)} The log is {job.paths.stderr}."
                job.cancel(check=False)  # Slurm may have put a job that was stopped back into its queue
                if tries[part] < TRIES and not _had_wrong_input(job):
                    tries[part] += 1
                    try:
                        with starting():
                            jobs[part] = executor.submit(_run_command, commands[part])
                        click.echo(f"{said} It is run again.", err=True)
                        continue
                    except refused as error:
                        said += f" It could not be run again: {error}"
                click.echo(said, err=True)
                failed.append(name)
            time.sleep(POLL_SECONDS)
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed. Once the reason is gone, the same command continues.")
    return folders


def _folder_of_jobs(out: Path) -> Path:
    """A new private folder for the files of jobs, in a folder that nobody else can change.

    submitit runs what it reads there. A file that is named after a job may also come from an earlier call, since a
    process of this computer can have the same number after a restart, or from whoever made the folder.
    """
    folder = out / JOBS
    folder.mkdir(mode=0o700, exist_ok=True)
    for place in (folder, out, *out.parents):
        about = place.lstat()
        # The user's own group has nobody else in it on systems that let it write to new folders.
        writers = stat.S_IWOTH | (stat.S_IWGRP if about.st_gid != os.getgid() else 0)
        is_open = about.st_mode & writers and not about.st_mode & stat.S_ISVTX
        if stat.S_ISLNK(about.st_mode) or is_open or about.st_uid not in (0, os.getuid()):
            given = f"{place}, a link, or a folder that another user owns, or that other users can write to"
            raise InputError("--out", "a folder of your own, because jobs run files in it", given)
    return Path(tempfile.mkdtemp(dir=folder))


def _executor(submitit: Any, folder: Path, settings: JobSettings) -> Any:
    """What submits jobs, with the settings of the user."""
    if more := [name for name in ("nodes", "tasks_per_node") if settings.get(name, 1) != 1]:
        raise InputError("--job", f"{more[0]}=1, because a part is one process", str(settings[more[0]]))
    chosen = dict(settings)
    try:
        executor = submitit.AutoExecutor(folder, cluster=chosen.pop("cluster", None))
        executor.update_parameters(**{"name": "functional-nn", "timeout_min": LONGEST_MINUTES, **chosen})
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError("--job", "settings that submitit takes", str(error).partition("\n")[0]) from None
    if executor.cluster == "slurm" and "timeout_min" not in chosen:
        # A limit above that of the partition would leave the jobs in the queue for ever, without a word.
        raise InputError("--job", "timeout_min=MINUTES, the time limit of a part", "none")
    return executor


@contextmanager
def _cancelled_at_the_end(jobs: dict[int, Job], has_slurm: bool) -> Iterator[None]:
    """Cancels the jobs that are still there, after an interruption or an error."""
    try:
        yield
    finally:
        if has_slurm:
            for job in jobs.values():
                job.cancel(check=False)
        else:
            end_processes(jobs.values())


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
    # submitit ignores SIGTERM in a job. It should end the job also before functional-nn has its own handler.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv[1:] = arguments
    try:
        runpy.run_module("functional_nn", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{STATUS}{end.code}") from None


def _had_wrong_input(job: Job) -> bool:
    """Whether the command refused its arguments or its folder, as it would each time."""
    return has_result(job) and f"{STATUS}2\n" in f"{job.exception()}\n"


def _last_line(job: Job) -> str:
    """Why a job failed, in one line: the command's own error, or the end of the log."""
    lines = [line.strip() for line in (job.stderr() or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error:")]
    return errors[-1] if errors else shortened(lines[-1]) if lines else "it ended without a word."
