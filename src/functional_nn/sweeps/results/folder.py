"""Reading of a sweep's folder without training: its settings and its members, without their parameters."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from functional_nn.core.errors import DataError, InputError, shortened
from functional_nn.core.validation import LARGEST
from functional_nn.storage.arrays import unpacked
from functional_nn.storage.files import JsonObject, JsonValue, check_no_link
from functional_nn.sweeps.execution.halving import Halving
from functional_nn.sweeps.execution.member_batch import MemberHistory
from functional_nn.sweeps.execution.store import (
    BATCHES,
    FINGERPRINT,
    SWEEP,
    histories_in,
    read_identity,
)
from functional_nn.sweeps.grid.grid import check_grid
from functional_nn.sweeps.results.results import SweepResult

BATCH_NAME = re.compile(r"\d+-\d+-(?P<rung>\d+|end)")
"""The name of a batch's file: static group, first member, and the epoch of successive halving or ``end``."""


def read_sweep(folder: Path) -> tuple[SweepResult, JsonObject]:
    """The result of a sweep, from its folder, and the entries of its ``sweep.json``.

    A file of members that is damaged or belongs to another sweep counts as missing, as when the sweep goes on. Members
    without a file have the status ``"not run"``.

    Raises:
        DataError: if ``sweep.json`` is missing or damaged.
    """
    settings = sweep_settings(folder)
    histories = _histories(folder, settings)
    grid = check_grid(settings["grid"])  # which makes tuples of lists
    names = [name for name in grid[0] if name != "data" or len({member["data"] for member in grid}) > 1]
    members = tuple(history.result({name: grid[history.number][name] for name in names}) for history in histories)
    message = "" if all(member.status != "not run" for member in members) else "The sweep has not ended."
    precision = settings.get("precision") or ["float32"]
    return SweepResult(members, _no_model, str(precision[0]), in_shape=(), message=message), settings


def sweep_settings(folder: Path) -> JsonObject:
    """The verified entries of ``sweep.json``.

    Raises:
        DataError: if it is missing or damaged, or is not that of a sweep.
    """
    path = folder / SWEEP
    try:
        settings = read_identity(path)
        check_grid(settings.get("grid"))
        _halving(settings)
        return settings
    except DataError:
        raise
    except (InputError, TypeError, RecursionError) as error:
        raise DataError(str(path), "the settings of a sweep", f"others ({error})") from None
    except OSError as error:
        remedy = "Give a folder that sweep wrote."
        raise DataError(str(path), "the settings of a sweep", error.strerror, remedy) from None


def _histories(folder: Path, settings: Mapping[str, JsonValue]) -> Sequence[MemberHistory]:
    """The histories of all members, in the order of the grid."""
    found: dict[int, MemberHistory] = {number: MemberHistory(number) for number in range(len(settings["grid"]))}
    rule = _halving(settings)
    batches = [(rung, histories) for _, rung, histories in good_batches(folder)]
    # The rungs of successive halving are run through again: a member that was left out has no file that says so.
    for rung in (*(rule.epochs if rule else ()), None):
        for of_rung, histories in batches:
            if of_rung == rung:
                found |= {history.number: history for history in histories if history.number in found}
        running = [history for history in found.values() if history.running]
        if rule is not None and rung is not None:
            if any(history.epochs < rung for history in running):
                break  # the sweep was interrupted before all members reached this epoch
            try:
                rule.leave_out(list(found.values()))
            except KeyError as error:
                raise DataError(
                    str(folder), "members with the same metrics", f"some without {shortened(error)}"
                ) from None
    return list(found.values())


def _halving(settings: Mapping[str, JsonValue]) -> Halving | None:
    """The rule of successive halving, if the sweep has one."""
    given = settings.get("halving")
    return None if given is None else Halving(*given).checked(LARGEST)


def good_batches(folder: Path) -> Iterator[tuple[Path, int | None, list[MemberHistory]]]:
    """The good files of a sweep with finished batches of members.

    A damaged file and a link are left out, with a warning. Files of another sweep are left out.

    Yields the path of each file, the epoch of successive halving that it was written at (None at the end), and the
    histories in it.
    """
    fingerprint = sweep_settings(folder)[FINGERPRINT]
    check_no_link(str(folder), folder / BATCHES)
    for path in sorted((folder / BATCHES).glob("*.safetensors")):
        name = BATCH_NAME.fullmatch(path.stem)
        if name is None:
            continue
        try:
            arrays, about = unpacked(path)
            if about[FINGERPRINT] != fingerprint:
                continue
            histories = histories_in(arrays, json.loads(about["members"]))
        except (OSError, ValueError, KeyError, RecursionError) as error:
            warnings.warn(f"{path} is left out, so its members count as not run: {shortened(error)}", stacklevel=2)
            continue
        yield path, None if name["rung"] == "end" else int(name["rung"]), histories


def _no_model(hyperparameters: object) -> NoReturn:
    remedy = "Call sweep again with the same arguments and the same folder: finished members are read from it."
    raise InputError("result", "a result that sweep returned", "one that was read from a folder", remedy)
