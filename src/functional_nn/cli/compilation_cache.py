"""Compiled programs kept on disk for the next start, in JAX's persistent compilation cache."""

from __future__ import annotations

import os
import stat
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click

from functional_nn.files import TEMPORARY, cache_folder

MOST_FILES = {"*-cache": 1000, "*.program": 1000, "*.run": 1000}
"""So many are kept: JAX's programs and ours, some 50 MB each, and lists of ours. The oldest go first."""

DAY = 24 * 60 * 60

FOLDER = "functional_nn.compiled"
"""What a command's context calls the folder, where one is used."""


def use_compilation_cache(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Keeps compiled programs in the folder ``compiled`` of the cache, unless JAX was told another one.

    It is said through the environment, so JAX need not be imported yet; where it is already, nothing changes. A folder
    that cannot be written to, or that others could write programs to, is not used.
    """
    if not wanted:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
        return
    if "jax" not in sys.modules and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder() / "compiled"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(folder):
                return
            _forget_oldest(folder)
        except OSError:
            return
        context.meta[FOLDER] = folder
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        _forget_damaged(folder)


def folder_of_programs() -> Path | None:
    """The folder, where this command keeps compiled programs in the package's own."""
    return click.get_current_context().meta.get(FOLDER)


COMPILATION_CACHE = click.option(
    "--compilation-cache/--no-compilation-cache",
    default=True,
    expose_value=False,
    callback=use_compilation_cache,
    help="Keep compiled programs for the next start.",
)


def _is_own(folder: Path) -> bool:
    about = folder.stat()
    own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    return own and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK)


def _oldest_first(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def _forget_oldest(folder: Path) -> None:
    for pattern, most in MOST_FILES.items():
        for path in _oldest_first(folder, pattern)[:-most]:
            path.unlink(missing_ok=True)
    for path in _oldest_first(folder, f".*.{TEMPORARY}"):  # a killed process left it
        if time.time() - path.stat().st_mtime > DAY:
            path.unlink(missing_ok=True)


def _forget_damaged(folder: Path) -> None:
    """JAX compiles anew where a program cannot be read, but warns and leaves it there, so it would warn each time."""
    show = warnings.showwarning

    def show_or_forget(message: Any, *arguments: Any, **options: Any) -> None:
        text = str(message)
        if "reading persistent compilation cache" not in text:
            return show(message, *arguments, **options)
        for path in _oldest_first(folder, "*-cache"):
            program, _key, _cache = path.name.rsplit("-", 2)
            if f"'{program}'" in text:
                path.unlink(missing_ok=True)
        return None

    warnings.showwarning = show_or_forget
