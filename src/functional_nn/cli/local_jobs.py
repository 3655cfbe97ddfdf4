"""Jobs of submitit that are processes of this computer: they are kept from Ctrl-C, and ended without a traceback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from functional_nn.cli.job_watch import Job

END_SECONDS = 10.0
"""How long a part may take to end its epoch, and then how long it may take to end at once."""
POLL_SECONDS = 0.05
"""The time between two looks at the processes that should end."""


@contextmanager
def kept_from_interrupts() -> Iterator[None]:
    """Processes that are started in the body do not get Ctrl-C.

    A terminal sends Ctrl-C to the command and to all processes that it started. The process of submitit that watches a
    job would print a traceback then, and could leave the job behind. The command ends the jobs by ``end_processes``.

    Ctrl-C is blocked and not ignored, so it is not lost: this process gets it after the body.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_processes(jobs: Iterable[Job]) -> None:
    """Ends jobs, and waits until they have ended, so that the same command can write to their folders.

    submitit hands SIGTERM on to ``functional-nn``. The first one ends a part after its epoch, the second one at once.
    """
    running = list(jobs)
    for _ in range(2):
        running = [job for job in running if not job.done()]
        for job in running:
            os.kill(int(job.job_id), signal.SIGTERM)  # its number is that of its process
        deadline = time.monotonic() + END_SECONDS
        while not all(job.done() for job in running) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
