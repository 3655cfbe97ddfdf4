"""The folder of a sweep: one file for each finished batch of members, so that a killed sweep can continue."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import DataError, InputError, reading, shown
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import LARGEST
from functional_nn.storage import files
from functional_nn.storage.arrays import Shaped, as_stored, form, is_key, packed, unpacked
from functional_nn.storage.identity import (
    GROUPS,
    IDENTITY,
    PROGRAMS,
    SURROUNDINGS,
    check_kind,
    check_nothing_lost,
    difference,
)
from functional_nn.storage.run_folder import MOST_ROWS, REPORT
from functional_nn.sweeps.grid import check_grid
from functional_nn.sweeps.member_batch import Halving, MemberHistory
from functional_nn.training.devices import total_bytes

SWEEP, BATCHES = "sweep.json", "batches"
BATCH_NAME = re.compile(r"\d+-(?P<first>\d+)-(?P<rung>\d+|end)\.safetensors")
"""The name of a batch's file: static group, first member, and the epoch of successive halving or ``end``."""
FORMAT, VERSION = "functional_nn sweep", 1
FINGERPRINT = "fingerprint"
AT_ONCE = "members_at_once"
WRITTEN_AFTERWARDS = ("members.csv", "members.jsonl")
"""What the commands ``sweep`` and ``merge`` write after ``sweep.json``. Their page comes last."""
FILE_ENTRIES = ("format", "version", FINGERPRINT)
"""The entries of ``sweep.json`` that do not belong to the identity of the sweep."""
SCHEMA = {
    FINGERPRINT: str,
    "epochs": (int, None),
    "grid": [{"data": str, ...: (*files.PLAIN, list)}],
    "halving": ([(*files.PLAIN, [int])], None),
    "precision": ([str], None),
    AT_ONCE: (int, str, None),
    **dict.fromkeys((GROUPS, PROGRAMS, SURROUNDINGS), (dict, None)),
    IDENTITY: (str, dict, None),
}
"""The schema of ``sweep.json``."""
NEW_OR_OURS = "a new folder, or the folder of this sweep"
"""What ``out`` is expected to be."""
MOST_ARRAYS = 100_000
"""The most arrays in the file of a batch. The names and shapes of more could not be read back: ``MOST_ENTRIES``."""
SAVED = ("number", "status", "bad_step", "seconds")
"""The entries of a history that are saved as they are."""
MEMBERS_SCHEMA = [
    {
        **{"number": int, "status": str, "bad_step": (int, None), "seconds": float},
        **{"metrics": [str], "test_metrics": [str], ...: files.PLAIN},
    }
]
"""The schema of what a batch's file says about its members."""
CURVE, TEST = "curve", "test"
"""In a batch's file, the paths of a member's metrics: after each epoch, and on the test examples at the end."""
DAMAGED = (OSError, ValueError, KeyError, RecursionError)
"""The errors of reading a batch from a damaged file."""


class Batch(NamedTuple):
    """What a file of finished members has: their histories, its arrays, and its other entries."""

    histories: list[MemberHistory]
    arrays: dict[str, np.ndarray]
    about: dict[str, str]


