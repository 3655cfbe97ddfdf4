"""JAX's persistent compilation cache: compiled programs on disk, for the next start of the command."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from functional_nn.storage.cache_folder import cache_folder

MOST_FILES = 1000
"""The largest number of programs in the cache, about 50 MB in all. The oldest are removed first."""


def use_compilation_cache(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Sets JAX's compilation cache to the folder ``compiled`` of the cache, unless it is set already.

    JAX reads the setting from the environment when it is imported. If JAX is already imported, nothing changes. JAX
    runs programs from the folder, so it is used only if no other user can write to it (see ``cache_folder``).
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
            _remove_oldest(folder)
        except OSError:  # another process removes the same files
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        # By default JAX keeps only programs that took at least a second to compile.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        _remove_damaged_programs(folder)


COMPILATION_CACHE = click.option(
    "--compilation-cache/--no-compilation-cache",
    default=True,
    expose_value=False,
    callback=use_compilation_cache,
    help="Keep compiled programs for the next start.",
)


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"), key=lambda path: path.stat().st_mtime)


def _remove_oldest(folder: Path) -> None:
    for path in _oldest_first(folder)[:-MOST_FILES]:
        path.unlink(missing_ok=True)


def _remove_damaged_programs(folder: Path) -> None:
    """Removes a program that JAX cannot read, instead of showing a warning.

    JAX itself would compile the program again but keep the damaged file. So it would warn at each start.
    """
    show = warnings.showwarning

    def show_or_remove(message: Warning | str, *arguments: Any, **options: Any) -> None:
        text = str(message)
        if "reading persistent compilation cache" not in text:
            return show(message, *arguments, **options)
        for path in folder.glob("*-cache"):
            # A file has the name PROGRAM-KEY-cache, and the warning names the program only.
            program = path.name.rsplit("-", 2)[0]
            if f"'{program}'" in text:
                with suppress(OSError):
                    path.unlink()
        return None

    warnings.showwarning = show_or_remove
