"""Gzip decompression in pieces of a megabyte, with a bound on the work for hostile files.

Python's ``gzip`` reads pieces of 8 KiB (up to Python 3.11) and waits for the interpreter's lock after each of them.
While another thread is busy, that takes several times as long.
"""

from __future__ import annotations

import re
import zlib
from typing import BinaryIO

from functional_nn.core.errors import DataError

PIECE = 2**20
"""Compressed bytes that are read at a time."""

MOST_AT_ONCE = 4 * PIECE
"""The largest number of bytes that are decompressed at a time, and then copied to where they belong."""

FIRST_STEP = 2**10
"""Compressed bytes of the first step of a member. Each next step is twice as long, up to a piece.

The bytes that a member leaves over from its last step are copied. Short first steps avoid that a piece with many short
members is copied once for each of them.
"""

MOST_MEMBERS = 10_000
"""The largest number of members in a file. bgzip writes one for every 64 KiB and reaches it at 640 MB."""

GZIP = 16 + zlib.MAX_WBITS
"""The code of zlib for the largest window with gzip's header and checksum."""

ZEROS = re.compile(rb"\0*")


class Inflated:
    """The decompressed content of an open gzip file with one or more members. Zeros may follow each member.

    Args:
        file: the open file.
        place: names the file in errors.

    >>> import gzip, io
    >>> Inflated(io.BytesIO(gzip.compress(b"abc") + gzip.compress(b"def"))).read(5)
    b'abcde'
    """

    def __init__(self, file: BinaryIO, place: str = "gzip file"):
        self._file = file
        self._place = place
        self._piece = memoryview(b"")
        self._start = 0  # the first byte of the piece that was not used yet
        self._member = zlib.decompressobj(GZIP)
        self._members = 1
        self._step = FIRST_STEP

    def read(self, size: int) -> bytes:
        """Reads the next ``size`` bytes, as ``readinto`` does."""
        content = bytearray(size)
        return bytes(content[: self.readinto(memoryview(content))])

    def readinto(self, buffer: memoryview) -> int:
        """Fills a buffer with the next bytes, and returns how many these are.

        There are fewer than fit only at the end, after the checksums were verified.

        Raises:
            zlib.error: if the file is not gzip, or is damaged.
            EOFError: if the file ends too early.
            DataError: if the file has too many members.
        """
        filled = 0
        while filled < len(buffer) and not (self._member.eof and self._ended()):
            if self._start == len(self._piece):
                self._read_piece()
            given = self._piece[self._start : self._start + self._step]
            # The result is bounded, so a few bytes cannot fill the memory. zlib would take 0 as no bound.
            part = self._member.decompress(given, min(len(buffer) - filled, MOST_AT_ONCE))
            # What zlib did not use is the beginning of the next member, or input that found no room in the result.
            unused = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._start += len(given) - len(unused)
            self._step = min(2 * self._step, PIECE)
            # zlib can still hold results when all input is used. With neither input nor results, the file is cut off.
            if not (given or part or self._member.eof):
                raise EOFError("the file ends within the compressed data")
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def _read_piece(self) -> None:
        self._piece, self._start = memoryview(self._file.read(PIECE)), 0

    def _ended(self) -> bool:
        """Whether the file has no further member. If there is one, prepares to read it."""
        # Zeros between members may go on in the next piece.
        while True:
            zeros = ZEROS.match(self._piece, self._start)
            self._start = zeros.end() if zeros else self._start
            if self._start < len(self._piece):
                break
            self._read_piece()
            if not self._piece:
                return True
        self._members += 1
        if self._members > MOST_MEMBERS:
            remedy = "Compress its content again, as one member."
            raise DataError(self._place, f"at most {MOST_MEMBERS:,} gzip members", "more", remedy)
        self._member, self._step = zlib.decompressobj(GZIP), FIRST_STEP
        return False
