"""Records of ArrayRecord files, which another process decompresses: some kilobytes of a file can become gigabytes."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path

MEMORY = 2**30
"""The bytes that the other process may take, beside those that it has at its start."""

MOST_BYTES = 2**24
"""The largest record that is read."""

SECONDS = 60
"""The longest time that one record may take."""

LENGTH = struct.Struct("<Q")
"""How the length of a record stands before it."""


def read_records(paths: Sequence[str], descriptors: Sequence[int] = ()) -> Generator[bytes, None, None]:
    """The records of some files of the format ArrayRecord, one after the other.

    Args:
        paths: the files.
        descriptors: those of open files that paths such as ``/dev/fd/3`` lead to.

    Raises:
        ValueError: if a file is damaged, or if its records are much larger in memory than in the file.
    """
    program = f"import sys; from {__name__} import write_records; sys.exit(write_records(*sys.argv[1:]))"
    modules = os.pathsep.join(path for path in sys.path if path and isinstance(path, str))
    # With one arena, threads of C++ reserve no memory that they do not use.
    environment = os.environ | {"PYTHONPATH": modules, "MALLOC_ARENA_MAX": "1"}
    command, silent = [sys.executable, "-P", "-c", program, *paths], subprocess.DEVNULL
    with subprocess.Popen(
        command, env=environment, stdin=silent, stdout=subprocess.PIPE, stderr=silent, pass_fds=descriptors
    ) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            while head := process.stdout.read(LENGTH.size):
                yield process.stdout.read(*LENGTH.unpack(head))
            if process.wait():
                raise ValueError(f"damaged records, or some of more than {MOST_BYTES:,} bytes in memory")
        finally:
            process.kill()


def write_records(*paths: str) -> int:
    """Writes the records to standard output, each after its length. Only a process of its own calls this."""
    from array_record.python.array_record_module import ArrayRecordReader

    _limit_memory()
    for path in paths:
        _limit_time(SECONDS)
        reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        for _ in range(reader.num_records()):
            _limit_time(SECONDS)
            record = reader.read()
            _limit_time(0)  # whoever reads the output may take any time
            if len(record) > MOST_BYTES:
                return 1
            sys.stdout.buffer.write(LENGTH.pack(len(record)) + record)
    return 0


def _limit_time(seconds: int) -> None:
    """Ends this process after some seconds, where the system can do that; 0 ends the limit."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Lets this process take only so many more bytes, where the system can do that."""
    with suppress(ImportError, OSError, ValueError):  # a ValueError: the user has set a hard limit that is smaller
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
