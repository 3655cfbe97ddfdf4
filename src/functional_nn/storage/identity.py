"""Which run or sweep a folder belongs to: what both wrote down, compared entry by entry."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_nn.core.errors import InputError, shortened
from functional_nn.storage.arrays import listed
from functional_nn.storage.checkpoint_folder import steps
from functional_nn.storage.files import finite_json

PROGRAMS, SURROUNDINGS = "programs", "made_with"
"""Two entries of an identity: fingerprints of compiled programs, and the versions and the machine. Fingerprints can be
compared only where versions and machine are the same."""

GROUPS = "groups"
"""An entry of a sweep's identity: loss and shapes of each static group."""

MARKS = {"a run": "config.json", "a sweep": "sweep.json"}
"""The file by which a folder is known."""


def as_json(argument: str, value: Any) -> Any:
    """A value as JSON gives it back; requires what JSON can hold."""
    try:
        return json.loads(json.dumps(finite_json(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(argument, "what JSON can hold", f"{type(value).__name__} ({error})") from None


def difference(known: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """How a folder's identity differs from the one given, in words; empty where nothing does.

    >>> difference({"seed": 0, "loss": "mse"}, {"seed": 0, "loss": "mae"})
    'loss "mse" instead of "mae"'
    """
    comparable = known.get(SURROUNDINGS) == given.get(SURROUNDINGS)
    # Other settings make other shapes, and those make other programs. So a part is named where none before it differs.
    parts = [
        [{name: side[name] for name in side.keys() - {GROUPS, PROGRAMS, SURROUNDINGS}} for side in (known, given)],
        [side.get(GROUPS, {}) for side in (known, given)],
        [side.get(PROGRAMS, {}) if comparable else {} for side in (known, given)],
    ]
    return listed(next(filter(None, (_differences(*map(_flat, part)) for part in parts)), []))


def check_kind(argument: str, folder: Path, own: str) -> None:
    """Refuses a folder that holds something of another kind: a sweep where a run is to go, and so on.

    Args:
        argument: the folder's, for the error.
        folder: need not be there.
        own: ``"a run"``, ``"a sweep"`` or ``"checkpoints"``.
    """
    if not os.path.isdir(folder):
        return
    found = [kind for kind, mark in MARKS.items() if (folder / mark).exists()]
    found += ["checkpoints"] if steps(folder) else []
    for kind in found:
        if kind != own:
            raise InputError(argument, f"a new folder, or one with {own}", f"{folder}, which holds {kind}")


def _differences(known: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    names = [name for name in (*given, *(known.keys() - given.keys())) if known.get(name) != given.get(name)]
    return [_words(name, known, given) for name in sorted(names)]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested entries under one name each: ``{"grid": [{"seed": 0}]}`` as ``{"grid 0 seed": 0}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        place = f"{name}" if prefix == "identity" else f"{prefix} {name}".strip()
        nested = isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping))
        flat |= _flat(value, place) if nested else {place: value}
    return flat


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _words(name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    if _is_digest(known.get(name)) or _is_digest(given.get(name)):
        return f"different {name}"
    return f"{name} {_shown(known, name)} instead of {_shown(given, name)}"


def _shown(entries: Mapping[str, Any], name: str) -> str:
    return shortened(json.dumps(entries[name])) if name in entries else "nothing"
