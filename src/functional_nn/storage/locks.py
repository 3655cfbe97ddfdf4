"""Locks for folders that have one writer at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from functional_nn.core.errors import InputError
from functional_nn.storage.files import remove_leftovers, still_there, unlinked_file

LOCK = ".lock"


@contextmanager
def one_writer(argument: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Makes a folder and locks it for one writer. It removes half-written files that a killed writer left behind.

    The value of the context is a function that checks before something is written whether the lock is still there; see
    ``still_there``.

    Raises:
        InputError: names the argument, if another writer, in this process or another, uses the folder, or if it cannot
            be written to.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = stack.enter_context(_locked(folder / LOCK))
        except BlockingIOError as error:
            given = f"{folder}, which process {error} writes to"
            raise InputError(argument, "a folder that nobody else writes to", given) from None
        except OSError as error:
            given = f"{folder} ({error.strerror})"
            raise InputError(argument, "a folder that can be written to", given) from None
        remove_leftovers(folder)
        yield still_there(folder / LOCK, descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Holds a lock file. Only one process at a time can hold it. The system releases the lock when the process dies.

    Raises:
        BlockingIOError: if another process holds it. Its text is the number of that process.
        OSError: if the file cannot be written.
    """
    # Whoever can read the file can hold the lock. So only its owner may, also in a folder that everyone reads.
    with open(unlinked_file(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        with suppress(OSError, AttributeError):  # an earlier version's file of another user; Windows has no fchmod
            os.fchmod(file.fileno(), 0o600)
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise BlockingIOError(file.read()) from None
        # The file is emptied only with the lock held, since others read the number of the holder in it. It is never
        # removed: a second process might then lock a new file while the first one holds the old one.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # Nobody else can read a locked byte here, so a byte behind the number of the process is locked.
        os.lseek(descriptor, 64, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
