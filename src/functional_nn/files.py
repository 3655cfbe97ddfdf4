"""Files and folders written whole or not at all, and the folder of what can be made again."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from functional_nn.errors import InputError

TEMPORARY = "functional_nn.tmp"
"""How the names end of what is half written, so that nobody else's files are taken for leftovers."""

LOCK = ".lock"


def check_path(argument: str, value: Any) -> Path:
    """Refuses what is no path: Python would take a number for an open file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise InputError(argument, "the path of a file or folder", repr(value))
    return Path(value)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
    with opened_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def opened_whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside the place and moves it there in the end; an interruption leaves what was there before."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_whole(folder: Path, contents: Mapping[str, bytes]) -> None:
    """A new folder of files: written and synchronised beside its place, and moved there in one step."""
    temporary = folder.with_name(f".{folder.name}.{TEMPORARY}")
    try:
        temporary.mkdir()
        for name, content in contents.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _synchronise(temporary)
        os.rename(temporary, folder)
        _synchronise(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Moves a folder aside before its files go, so that a part of it is never taken for the whole."""
    temporary = folder.with_name(f".{folder.name}.{TEMPORARY}")
    os.rename(folder, temporary)
    shutil.rmtree(temporary)


@contextmanager
def one_writer(argument: str, folder: Path) -> Iterator[None]:
    """Makes a folder and is its one writer; first removes what an earlier one left half written when it was killed.

    Raises:
        InputError: for the argument, where another process, or another writer of this one, has the folder, or it cannot
            be written to.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder / LOCK))
        except BlockingIOError as error:
            given = f"{folder}, which process {error} writes to"
            raise InputError(argument, "a folder that nobody else writes to", given) from None
        except OSError as error:
            given = f"{folder} ({error.strerror})"
            raise InputError(argument, "a folder that can be written to", given) from None
        remove_leftovers(folder)
        yield


def remove_leftovers(parent: Path) -> None:
    """Removes what the functions above left behind when their process was killed; nobody else may be writing there."""
    for temporary in parent.glob(f".*.{TEMPORARY}"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Has the names in a folder written to disk, where the system has a way to."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file, which one process at a time can; the system lets go of it when the process dies.

    Raises:
        BlockingIOError: where another one holds it; its text is that process's number.
        OSError: where the file cannot be written.
    """
    with open(path, "a+") as file:
        try:
            _lock(file.fileno())
        except OSError:
            file.seek(0)
            raise BlockingIOError(file.read()) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def finite_json(value: Any) -> Any:
    """A value for JSON: what is not finite as None, and any sequence but a string as a list.

    >>> finite_json({"loss": float("nan"), "sizes": (1, 2)})
    {'loss': None, 'sizes': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: finite_json(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_folder() -> Path:
    """``functional_nn`` in ``$FUNCTIONAL_NN_CACHE``, else ``$XDG_CACHE_HOME``, else ``~/.cache``; safe to delete."""
    base = os.environ.get("FUNCTIONAL_NN_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "functional_nn"
