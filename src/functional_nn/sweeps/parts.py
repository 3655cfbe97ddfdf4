"""The folders of sweeps: reading one without training, and merging the parts of a sweep."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NoReturn

from functional_nn.core.errors import DataError, InputError, check, escaped, shortened
from functional_nn.core.texts import counted
from functional_nn.storage import files
from functional_nn.storage.arrays import checksum, packed, unpacked
from functional_nn.storage.identity import PROGRAMS, difference
from functional_nn.sweeps import store
from functional_nn.sweeps.grid import check_grid
from functional_nn.sweeps.member_batch import MemberHistory
from functional_nn.sweeps.results import SweepResult

MOST_SHOWN = 10
"""How many missing members or parts a message lists."""

MOST_PARTS = 1000
"""Missing members are compared with divisions into at most so many parts."""

MOST_OTHER_METRICS = 64
"""How many metrics one member may have that another one lacks. All members have the same metrics of the user, and only
the usual ones, such as the accuracy, can differ. Tables and pages have a place for each metric of each member."""

MERGED = "merged parts"
"""What ``sweep.json`` has for the number of members at once, if a part trained several members at once."""


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> SweepResult:
    """Puts the folders of the parts of a sweep together. The new folder is that of the undivided sweep.

    The parts are what ``sweep`` with ``part=(k, n)`` wrote into ``out``, or ``functional-nn sweep --part k/n``. They
    need equal settings, data, and shapes of the parameters. What the programs compute is compared, too, if the parts
    ran with the same version of JAX, on the same kind of device, with as many cores, and as many members at once.

    The same sweep, without ``part``, can go on in the new folder, and has the parameters of all members then. This is
    not possible if ``vmap`` trained several members at once, because the whole sweep would train other members at once.

    If the process was killed, call ``merge`` again with the same folders.

    Args:
        folders: the folders of all parts, in any order.
        out: a new folder, or one in which such a merge was not finished. If it has the whole sweep, but no page
            yet, it is only read.

    Returns:
        The result of the whole sweep, without parameters.

    Raises:
        InputError: if the folders belong to different sweeps, or members are missing. Then nothing is written.
        DataError: if a folder has no sweep, or its ``sweep.json`` is damaged.
    """
    with merged(folders, out) as result:
        return result


@contextmanager
def merged(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Iterator[SweepResult]:
    """The same, as a context in which the new folder is locked and kept open."""
    is_list = isinstance(folders, Sequence) and not isinstance(folders, str)
    check("folders", folders, "a list with the folders of all parts", is_list and folders)
    paths = [files.check_path("folders", folder) for folder in folders]
    out = files.check_new_folder("out", out)
    settings, outcomes = _check_parts(paths)
    with ExitStack() as stack:
        stack.enter_context(files.folder_to_write("out", out))
        if _has_other_files(out, settings):
            raise InputError("out", "a new or empty folder", f"{out}, which has files", "Files are never overwritten.")
        stack.enter_context(files.one_writer("out", out))
        is_known = store.SWEEP in files.names_in(out)
        if is_known and not (ended := read_sweep(out)[0]).message:
            yield ended  # sweep.json comes last, so there is nothing left to put together
            return
        if is_known:
            _check_same_sweep(out, store.read_settings(out), settings)
        files.check_no_links("out", out, store.BATCHES)
        files.remove_leftovers(out)
        with files.folder_to_write("out", out / store.BATCHES):
            files.remove_leftovers(out / store.BATCHES)
            for path in paths:
                for file, _, batch in good_batches(path, store.read_settings(path)):
                    # Others may write to a part meanwhile. So only the files that were checked are written.
                    if outcomes.get(file.name) == (file, _outcome(batch)):
                        del outcomes[file.name]
                        about = batch.about | {store.FINGERPRINT: settings[store.FINGERPRINT]}
                        files.write_whole(out / store.BATCHES / file.name, packed(batch.arrays, about))
        for file, _ in outcomes.values():
            raise InputError("folders", "parts that nobody changes meanwhile", f"{file}, which changed")
        # The parts may differ: with vmap, a part of one member trains one at once.
        if any(store.read_settings(path).get(store.AT_ONCE) != 1 for path in paths):
            settings = settings | {store.AT_ONCE: MERGED}
        # The settings come last: a folder without them is no sweep yet.
        files.write_whole(out / store.SWEEP, files.signed_text(settings))
        yield read_sweep(out)[0]


def read_sweep(folder: Path) -> tuple[SweepResult, files.JsonObject]:
    """The result of a sweep, from its folder, and the entries of its ``sweep.json``.

    A file of members that is damaged or belongs to another sweep counts as missing, as when the sweep goes on. Members
    without a file have the status ``"not run"``. Control characters become escapes.

    Raises:
        DataError: if ``sweep.json`` is missing or damaged, or the members have too many different metrics.
    """
    settings = store.read_settings(folder)
    histories = _histories(folder, settings)
    _check_metrics(folder, histories)
    grid = check_grid(settings["grid"])  # which makes tuples of lists
    names = [name for name in grid[0] if name != "data" or len({member["data"] for member in grid}) > 1]

    def printable(values: Mapping[str, object]) -> files.JsonObject:
        return {escaped(name): escaped(value) if isinstance(value, str) else value for name, value in values.items()}

    members = []
    for history, values in zip(histories, grid, strict=True):
        history.status = escaped(history.status)
        history.curves, history.test_metrics = printable(history.curves), printable(history.test_metrics)
        members.append(history.result(printable({name: values[name] for name in names})))
    has_all = all(member.status != "not run" for member in members)
    message = "" if has_all else "The sweep has not ended, or a file is damaged."
    precision = settings.get("precision") or ["float32"]
    return SweepResult(tuple(members), _no_model, str(precision[0]), in_shape=(), message=message), settings


def good_batches(folder: Path, settings: files.JsonObject) -> Iterator[tuple[Path, int | None, store.Batch]]:
    """The good files of a sweep with finished batches of members.

    A damaged file and a link are left out, with a warning. Files of a sweep with another fingerprint are left out, and
    so are those with a name that this sweep does not give to a file.

    Yields the path of each file, the epoch of successive halving that it was written at (None at the end), and what is
    in it.
    """
    files.check_no_link(str(folder), folder / store.BATCHES)
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError), files.kept_open(folder):
        names = files.names_in(folder / store.BATCHES)
    rule, first_members, read = store.halving_of(settings), range(len(settings["grid"])), set()
    rungs = ["end", *map(str, rule.epochs if rule else ())]
    for name in filter(None, map(store.BATCH_NAME.fullmatch, sorted(names))):
        # There is one file for each first member and rung. A stranger could put any number of others beside them, and
        # to read those would take as long as they like.
        which = int(name["first"]), name["rung"]
        if which in read or which[0] not in first_members or which[1] not in rungs:
            continue
        read.add(which)
        path = folder / store.BATCHES / name.string
        try:
            # A stranger may put a link in place of the folder at any moment.
            with files.kept_open(folder), files.kept_open(folder / store.BATCHES):
                batch = store.read_batch(path, settings[store.FINGERPRINT])
        except store.DAMAGED as error:
            warnings.warn(f"{path} is left out, so its members count as not run: {shortened(error)}", stacklevel=2)
            continue
        if batch is not None:
            yield path, None if name["rung"] == "end" else int(name["rung"]), batch


def _has_other_files(out: Path, settings: files.JsonObject) -> bool:
    """Whether a folder has anything but what a killed ``merge`` of the same sweep left there."""
    names = files.names_in(out)
    known = {store.BATCHES, files.LOCK, *(store.WRITTEN_AFTERWARDS if store.SWEEP in names else ())}
    paths = [out / name for name in names if name not in known]
    files.check_no_links("out", out, store.BATCHES)
    if store.BATCHES in names and not (out / store.BATCHES).is_dir():
        return True
    if store.BATCHES in names:
        with files.kept_open(out / store.BATCHES):
            paths += [out / store.BATCHES / name for name in files.names_in(out / store.BATCHES)]

    def is_ours(path: Path) -> bool:
        if path.match(files.HALF_WRITTEN):
            return True
        try:
            about = store.read_settings(out) if path == out / store.SWEEP else unpacked(path)[1]
            return about[store.FINGERPRINT] == settings[store.FINGERPRINT] and (
                path == out / store.SWEEP or path.parent == out / store.BATCHES
            )
        except store.DAMAGED:
            return False

    return not all(map(is_ours, paths))


def _check_parts(paths: Sequence[Path]) -> tuple[files.JsonObject, dict[str, tuple[Path, object]]]:
    """Requires that the folders are parts of one sweep, and have all members.

    Returns:
        The settings of the first one, and by each name of a file the first file of this name and its outcome.
    """
    settings = store.read_settings(paths[0])
    if settings.get("halving") is not None:
        remedy = "Successive halving compares all members, so it has no parts."
        raise InputError("folders", "parts of a sweep", "a sweep with successive halving", remedy)
    members_in: dict[str, list[int]] = {}
    file_of: dict[int, str] = {}
    first_with: dict[str, tuple[Path, object]] = {}
    for path in paths:
        about = store.read_settings(path)
        _check_same_sweep(path, about, settings)
        for file, rung, batch in good_batches(path, about):
            if rung is not None:  # a file of successive halving, which is no result
                continue
            numbers = [history.number for history in batch.histories]
            is_known = members_in.setdefault(file.name, numbers) == numbers
            if not is_known or any(file_of.setdefault(number, file.name) != file.name for number in numbers):
                expected = f"parts of one division, such as 1/{len(paths)} to {len(paths)}/{len(paths)}"
                raise InputError("folders", expected, f"{path}, which has parts of another one")
            outcome = _outcome(batch)
            first, expected_outcome = first_with.setdefault(file.name, (file, outcome))
            if outcome != expected_outcome:
                given = f"{path}, whose results differ from those in {first.parent.parent}"
                raise InputError("folders", "one result of each part", given, "Leave out one of the two.")
    count = len(settings["grid"])
    if missing := sorted(set(range(count)) - file_of.keys()):
        raise InputError("folders", f"all {counted(count, 'member')} of the sweep", _in_words(missing, count))
    return settings, first_with


def _outcome(batch: store.Batch) -> object:
    """What two files of the same members must have in common."""
    about = [(one.number, one.status, one.bad_step, *one.curves, *one.test_metrics) for one in batch.histories]
    return checksum(batch.arrays), about


def _check_same_sweep(path: Path, known: files.JsonObject, first: files.JsonObject) -> None:
    others = [*store.FILE_ENTRIES, store.AT_ONCE]
    # How many members are trained at once depends on the part and on the memory of the computer, and the programs
    # depend on it.
    if known.get(store.AT_ONCE) != first.get(store.AT_ONCE):
        others.append(PROGRAMS)
    identities = [{name: about[name] for name in about if name not in others} for about in (known, first)]
    if different := difference(*identities):
        remedy = "Each sweep has folders of its own."
        raise InputError("folders", "parts of one sweep", f"{path}, whose sweep has {different}", remedy)


def _in_words(missing: Sequence[int], count: int) -> str:
    """Which members are missing: their numbers, and the parts, if all members of some parts are missing.

    >>> _in_words([1, 3, 5], 6), _in_words([4], 6)
    ('a sweep without 3 members (1, 3, 5): part 2/2', 'a sweep without 1 member (4)')
    """
    numbers = ", ".join(map(str, missing[:MOST_SHOWN])) + (", …" if len(missing) > MOST_SHOWN else "")
    said = f"a sweep without {counted(len(missing), 'member')} ({numbers})"
    # With one member in a part, any members would be whole parts.
    for parts in range(2, min(count // 2, MOST_PARTS) + 1):
        whole = sorted({number % parts for number in missing})
        if len(whole) <= MOST_SHOWN and sum(len(range(part, count, parts)) for part in whole) == len(missing):
            return f"{said}: part {', '.join(f'{part + 1}/{parts}' for part in whole)}"
    return said


def _histories(folder: Path, settings: files.JsonObject) -> Sequence[MemberHistory]:
    """The histories of all members, in the order of the grid."""
    found: dict[int, MemberHistory] = {number: MemberHistory(number) for number in range(len(settings["grid"]))}
    rule = store.halving_of(settings)
    batches = [(rung, batch.histories) for _, rung, batch in good_batches(folder, settings)]
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


def _check_metrics(folder: Path, histories: Sequence[MemberHistory]) -> None:
    """Requires that members which have metrics have about the same ones."""
    for metrics in ([history.curves for history in histories], [history.test_metrics for history in histories]):
        fewest = min(map(len, filter(None, metrics)), default=0)
        if (names := len(set(chain.from_iterable(metrics)))) > fewest + MOST_OTHER_METRICS:
            given = f"{names:,} metrics in all, and a member with {fewest:,}"
            raise DataError(str(folder), "members with the same metrics", given)


def _no_model(hyperparameters: object) -> NoReturn:
    remedy = "Call sweep again with the same arguments and the same folder: finished members are read from it."
    raise InputError("result", "a result that sweep returned", "one that was read from a folder", remedy)
