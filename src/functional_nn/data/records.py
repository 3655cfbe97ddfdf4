"""Records of ArrayRecord files, which another process decompresses: some kilobytes of a file can become gigabytes."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence

from functional_nn.storage.limited_process import MORE_BYTES, limit_memory, limit_time, process_calling

MOST_BYTES = 2**24
"""The largest record that is read."""

SECONDS = 60
"""The longest time that one record may take."""

LENGTH = struct.Struct("<Q")
"""How the length of a record stands before it."""


def read_records(paths: Sequence[str]) -> Iterator[bytes]:
    """The records of some files of the format ArrayRecord, one after the other.

    Raises:
        ValueError: if a file is damaged, or if its records are much larger in memory than in the file.
    """
    command, environment = process_calling(write_records, *paths)
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdin=silent, stdout=subprocess.PIPE, stderr=silent) as process:
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

    limit_memory(MORE_BYTES)
    for path in paths:
        limit_time(SECONDS)
        reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        for _ in range(reader.num_records()):
            limit_time(SECONDS)
            record = reader.read()
            limit_time(0)  # whoever reads the output may take any time
            if len(record) > MOST_BYTES:
                return 1
            sys.stdout.buffer.write(LENGTH.pack(len(record)) + record)
    return 0
