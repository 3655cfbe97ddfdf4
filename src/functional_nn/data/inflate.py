"""Gzip decompression in pieces of a megabyte, with bounded work for hostile files.

Python's ``gzip`` reads pieces of 8 KiB (up to Python 3.11) and waits for the interpreter's lock after each of them:
beside another busy thread that takes several times as long.
"""

from __future__ import annotations

import re
import zlib
from typing import BinaryIO

from functional_nn.core.errors import DataError

PIECE = 2**20
"""Compressed bytes that are read at a time."""

FIRST_STEP = 2**10
"""Compressed bytes that a member is given first; each next step is twice as long, up to a piece.

What a member does not use of its last step is copied. With short first steps a piece full of short members is not
copied once for each of them.
"""

MOST_MEMBERS = 10_000
"""Members of a file. Tools that write one for every 64 KiB of content, such as bgzip, reach it at 640 MB."""

GZIP = 16 + zlib.MAX_WBITS
"""For zlib: the largest window, and gzip's header and checksum."""

ZEROS = re.compile(rb"\0*")


class Inflated:
    """The content of an open gzip file: of all its members, which zeros may follow.

    Args:
        file: the open file.
        place: names the file in errors.

    >>> import gzip, io
    >>> Inflated(io.BytesIO(gzip.compress(b"abc") + gzip.compress(b"def"))).read(5)
    b'abcde'
    """

    def __init__(self, file: BinaryIO, place: str = "gzip file"):
        self._file, self._place = file, place
        self._piece, self._start = memoryview(b""), 0
        self._member, self._members, self._step = zlib.decompressobj(GZIP), 1, FIRST_STEP

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, and fewer only at the end, where the checksum was right.

        Raises:
            zlib.error: for what is not gzip, or damaged.
            EOFError: for a file that ends too early.
            DataError: for a file of too many members.
        """
        parts = []
        while size and not (self._member.eof and self._ended()):
            if self._start == len(self._piece):
                self._read_piece()
            given = self._piece[self._start : self._start + self._step]
            part = self._member.decompress(given, size)
            unused = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._start += len(given) - len(unused)
            self._step = min(2 * self._step, PIECE)
            if not (given or part or self._member.eof):
                raise EOFError("the file ends within the compressed data")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read_piece(self) -> None:
        self._piece, self._start = memoryview(self._file.read(PIECE)), 0

    def _ended(self) -> bool:
        """Whether no other member follows; if one does, it is the next to be read."""
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