@contextmanager
def opened_store(
    folder: Path, identity: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> Iterator[Store]:
    """Opens the folder of a sweep as its only writer, and removes files left behind by a killed writer.

    Args:
        folder: a folder for this sweep alone; created if it does not exist.
        identity: by name, everything that must be equal for a sweep to continue in the folder.
        defaults: values of the user's entries that a folder from before these were added does not have.

    Raises:
        InputError: if the folder cannot be written to, has links in it, is in use by another process, or belongs to
            another sweep or another program.
        DataError: if ``sweep.json`` is damaged or of another version.
    """
    given = files.as_json("identity", identity)
    check_kind("out", folder, "a sweep")
    with files.one_writer("out", folder):
        fingerprint = _begun(folder, given, defaults)
        files.remove_leftovers(folder)
        with files.folder_to_write("out", folder / BATCHES):
            files.remove_leftovers(folder / BATCHES)
            yield Store(folder, fingerprint)


def _begun(folder: Path, identity: files.JsonObject, defaults: Mapping[str, object] | None) -> str:
    """Writes the sweep's identity, or compares it with that in the folder; returns the fingerprint of the folder."""
    try:
        files.check_no_links("out", folder, BATCHES)
        names = files.names_in(folder)
        batches = files.names_in(folder / BATCHES) if BATCHES in names else []
        if SWEEP not in names and not any(map(BATCH_NAME.fullmatch, batches)):  # no sweep has begun here
            check_nothing_lost("out", folder, (*WRITTEN_AFTERWARDS, REPORT))
        files.make_folder(folder / BATCHES)
        if SWEEP not in names:
            fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
            with files.kept_open(folder / BATCHES):
                for name in filter(BATCH_NAME.fullmatch, batches):
                    is_ours = True  # also if it is damaged
                    with suppress(*DAMAGED):
                        is_ours = read_batch(folder / BATCHES / name, fingerprint) is not None
                    if not is_ours:
                        given = f"{folder}, where another sweep, or one with another version of JAX, wrote {name}"
                        raise InputError("out", NEW_OR_OURS, given, "Use another folder.")
            entries = {"format": FORMAT, "version": VERSION, FINGERPRINT: fingerprint}
            files.write_whole(folder / SWEEP, files.signed_text(entries | identity))
            return fingerprint
        known = read_settings(folder)
    except OSError as error:
        raise InputError("out", "a folder that can be written to", f"{folder / SWEEP} ({error.strerror})") from None
    entries = {name: known[name] for name in known if name not in FILE_ENTRIES}
    if different := difference(entries, identity, defaults):
        remedy, at_once = "Use another folder.", known.get(AT_ONCE)
        is_all = different == f"{AT_ONCE} {at_once} instead of {identity.get(AT_ONCE)}"
        if is_all and isinstance(at_once, int):
            remedy = f"Use the plan {'map' if at_once == 1 else f'vmap:{at_once}'}, or another folder."
        given = f"{folder}, whose sweep has {different}"
        raise InputError("out", NEW_OR_OURS, given, remedy)
    # The folder may have been made with other versions of JAX, which are not compared. Then its fingerprint differs
    # from ours. Its files contain its own fingerprint.
    return known[FINGERPRINT]


class Store(NamedTuple):
    """The folder of a sweep: ``sweep.json`` says which sweep it is, ``batches/`` has the finished batches of members.

    Args:
        folder: the folder, which ``opened_store`` has opened.
        fingerprint: that of the sweep, which each of its files contains.
    """

    folder: Path
    fingerprint: str

    def save(self, name: str, histories: Sequence[MemberHistory], kept: Sequence[PyTree]) -> None:
        """Writes a batch: the history of each member, and a pytree of arrays for each member.

        Raises:
            OSError: if it could not be written, for instance because the folder was removed.
        """
        arrays: dict[str, np.ndarray] = {}
        members = []
        for place, (history, tree) in enumerate(zip(histories, kept, strict=True)):
            # The file sorts its arrays by name, so the order of the metrics is kept beside them.
            names = {"metrics": list(history.curves), "test_metrics": list(history.test_metrics)}
            members.append({name: getattr(history, name) for name in SAVED} | names)
            metrics = {f"{CURVE}/{name}": values for name, values in history.curves.items()}
            metrics |= {f"{TEST}/{name}": [value] for name, value in history.test_metrics.items()}
            arrays |= {f"{place}/{name}": np.asarray(values, np.float64) for name, values in metrics.items()}
            arrays |= {f"{place}/{i}": as_stored(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        about = {"fingerprint": self.fingerprint, "members": json.dumps(members)}
        files.write_whole(self._path(name), packed(arrays, about))

    def load(self, name: str, numbers: Sequence[int], like: PyTree) -> tuple[list[MemberHistory], list[PyTree]] | None:
        """Reads a batch that ``save`` wrote; None if the file is missing or damaged, or belongs to another sweep.

        Args:
            name: the name of the batch.
            numbers: the numbers of its members.
            like: a pytree with the structure, shapes and types of each member's pytree.
        """
        try:
            batch = read_batch(self._path(name), self.fingerprint)
        except DAMAGED:
            return None
        if batch is None or [history.number for history in batch.histories] != list(numbers):
            return None

        # The arrays of each member must have the shapes and types of the given pytree, with random keys as integers.
        leaves, structure = jax.tree.flatten(like)
        expected_forms = [form(jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf) for leaf in leaves]
        kept = []
        for place in range(len(numbers)):
            names = [f"{place}/{i}" for i in range(len(leaves))]
            stored = [batch.arrays[name] for name in names if name in batch.arrays]
            if [form(array) for array in stored] != expected_forms:
                return None
            kept.append(jax.tree.unflatten(structure, map(_as_given, stored, leaves)))
        return batch.histories, kept

    def _path(self, name: str) -> Path:
        return self.folder / BATCHES / f"{name}.safetensors"


def _as_given(stored: np.ndarray, like: Shaped) -> np.ndarray | jax.Array:
    """A leaf from its array in a file: the reverse of ``as_stored``."""
    if not is_key(like):
        return stored
    generator = jax.random.key_impl(jnp.empty((), like.dtype))  # it takes an array, not a shape
    return jax.random.wrap_key_data(jnp.asarray(stored), impl=generator)


def read_batch(path: Path, fingerprint: str) -> Batch | None:
    """A batch from its file; None if it belongs to another sweep.

    Raises:
        DAMAGED: one of these errors, if the file is missing, or no sweep wrote it.
    """
    arrays, about = unpacked(path, most_bytes=total_bytes())
    if about[FINGERPRINT] != fingerprint:
        return None
    members = files.parsed(about["members"].encode())
    if files.misfit(members, MEMBERS_SCHEMA):
        raise ValueError("not the members of a batch")

    def numbers(name: str) -> MutableSequence[float]:
        values = arrays[name]
        if values.ndim != 1 or values.dtype != np.float64 or len(values) > MOST_ROWS:
            raise ValueError(f"no metrics in {name}")
        return array("d", values.tobytes())  # a list of numbers would take four times as much memory

    histories = []
    for place, member in enumerate(members):
        curves = {name: numbers(f"{place}/{CURVE}/{name}") for name in member["metrics"]}
        tested = {name: numbers(f"{place}/{TEST}/{name}") for name in member["test_metrics"]}
        if len(set(map(len, curves.values()))) > 1 or any(len(values) != 1 for values in tested.values()):
            raise ValueError(f"metrics of different lengths for the member {place}")
        test_metrics = {name: value for name, (value,) in tested.items()}
        saved = {name: member[name] for name in SAVED}
        histories.append(MemberHistory(**saved, curves=curves, test_metrics=test_metrics))
    return Batch(histories, arrays, about)


def read_settings(folder: Path) -> files.JsonObject:
    """The verified entries of ``sweep.json``.

    Raises:
        DataError: if it is missing, damaged, of another version, or not that of a sweep.
    """
    path = folder / SWEEP
    remedy = "Use another folder. Or delete this file: only the same sweep can go on then."
    with reading(path, "the settings of a sweep", "Give a folder that sweep wrote.", errors=OSError):
        content = files.read_file(path)
    with reading(path, "a file that a sweep wrote", remedy):
        known = files.read_signed(content)
    if known.get("format") != FORMAT or known.get("version") != VERSION:
        given = f"{shown(known.get('format'))} in version {shown(known.get('version'))}"
        raise DataError(str(path), f"{FORMAT!r} in version {VERSION}", given, "Use another folder.")
    try:
        found = files.misfit(known, SCHEMA)
        if not found:
            check_grid(known["grid"])
            halving_of(known)
    except (InputError, TypeError, RecursionError) as error:
        found = str(error)
    if found:
        raise DataError(str(path), "the settings of a sweep", f"others, with {found}", remedy)
    return known


def halving_of(settings: files.JsonObject) -> Halving | None:
    """The rule of successive halving, if the sweep has one."""
    given = settings.get("halving")
    return None if given is None else Halving(*given).checked(LARGEST)
