"""The metrics of a run's epochs on disk: one row an epoch, appended once and verified when read.

Each row ends with a SHA-256 of all rows up to it. So a checkpoint that notes the last one ties the rows to itself, and
appending a row costs the same however long the run is. There are two copies, since every later checkpoint needs the
rows: a damaged copy is replaced by the other one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from functional_nn.storage.checkpoint import DamagedCheckpoint

COPIES = ("history.bin", "history.copy.bin")
DIGEST_BYTES = 32
START = hashlib.sha256(b"functional_nn history").digest()
"""What stands for the digest of no rows."""


class History:
    """The rows of a folder of checkpoints, which has one writer.

    Args:
        folder: need not be there before the first row is added.
        columns: numbers in a row; each is written as a float64.
    """

    def __init__(self, folder: Path, columns: int):
        self._files = [folder / name for name in COPIES]
        self._row = struct.Struct(f"<{columns}d")
        self._row_bytes = self._row.size + DIGEST_BYTES
        self._rows, self._digest = 0, START
        # What the files must begin with before rows are added; None once they do.
        self._beginning: bytes | None = b""

    def read(self, rows: int, digest: str) -> list[tuple[float, ...]]:
        """The first rows, verified. What is added next goes behind them.

        Args:
            rows: how many.
            digest: what ``extend`` gave for the last of them.

        Raises:
            DamagedCheckpoint: where neither copy has them as they were written.
        """
        for path in self._files:
            content = path.read_bytes()[: rows * self._row_bytes] if path.exists() else b""
            read, last = self._verified(content)
            if len(read) == rows and last.hex() == digest:
                self._rows, self._digest, self._beginning = rows, last, content
                return read
        place = " and ".join(str(path) for path in self._files)
        raise DamagedCheckpoint(place, f"the {rows} rows that were written", "other ones, or fewer")

    def extend(self, rows: Sequence[Sequence[float]]) -> str:
        """Adds rows to both copies, and gives the digest of all rows in hexadecimal digits.

        Rows behind those that were read are dropped: a run that goes on from an earlier checkpoint writes them anew.
        """
        digest, added = self._digest, b""
        for row in rows:
            packed = self._row.pack(*row)
            digest = hashlib.sha256(digest + packed).digest()
            added += packed + digest
        for path in self._files:
            with open(path, "r+b" if path.exists() else "w+b") as file:
                if self._beginning is not None and file.read(len(self._beginning)) != self._beginning:
                    file.seek(0)
                    file.write(self._beginning)
                file.seek(self._rows * self._row_bytes)
                file.write(added)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        self._rows, self._digest, self._beginning = self._rows + len(rows), digest, None
        return digest.hex()

    def _verified(self, content: bytes) -> tuple[list[tuple[float, ...]], bytes]:
        """The rows as far as they are as they were written, and the digest of the last one."""
        read, digest = [], START
        for start in range(0, len(content), self._row_bytes):
            packed = content[start : start + self._row.size]
            found = content[start + self._row.size : start + self._row_bytes]
            if hashlib.sha256(digest + packed).digest() != found:
                break
            digest = found
            read.append(self._row.unpack(packed))
        return read, digest
