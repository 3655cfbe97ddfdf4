"""Gzip, decompressed by the megabyte.

Python's ``gzip`` does it by 8 KiB (up to Python 3.11) and waits for the interpreter's lock after each piece: beside
another busy thread that takes several times as long.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

PIECE = 2**20
"""Compressed bytes that are read at a time."""

GZIP = 16 + zlib.MAX_WBITS
"""For zlib: the largest window, and gzip's header and checksum."""


class Inflated:
    """The content of an open gzip file: of all its members, which zeros may follow.

    >>> import gzip, io
    >>> Inflated(io.BytesIO(gzip.compress(b"abc") + gzip.compress(b"def"))).read(5)
    b'abcde'
    """

    def __init__(self, file: BinaryIO):
        self._file, self._ahead, self._member = file, b"", zlib.decompressobj(GZIP)

    def read(self, size: int) -> bytes:
        """So many bytes, and fewer only at the end, where the checksum was right.

        Raises:
            zlib.error: for what is not gzip, or damaged.
            EOFError: for a file that ends too early.
        """
        parts = []
        while size and not (self._member.eof and self._ended()):
            ahead = self._ahead or self._file.read(PIECE)
            part = self._member.decompress(ahead, size)
            self._ahead = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not (ahead or part or self._member.eof):
                raise EOFError("the file ends within the compressed data")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _ended(self) -> bool:
        """Whether no other member follows; if one does, it is the next to be read."""
        while not (ahead := self._ahead.lstrip(b"\0")):
            self._ahead = self._file.read(PIECE)
            if not self._ahead:
                return True
        self._ahead, self._member = ahead, zlib.decompressobj(GZIP)
        return False
