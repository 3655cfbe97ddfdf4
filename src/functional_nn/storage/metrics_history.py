"""The metrics of a run's epochs on disk: one row for each epoch, appended once and verified when read.

Each row ends with the SHA-256 of all rows up to it. A checkpoint records the last one, which verifies all rows before
it, and appending a row takes the same time however long the run is. Every later checkpoint needs the rows, so there
are two copies: a damaged copy is replaced by the other one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from functional_nn.storage.checkpoint import DamagedCheckpoint
from functional_nn.storage.files import MOST_BYTES_OF_ROWS, read_file, unlinked_file

COPIES = ("history.bin", "history.copy.bin")
DIGEST_BYTES = 32
START = hashlib.sha256(b"functional_nn history").digest()
"""The digest before the first row."""


class History:
    """The rows in a folder of checkpoints. Only one process at a time writes to the folder.

    Args:
        folder: need not exist before the first row is added.
        columns: the numbers in a row; each is written as a float64.
    """

    def __init__(self, folder: Path, columns: int):
        self._files = [folder / name for name in COPIES]
        self._row = struct.Struct(f"<{columns}d")
        self._row_bytes = self._row.size + DIGEST_BYTES
        # The digests after 0, 1, 2, … rows.
        self._digests = [START]
        # The content that the files must start with before rows are added; None if they are known to have it.
        self._beginning: bytes | None = b""

    def read(self, rows: int, digest: str) -> list[tuple[float, ...]]:
        """Reads and verifies the first rows. ``extend`` can then add rows after them.

        Args:
            rows: the number of rows.
            digest: the digest that ``extend`` returned for the last of them.

        Raises:
            DamagedCheckpoint: if these rows are damaged or missing in both copies.
        """
        for path in self._files:
            content = read_file(path, MOST_BYTES_OF_ROWS)[: rows * self._row_bytes] if path.exists() else b""
            read, digests = self._verified(content)
            if len(read) == rows and digests[-1].hex() == digest:
                self._digests, self._beginning = digests, content
                return read
        place = " and ".join(str(path) for path in self._files)
        raise DamagedCheckpoint(place, f"the {rows} rows that were written", "other ones, or fewer")

    def extend(self, rows: Sequence[Sequence[float]], after: int) -> str:
        """Writes rows to both copies, and returns the digest of all rows in hexadecimal digits.

        Args:
            rows: what to write.
            after: the number of rows before them, which were read or written here. The rows after these are replaced:
                a run that resumes from an earlier checkpoint writes them again, and so does a call that was
                interrupted.
        """
        del self._digests[after + 1 :]
        added = b""
        for row in rows:
            packed = self._row.pack(*row)
            self._digests.append(hashlib.sha256(self._digests[-1] + packed).digest())
            added += packed + self._digests[-1]
        for path in self._files:
            # One copy after the other, each until it is on the disk: a crash damages one of them at most.
            with open(path, "r+b" if path.exists() else "w+b", opener=unlinked_file) as file:
                # Without this, a file that was cut or removed during the run would get zeros in place of earlier rows.
                if self._beginning is None and os.fstat(file.fileno()).st_size < after * self._row_bytes:
                    raise OSError(errno.EIO, f"a file of {after} rows or more was cut or removed", str(path))
                # A damaged copy gets the verified rows of the other one.
                if self._beginning is not None and file.read(len(self._beginning)) != self._beginning:
                    file.seek(0)
                    file.write(self._beginning)
                file.seek(after * self._row_bytes)
                file.write(added)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        self._beginning = None
        return self._digests[-1].hex()

    def _verified(self, content: bytes) -> tuple[list[tuple[float, ...]], list[bytes]]:
        """The rows before the first damaged one, and the digests after 0, 1, 2, … of them."""
        read, digests = [], [START]
        for start in range(0, len(content), self._row_bytes):
            packed = content[start : start + self._row.size]
            found = content[start + self._row.size : start + self._row_bytes]
            if hashlib.sha256(digests[-1] + packed).digest() != found:
                break
            digests.append(found)
            read.append(self._row.unpack(packed))
        return read, digests
