"""The cache: a folder of this user's alone for what can be made again, such as compiled programs.

What lies in the cache is trusted: compiled programs are run. So it is used only where nobody else can put anything.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnsafeCache(Exception):
    """Why the cache is not used, in words."""


def cache_folder(name: str = "") -> Path | None:
    """A folder of the cache, made if it is not there; None where no safe one can be had.

    The cache is ``functional_nn`` in ``$FUNCTIONAL_NN_CACHE``, else in ``$XDG_CACHE_HOME``, else in ``~/.cache``. It
    is safe to delete. ``safe_cache_folder`` says when it is not used.

    Args:
        name: of a folder in the cache; empty for the cache itself.
    """
    try:
        return safe_cache_folder(name)
    except UnsafeCache:
        return None


def safe_cache_folder(name: str = "") -> Path:
    """As ``cache_folder``, with the reason where there is none.

    Raises:
        UnsafeCache: where the path is relative or there is no home directory; where another user than this one and root
            could replace a folder of the path; where a folder of the cache is a symbolic link or can be written to by
            others; where something in the folder belongs to another user; where the folder cannot be made.
    """
    given = os.environ.get("FUNCTIONAL_NN_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(os.path.expanduser(given))
    if not base.is_absolute():
        raise UnsafeCache(f"{given!r} is not an absolute path")
    try:
        # Links above the cache are the user's own choice, and followed once, here. Below only real folders are taken.
        base = Path(os.path.realpath(base))
        existing = next(folder for folder in (base, *base.parents) if folder.exists())
        for folder in (existing, *existing.parents):
            _check_parent(folder)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = base
        for part in filter(None, ("functional_nn", name)):
            folder = folder / part
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_own_folder(folder)
        # Somebody else may have made a folder between the first look and mkdir.
        for parent in (base, *base.parents):
            _check_parent(parent)
        for entry in folder.iterdir():
            _check_owner(entry)
            if entry.is_symlink():
                raise UnsafeCache(f"{entry} is a symbolic link")
    except (OSError, ValueError) as error:
        raise UnsafeCache(str(error)) from None
    return folder


def _check_parent(folder: Path) -> None:
    """Requires that only this user and root can rename or replace what is in a folder."""
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise UnsafeCache(f"{folder} is not a folder")
    # In a sticky folder, such as /tmp, everybody may write but rename only what is their own.
    if _others_may_write(about) and not about.st_mode & stat.S_ISVTX:
        raise UnsafeCache(f"other users may write to {folder}")
    if hasattr(os, "getuid") and about.st_uid not in (0, os.getuid()):
        raise UnsafeCache(f"{folder} belongs to another user")


def _check_own_folder(folder: Path) -> None:
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise UnsafeCache(f"{folder} is not a folder")
    if _others_may_write(about):
        raise UnsafeCache(f"other users may write to {folder}")
    _check_owner(folder)
    if not os.access(folder, os.W_OK):
        raise UnsafeCache(f"{folder} cannot be written to")


def _check_owner(path: Path) -> None:
    if hasattr(os, "getuid") and path.lstat().st_uid != os.getuid():
        raise UnsafeCache(f"{path} belongs to another user")


def _others_may_write(about: os.stat_result) -> bool:
    # Windows has no such bits; there a user's folders are private by default.
    return hasattr(os, "getuid") and bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
