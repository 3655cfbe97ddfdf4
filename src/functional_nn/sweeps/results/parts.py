"""Puts the parts of a sweep together, which were trained on several computers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from functional_nn.core.counts import counted
from functional_nn.core.errors import InputError
from functional_nn.storage.arrays import packed, unpacked
from functional_nn.storage.files import JsonObject, check_new_folder, check_path, write_whole
from functional_nn.storage.identity import difference
from functional_nn.storage.locks import one_writer
from functional_nn.sweeps.execution.store import BATCHES, FILE_ENTRIES, FINGERPRINT, SWEEP
from functional_nn.sweeps.results.folder import good_batches, read_sweep, sweep_settings
from functional_nn.sweeps.results.results import SweepResult

MOST_SHOWN = 10
"""How many missing members a message lists."""


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> SweepResult:
    """Puts the folders of the parts of a sweep together. The new folder is that of the undivided sweep.

    The parts are what ``sweep`` with ``part=(k, n)`` wrote into ``out``, or ``functional-nn sweep --part k/n``. The
    folder of a part may itself be the result of a merge. The members are those of the whole sweep, with the same bits
    unless members are trained together by ``vmap``, or the computers have other processors.

    Args:
        folders: the folders of all parts, in any order.
        out: a new folder.

    Returns:
        The result of the whole sweep, without parameters. Call ``sweep`` without ``part`` and with this folder to get
        those, too: nothing is trained again.

    Raises:
        InputError: if the folders belong to different sweeps, or members are missing. Then nothing is written.
        DataError: if a folder has no sweep, or its ``sweep.json`` is damaged.
    """
    if isinstance(folders, str | os.PathLike) or not isinstance(folders, Sequence) or not folders:
        raise InputError("folders", "a list with the folders of all parts", repr(folders))
    paths = [check_path("folders", folder) for folder in folders]
    out = check_new_folder("out", out)
    check_unused(out)
    return put_together(paths, out)


def check_unused(out: Path) -> None:
    """Requires a folder that is new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("out", "a new or empty folder", f"{out}, which has files", "Files are never overwritten.")


def put_together(paths: Sequence[Path], out: Path) -> SweepResult:
    """The same as ``merge``, into a folder that may have the same sweep already, as after an interruption."""
    settings = sweep_settings(paths[0])
    files: dict[str, bytes] = {}
    found: set[int] = set()
    for path in paths:
        _check_same_sweep(path, sweep_settings(path), settings)
        for file, _, histories in good_batches(path):
            arrays, about = unpacked(file)
            files.setdefault(file.name, packed(arrays, about | {FINGERPRINT: settings[FINGERPRINT]}))
            found |= {history.number for history in histories}
    count = len(settings["grid"])
    if missing := sorted(set(range(count)) - found):
        raise InputError("folders", f"all {count} members of the sweep", _in_words(missing, count))
    if (out / SWEEP).exists():
        _check_same_sweep(out, sweep_settings(out), settings)
    with one_writer("out", out):
        (out / BATCHES).mkdir(exist_ok=True)
        for name, content in files.items():
            write_whole(out / BATCHES / name, content)
        # The identity comes last: a folder without it is no sweep yet.
        write_whole(out / SWEEP, (paths[0] / SWEEP).read_bytes())
    return read_sweep(out)[0]


def _check_same_sweep(path: Path, known: JsonObject, first: JsonObject) -> None:
    """Requires equal settings and shapes; and equal programs, unless the parts ran under different versions of JAX."""
    parts = [{name: about[name] for name in about if name not in FILE_ENTRIES} for about in (known, first)]
    if different := difference(*parts):
        remedy = "Each sweep has folders of its own."
        raise InputError("folders", "parts of one sweep", f"{path}, whose sweep has {different}", remedy)


def _in_words(missing: Sequence[int], count: int) -> str:
    """Which members are missing: those of whole parts if they are that, and their numbers."""
    numbers = ", ".join(map(str, missing[:MOST_SHOWN])) + (", …" if len(missing) > MOST_SHOWN else "")
    said = f"a sweep without {counted(len(missing), 'member')} ({numbers})"
    for parts in range(2, count + 1):
        whole = [part for part in range(parts) if set(range(part, count, parts)) <= set(missing)]
        if sum(len(range(part, count, parts)) for part in whole) == len(missing):
            return f"{said}: part {', '.join(f'{part + 1}/{parts}' for part in whole)}"
    return said
