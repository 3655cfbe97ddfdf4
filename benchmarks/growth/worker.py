"""A process of one entry: `python -m benchmarks.growth.worker ENTRY`.

It writes a JSON line when it is ready, or that a library is not installed. Then it answers each JSON line on its
standard input, `{"kind": …, "work": {…}}`, with the measured number. For the kind `turn` the same work may be asked for
again; it is prepared, and run once without being timed, at the first call. What libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from benchmarks.growth.work import Work
from benchmarks.race import replier, shortened
from benchmarks.records import versions

MODULES = {"jax": "plain_jax"}
"""The modules in `benchmarks.peers` of entries with another name."""


def peak_bytes() -> int:
    """The largest memory of this process so far.

    On Linux, `getrusage` counts the process that started this one, too, so the system's own figure is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Measurer:
    """Measures works of one entry, and keeps what it prepared for the last one."""

    def __init__(self, module: ModuleType):
        self.module = module
        self.after_imports = peak_bytes()
        self.work: Work | None = None
        self.train: Callable[[], float] | None = None

    def measure(self, kind: str, work: Work) -> float:
        if kind == "peak":
            self.module.growth_turn(work)()
            return peak_bytes() - self.after_imports
        if kind != "turn":
            return getattr(self.module, f"growth_{kind}")(work)
        if work != self.work:
            self.train = None  # frees the memory of the last work before the next one is prepared
            self.work, self.train = work, self.module.growth_turn(work)
            self.train()
        return self.train()


def main(entry: str) -> None:
    reply = replier()
    try:
        module = importlib.import_module(f"benchmarks.peers.{MODULES.get(entry, entry)}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("benchmarks"):
            raise
        reply(problem=f"not installed ({error.name})")
        return
    measurer = Measurer(module)
    reply(ready=True, versions=versions(module.LIBRARIES))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(value=measurer.measure(request["kind"], Work(**request["work"])))
        except Exception as error:
            traceback.print_exc()
            reply(problem=shortened(error))
            return


if __name__ == "__main__":
    main(sys.argv[1])
