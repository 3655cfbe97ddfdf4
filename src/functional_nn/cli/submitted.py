"""``functional-nn sweep --submit``: the parts of a sweep as jobs of Slurm, or as processes of this computer."""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from functional_nn.core.display import progress_bar
from functional_nn.core.errors import InputError, check, imported, shortened

if TYPE_CHECKING:
    from functional_nn.core.signals import Signals
    from functional_nn.sweeps.results import SweepResult

JOBS, PARTS = "jobs", "parts"
"""The folders of the jobs' logs and of the parts, in the folder of the sweep."""
TRIES = 3
"""How often a part is run at most."""
POLL_SECONDS = 1.0
"""The time between two looks at the jobs."""
STATUS = "functional-nn ended with status "
"""What the error of a job begins with."""


def submitted_sweep(
    arguments: list[str], parts: int, settings: Mapping[str, object], out: Path, signals: Signals, *, quiet: bool
) -> SweepResult | None:
    """Runs the sweep in parts elsewhere, and puts them together. None after a signal.

    With Slurm, the parts are one job array. Without it, they are processes of this computer, all at the same time. A
    part that ended before finds its members in its folder, and trains nothing.

    Args:
        arguments: the command line of a part, after ``functional-nn``, without what distinguishes the parts.
        parts: into how many parts it is divided.
        settings: settings of the jobs, by the names that submitit gives them, and ``cluster``: ``local`` for processes
            of this computer although it has Slurm.
        out: the folder of the sweep, as ``Path.resolve`` gives it.
        signals: Ctrl-C and SIGTERM, which cancel the jobs.
        quiet: whether to show no progress bar.

    Raises:
        InputError: if submitit is missing, does not take a setting, or the folder is not one for this sweep.
        ClickException: if Slurm does not take the jobs, or a part failed three times.
    """
    from functional_nn.storage.files import check_no_link, folder_to_write, one_writer
    from functional_nn.storage.identity import check_kind, check_nothing_lost
    from functional_nn.storage.run_folder import REPORT
    from functional_nn.sweeps.parts import put_together
    from functional_nn.sweeps.store import SWEEP, WRITTEN_AFTERWARDS

    submitit = imported("submitit", "submitit", "--submit", extra="cluster")
    check_kind("out", out, "a sweep")
    if (out / SWEEP).exists() and not (out / PARTS).exists():
        raise InputError("out", "a new folder, or one that --submit wrote", f"{out}, which holds an undivided sweep")
    # With another number of parts, finished members would be trained again.
    before = {folder.name.partition("-of-")[2] for folder in (out / PARTS).glob("*-of-*")}
    if before and before != {str(parts)}:
        expected = f"{' or '.join(sorted(before))}, the number of parts in {out / PARTS}"
        raise InputError("--submit", expected, parts, "Give this number, or name another folder by --out.")
    if not before and out.is_dir():
        check_nothing_lost("out", out, (*WRITTEN_AFTERWARDS, REPORT))
    folders, commands = [], {}
    for part in range(1, parts + 1):
        folders.append(out / PARTS / f"{part}-of-{parts}")
        own = ["--quiet", "--part", f"{part}/{parts}", "--out", str(folders[-1])]
        commands[f"part {part} of {parts}"] = [*arguments, *own]

    signals.defer("look at the jobs")
    os.umask(os.umask(0o077) | 0o022)  # jobs run files in the folder, so the user's group cannot write to a new one
    click.get_current_context().with_resource(folder_to_write("out", out))
    with one_writer("out", out):
        for folder in (out / PARTS, *folders):
            check_no_link("--out", folder)
        executor = _executor(submitit, _folder_of_jobs(out), settings)
        try:
            run_parts(executor, commands, signals.check, quiet=quiet)
            return put_together(folders, out)
        except KeyboardInterrupt:
            click.echo("Interrupted; the jobs are cancelled. The same command continues the sweep.")
            return None


def run_parts(executor: Any, commands: Mapping[str, list[str]], check: Callable[[], None], *, quiet: bool) -> None:
    """Runs commands as jobs, and waits for them.

    A command that fails is run again, up to three times in all; it goes on with the members that it had not finished.

    Args:
        executor: submitit's, which submits jobs.
        commands: the command line of each part, after ``functional-nn``, by the part's name.
        check: called between two looks at the jobs. If it raises an error, all jobs are cancelled.
        quiet: whether to show no progress bar.
    """
    jobs = dict(zip(commands, _submitted(executor, commands.values()), strict=True))
    tries, failed = dict.fromkeys(commands, 1), []
    try:
        with progress_bar("parts", len(commands), False if quiet else None) as advance:
            while jobs:
                check()
                for name, job in [(name, job) for name, job in jobs.items() if job.done()]:
                    del jobs[name]
                    error = job.exception()
                    if error is None:
                        advance(f"{name} has ended")
                        continue
                    said = f"{name} failed: {_last_line(job)} The log is {job.paths.stderr}."
                    job.cancel(check=False)  # Slurm may have put a job that was stopped back into its queue
                    # A command that refused its arguments or its folder would do so each time.
                    if tries[name] < TRIES and f"{STATUS}2\n" not in f"{error}\n":
                        tries[name] += 1
                        jobs[name] = _submitted(executor, [commands[name]])[0]
                        said += " It is run again."
                    else:
                        failed.append(name)
                    click.echo(said, err=True)
                time.sleep(POLL_SECONDS)
    finally:
        _end(jobs.values(), executor.cluster)
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed. Once the reason is gone, the same command continues.")


