"""Identity of runs and sweeps: whether a folder belongs to the same run, compared entry by entry."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from functional_nn.core.errors import InputError, shortened
from functional_nn.storage.arrays import MOST_LISTED, listed
from functional_nn.storage.checkpoints import steps
from functional_nn.storage.files import JsonValue, names_in

PROGRAMS = "programs"
"""The name of the entry with the fingerprints of compiled programs."""

SURROUNDINGS = "made_with"
"""The name of the entry with package versions and the machine. Fingerprints can be compared only if it is equal."""

GROUPS = "groups"
"""The name of a sweep's entry with the loss and the shapes of each static group."""

IDENTITY = "identity"
"""The name of the entry with the values that the user adds to a comparison, by names of the user."""

EntryPath: TypeAlias = tuple[str | int, ...]
"""The names and places that lead to an entry, such as ``("grid", 0, "seed")``."""

DIGEST = re.compile(r'"[0-9a-f]{64}"')
"""The pattern of a SHA-256 in JSON, which says nothing to people."""

FILE_OF_KIND = {"a run": "config.json", "a sweep": "sweep.json"}
"""The file that shows what a folder holds."""


def difference(
    known: Mapping[str, JsonValue], given: Mapping[str, JsonValue], defaults: Mapping[str, object] | None = None
) -> str:
    """The differences between a folder's identity and a given one, as text; empty if there are none.

    ``defaults`` are values of the user's entries that the folder may lack, because they were added later.

    >>> difference({"seed": 0, "loss": "mse"}, {"seed": 0, "loss": "mae"})
    'loss "mse" instead of "mae"'
    """
    of_user, new = known.get(IDENTITY), given.get(IDENTITY)
    if defaults and isinstance(of_user, dict) and isinstance(new, dict):
        known = {**known, IDENTITY: {name: defaults[name] for name in new if name in defaults} | of_user}
    both = known, given
    settings = [{name: one[name] for name in one.keys() - {GROUPS, PROGRAMS, SURROUNDINGS}} for one in both]
    groups, programs = ([one.get(name) or {} for one in both] for name in (GROUPS, PROGRAMS))
    parts = [settings, groups]
    if known.get(SURROUNDINGS) == given.get(SURROUNDINGS):
        parts.append(programs)
    # Different settings cause different shapes and different programs. So only the first part that differs is named.
    return next(filter(None, (_differences(*map(_flat, part)) for part in parts)), "")


def check_kind(argument: str, folder: Path, expected: str) -> None:
    """Raises an error for a folder that holds something else, such as a sweep in the folder for a run.

    Args:
        argument: the argument with the folder, for the error.
        folder: need not exist.
        expected: ``"a run"``, ``"a sweep"`` or ``"checkpoints"``.
    """
    if not os.path.isdir(folder):
        return
    found = [kind for kind, file in FILE_OF_KIND.items() if (folder / file).exists()]
    if steps(folder):
        found.append("checkpoints")
    for kind in found:
        if kind != expected:
            raise InputError(argument, f"a new folder, or one with {expected}", f"{folder}, which holds {kind}")


def check_nothing_lost(argument: str, folder: Path, files: Sequence[str]) -> None:
    """Requires that a folder without a run or a sweep has none of the files that will be written into it."""
    taken = sorted(set(files).intersection(names_in(folder)))
    if taken:
        given = f"{folder}, whose {taken[0]} would be overwritten"
        raise InputError(argument, f"a folder without {taken[0]}", given, "Use another folder.")


def _differences(known: Mapping[EntryPath, object], given: Mapping[EntryPath, object]) -> str:
    paths = [path for path in (*given, *(known.keys() - given.keys())) if known.get(path) != given.get(path)]
    paths.sort(key=_name)
    # The command gives some settings in the entry of the user, too. The same sentence is said once. There may be very
    # many differences, so words are found only for those that are shown.
    first = paths[: 2 * MOST_LISTED]
    sentences = dict.fromkeys(_in_words(path, known, given) for path in first)
    return listed(list(sentences), more=len(paths) - len(first))


def _flat(tree: Mapping[str, object] | list[object], start: EntryPath = ()) -> dict[EntryPath, object]:
    """Nested entries by path: ``{"grid": [{"seed": 0}]}`` becomes ``{("grid", 0, "seed"): 0}``."""
    flat: dict[EntryPath, object] = {}
    for name, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        path = (*start, name)
        if value and (isinstance(value, Mapping) or (isinstance(value, list) and isinstance(value[0], Mapping))):
            flat |= _flat(value, path)
        else:
            flat[path] = value
    return flat


def _name(path: EntryPath) -> str:
    """The path as messages show it. Entries of the user are named as the user named them."""
    shown = path[1:] if path[0] == IDENTITY and len(path) > 1 else path
    return " ".join(str(part) for part in shown if part != "")


def _in_words(path: EntryPath, known: Mapping[EntryPath, object], given: Mapping[EntryPath, object]) -> str:
    before, now = (json.dumps(entries[path]) if path in entries else "nothing" for entries in (known, given))
    if DIGEST.fullmatch(before) or DIGEST.fullmatch(now):
        return f"different {shortened(_name(path))}"
    return f"{shortened(_name(path))} {shortened(before)} instead of {shortened(now)}"
