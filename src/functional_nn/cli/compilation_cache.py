"""Compiled programs kept on disk for the next start, in JAX's persistent compilation cache."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from functional_nn.storage.cache_folder import cache_folder

MOST_FILES = 1000
"""So many programs are kept, some 50 MB in all. The oldest are removed first."""


def use_compilation_cache(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Keeps compiled programs in the folder ``compiled`` of the cache, unless JAX was given another folder.

    JAX reads this from the environment, so it need not be imported yet; where it is already, nothing changes. Programs
    from the folder are run, so it is used only if nobody else can write to it (see ``cache_folder``).
    """
    if not wanted:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
        return
    if "jax" not in sys.modules and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder("compiled")
        if folder is None:
            return
        try:
            _forget_oldest(folder)
        except OSError:  # another process removes the same files
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        _forget_damaged(folder)


COMPILATION_CACHE = click.option(
    "--compilation-cache/--no-compilation-cache",
    default=True,
    expose_value=False,
    callback=use_compilation_cache,
    help="Keep compiled programs for the next start.",
)


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"), key=lambda path: path.stat().st_mtime)


def _forget_oldest(folder: Path) -> None:
    for path in _oldest_first(folder)[:-MOST_FILES]:
        path.unlink(missing_ok=True)


def _forget_damaged(folder: Path) -> None:
    """JAX compiles anew where a program cannot be read, but warns and leaves it there, so it would warn each time."""
    show = warnings.showwarning

    def show_or_forget(message: Any, *arguments: Any, **options: Any) -> None:
        text = str(message)
        if "reading persistent compilation cache" not in text:
            return show(message, *arguments, **options)
        for path in _oldest_first(folder):
            program, _key, _cache = path.name.rsplit("-", 2)
            if f"'{program}'" in text:
                path.unlink(missing_ok=True)
        return None

    warnings.showwarning = show_or_forget