def _submitted(executor: Any, commands: Collection[list[str]]) -> list[Any]:
    """The jobs that run these commands; with Slurm, one array."""
    # A terminal sends Ctrl-C to the command and to all processes that it started. The process of submitit that watches
    # a job would print a traceback then, and could leave the job behind. So these processes inherit that Ctrl-C is
    # blocked, and the command ends the jobs itself. It is not ignored: this process gets it afterwards.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Jobs run ``python -m submitit``, which would take modules from the working directory. A stranger may have made it.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        with executor.batch():
            return [executor.submit(_run_command, command) for command in commands]
    except RuntimeError as error:
        raise click.ClickException(f"Slurm did not take the jobs: {error}") from None
    except (TypeError, ValueError) as error:
        raise InputError("--job", "settings that submitit takes", shortened(error).rstrip(".")) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(jobs: Collection[Any], cluster: str) -> None:
    """Ends jobs. Processes of this computer are waited for, so that the same command can write to their folders."""
    if cluster == "slurm":
        for job in jobs:
            job.cancel(check=False)
        return
    # submitit hands SIGTERM on to functional-nn. The first one ends a part after its epoch, the second one at once.
    # Each may take ten seconds.
    for _ in range(2):
        running = [job for job in jobs if not job.done()]
        for job in running:
            os.kill(int(job.job_id), signal.SIGTERM)  # its number is that of its process
        deadline = time.monotonic() + 10
        while not all(job.done() for job in running) and time.monotonic() < deadline:
            time.sleep(0.05)


def _folder_of_jobs(out: Path) -> Path:
    """A new private folder for the files of jobs, in a folder that nobody else can change.

    submitit runs what it reads there. A file that is named after a job may also come from an earlier call, since a
    process of this computer can have the same number after a restart, or from whoever made the folder.
    """
    folder = out / JOBS
    folder.mkdir(mode=0o700, exist_ok=True)
    for place in (folder, out, *out.parents):
        about = place.lstat()
        # Who is in a group is not known for sure. With an access list, its bits are those of all users on the list.
        is_open = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX
        if stat.S_ISLNK(about.st_mode) or is_open or about.st_uid not in (0, os.getuid()):
            given = f"{place}, a link, or a folder that another user owns, or that its group or others can write to"
            remedy = f"Use another folder, or run chmod go-w {shlex.quote(str(place))}."
            raise InputError("--out", "a folder of your own, because jobs run files in it", given, remedy)
    return Path(tempfile.mkdtemp(dir=folder))


def _executor(submitit: Any, folder: Path, settings: Mapping[str, object]) -> Any:
    """What submits jobs, with the settings of the user."""
    for name in ("nodes", "tasks_per_node"):
        number = settings.get(name, 1)
        check("--job", number, f"{name}=1, because a part is one process", number == 1)
    chosen = dict(settings)
    try:
        executor = submitit.AutoExecutor(folder, cluster=chosen.pop("cluster", None))
        # Processes of this computer may run for a week. The limit of submitit is five minutes.
        executor.update_parameters(**{"name": "functional-nn", "timeout_min": 7 * 24 * 60, **chosen})
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError("--job", "settings that submitit takes", str(error).partition("\n")[0]) from None
    if executor.cluster == "slurm" and "timeout_min" not in chosen:
        # A limit above that of the partition would leave the jobs in the queue for ever, without a word.
        raise InputError("--job", "timeout_min=MINUTES, the time limit of a part", "none")
    if executor.cluster == "slurm":
        submitit.SlurmJob.watcher = _queue_watcher(submitit)
    return executor


def _queue_watcher(submitit: Any) -> Any:
    """Asks Slurm for its queue. submitit asks for its accounts, and waits for ever for killed jobs if there are none.

    The result of a job that has just left the queue may appear late on a network's disk. submitit waits for it.
    """

    class QueueWatcher(submitit.slurm.slurm.SlurmInfoWatcher):
        def _make_command(self) -> list[str]:
            # A user's own filters would hide jobs.
            own = [f"--unset={name}" for name in os.environ if name.startswith("SQUEUE_")]
            return ["env", *own, "squeue", "--me", "--noheader", "--array", "--format", "%i"]

        def read_info(self, string: bytes) -> dict[str, dict[str, str]]:
            alive = string.decode().split()
            return {job: {"State": "RUNNING" if job in alive else "COMPLETED"} for job in self._registered}

    return QueueWatcher(delay_s=15)  # the seconds between two questions about all jobs


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


def _last_line(job: Any) -> str:
    """Why a job failed, in one line: the command's own error, or the end of the log."""
    lines = [line.strip() for line in (job.stderr() or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error:")]
    return errors[-1] if errors else shortened(lines[-1]) if lines else "it ended without a word."
