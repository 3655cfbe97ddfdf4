"""The user's cache folder, for files that can be made again, such as compiled programs.

The package trusts the files in the cache: it runs compiled programs from it. So it uses the folder only if no other
user can write to it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


class UnsafeCache(OSError):
    """The reason why the cache is not used."""


def cache_folder(name: str = "") -> Path:
    """Returns a folder of the cache, and makes it if it does not exist.

    The cache is ``functional_nn`` in ``$FUNCTIONAL_NN_CACHE``, else in ``$XDG_CACHE_HOME``, else in ``~/.cache``. It
    is safe to delete.

    With a name, others cannot enter the folder, whatever the umask is. A file in it that others may write to is
    removed: the user may have moved it there from a shared place, and somebody may still have it open.

    Args:
        name: the name of a folder in the cache; empty for the cache itself.

    Raises:
        UnsafeCache: if the path is relative or not in UTF-8, or there is no home directory; if a user other than this
            one and root could replace a folder of the path; if a folder of the cache is a symbolic link, or others can
            write to it; if something in the folder belongs to another user; or if the folder cannot be made.
    """
    given = os.environ.get("FUNCTIONAL_NN_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(os.path.expanduser(given))
    if not base.is_absolute():
        raise UnsafeCache(f"{given!r} is not an absolute path")
    try:
        # Links above the cache are the user's choice, and are followed once, here. Within the cache there must be none.
        base = Path(os.path.realpath(base))
        os.fsencode(base).decode()  # JAX needs the path as text in UTF-8
        for parent in filter(Path.exists, (base, *base.parents)):
            _check_folder(parent, is_own=False)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = base
        for part in filter(None, ("functional_nn", name)):
            folder = folder / part
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_folder(folder)
            if not os.access(folder, os.W_OK):
                raise UnsafeCache(f"{folder} cannot be written to")
        # Another user may have made a folder between the first check and mkdir.
        for parent in (base, *base.parents):
            _check_folder(parent, is_own=False)
        if name:  # the folder above may be another one of the user, who has named the one that it is in
            _make_private(folder)
            for entry in folder.iterdir():
                with suppress(FileNotFoundError):  # another process removed it
                    _check_entry(entry)
    except (OSError, ValueError) as error:
        raise UnsafeCache(str(error)) from None
    return folder


def _check_folder(folder: Path, is_own: bool = True) -> None:
    """Checks that no others own a folder or may write to it.

    Root may own one that is above the cache. In a sticky one there, such as /tmp, all users may write, but each can
    rename only their own files.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise UnsafeCache(f"{folder} is not a folder")
    if _others_may_write(about) and (is_own or not about.st_mode & stat.S_ISVTX):
        raise UnsafeCache(f"other users may write to {folder}")
    _check_owner(folder, about, is_own)


def _make_private(folder: Path) -> None:
    """Lets nobody else enter a folder. JAX writes files in it with the permissions of the umask."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _check_owner(folder, os.fstat(descriptor))
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)


def _check_entry(entry: Path) -> None:
    about = entry.lstat()
    _check_owner(entry, about)
    if stat.S_ISLNK(about.st_mode):
        raise UnsafeCache(f"{entry} is a symbolic link")
    if stat.S_ISREG(about.st_mode) and _others_may_write(about):
        entry.unlink()


def _check_owner(path: Path, about: os.stat_result, is_own: bool = True) -> None:
    if hasattr(os, "getuid") and about.st_uid != os.getuid() and (is_own or about.st_uid):
        raise UnsafeCache(f"{path} belongs to another user")


def _others_may_write(about: os.stat_result) -> bool:
    # Windows has no such bits; there a user's folders are private by default.
    return hasattr(os, "getuid") and bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
