"""Another process for a file that a library reads, with limits of time and memory.

A small file of a stranger can keep a library busy for ever, fill the memory or crash the process. In the worst case,
the other process ends.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

MORE_BYTES = 2**30
"""The memory that such a process may take, beside what the size of its file explains."""


def process_calling(function: Callable[..., int], *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that calls a public function, and exits with its result."""
    name = function.__name__
    program = f"import sys; from {function.__module__} import {name}; sys.exit({name}(*sys.argv[1:]))"
    paths = os.pathsep.join(path for path in sys.path if path and isinstance(path, str))
    # With one arena, threads of C++ reserve no memory that they do not use.
    environment = os.environ | {"PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1"}
    return [sys.executable, "-P", "-c", program, *arguments], environment


def limit_time(seconds: int) -> None:
    """Ends this process after some seconds, where the system can do that; 0 ends the limit."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def limit_memory(size: int) -> None:
    """Lets this process take only so many more bytes, where the system can do that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, resource.RLIM_INFINITY))
