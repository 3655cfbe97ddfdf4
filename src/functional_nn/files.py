"""Files written whole or not at all, and the folder of what can be made again."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from functional_nn.errors import InputError


def check_path(argument: str, value: Any) -> Path:
    """Refuses what is no path: Python would take a number for an open file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise InputError(argument, "the path of a file or folder", repr(value))
    return Path(value)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes beside the place and moves it there, so that an interrupted call leaves what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
