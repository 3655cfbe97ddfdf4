"""Whether jobs that were submitted have ended."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeAlias

Job: TypeAlias = Any
"""A job of submitit."""

QUEUE_SECONDS = 15.0
"""The time between two questions to Slurm about all jobs."""


ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""The states of jobs that will not run again. Slurm lists them for some minutes."""


class JobWatch:
    """Notices when jobs have ended, also those that were killed.

    submitit asks the accounts of Slurm for killed jobs, and would wait for ever where Slurm keeps none. This class asks
    for the queue. The result of a job that has just ended may appear late on a network's disk. So a job has ended if
    there is its result, or if it was not in the queue twice in a row.

    Args:
        has_queue: whether Slurm runs the jobs. Otherwise they are processes of this computer.
    """

    def __init__(self, has_queue: bool):
        self._has_queue = has_queue
        self._time = time.monotonic()
        self._missed: Counter[str] = Counter()

    def look(self, jobs: Iterable[Job]) -> None:
        """Asks Slurm for its queue, if the last time was long ago."""
        if not self._has_queue or time.monotonic() - self._time < QUEUE_SECONDS:
            return
        self._time = time.monotonic()
        command = ["squeue", "--me", "--noheader", "--array", "--states", "all", "--format", "%i %T"]
        # A user's own filters would hide jobs.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
        queue = subprocess.run(command, capture_output=True, text=True, env=environment)
        if queue.returncode != 0:
            return  # Slurm is too busy to answer
        lines = [line.split() for line in queue.stdout.splitlines()]
        alive = {number for number, state in lines if state not in ENDED}
        for job in jobs:
            self._missed[job.job_id] = 0 if job.job_id in alive else self._missed[job.job_id] + 1

    def has_ended(self, job: Job) -> bool:
        if not self._has_queue:
            return job.done()
        return has_result(job) or self._missed[job.job_id] > 1


def has_result(job: Job) -> bool:
    """Whether a job has ended with a result or an error of its own, and was not killed."""
    return job.paths.result_pickle.exists()
