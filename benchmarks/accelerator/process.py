"""The process of a part: its records as they come, its time limit, and why it failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.accelerator.parts import PARTS, Record, Settings
from benchmarks.race import ROOT

DONE, FAILED, OUT_OF_TIME = "done", "failed", "out of time"


class Outcome(NamedTuple):
    """How a part ended: one of the three words above; and why, if it did not end by itself."""

    status: str
    problem: str | None = None


def run_part(name: str, settings: Settings, limit: float, log: Path, receive: Callable[[Record], None]) -> Outcome:
    """Measures a part in a process of its own, which is ended after `limit` seconds with all that it has started.

    Args:
        name: the part.
        settings: what the part is given.
        limit: the most seconds that it may take.
        log: a file for what its libraries print, and for its traceback if it fails.
        receive: called with each record.
    """
    given = asdict(settings) | {"data_dir": str(settings.data_dir.resolve())}
    del given["began"]  # the part's clock starts in its own process
    command = [sys.executable, "-m", "benchmarks.accelerator.worker", name, json.dumps(given)]
    environment = os.environ | dict(PARTS[name].environment)
    if settings.platform == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # peers compare on one device: PyTorch uses no GPU if JAX does not
    timed_out = threading.Event()
    problem = None
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # so that its own processes can be ended with it
        )

        def end_late() -> None:
            timed_out.set()
            _end(process)

        timer = threading.Timer(limit, end_late)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    record = json.loads(line)
                    if record.keys() == {"problem"}:
                        problem = record["problem"]
                    else:
                        receive(record)
            status = process.wait()
        finally:
            timer.cancel()
            timer.join()
            _end(process)
            process.communicate()
    if timed_out.is_set():
        return Outcome(OUT_OF_TIME, f"it was ended after {limit:.0f} s")
    if status and problem is None:
        problem = f"its process ended with status {status}: {_last_line(log)}".removesuffix(": ")
    return Outcome(DONE) if problem is None else Outcome(FAILED, problem)


def _end(process: subprocess.Popen[str]) -> None:
    """Kills a process, if it still runs, and those that it has started: they are in its process group.

    If it has ended by itself, so have they: workers end when their input is closed.
    """
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
