"""Pytrees as arrays under their paths, which is what files hold, and back; with checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, shortened

MOST_LISTED = 12
"""So many differences are said."""


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves as NumPy arrays under their paths; a random key as the numbers that make it.

    Raises:
        InputError: for leaves that are no arrays, and for two with the same path.

    >>> named_arrays({"layer": {"bias": np.float32([1, 2])}})
    {'layer/bias': array([1., 2.], dtype=float32)}
    """
    leaves = trees.flatten(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise InputError("tree", "a path of its own for every array", "two with the same", "Use keys without '/'.")
    for path, leaf in leaves.items():
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")) or leaf.dtype == object:
            raise InputError(path, "an array", repr(leaf), "Make one by jax.numpy.asarray.")
    return {path: _native(jax.random.key_data(leaf) if is_key(leaf) else leaf) for path, leaf in leaves.items()}


def _native(array: Any) -> np.ndarray:
    """An array of NumPy in this machine's byte order, with its elements in the order of C."""
    array = np.asarray(array, order="C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_key(leaf: Any) -> bool:
    """Whether an array, or a shape, is one of random keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def form(leaf: Any) -> str:
    """Type and shape in words.

    >>> form(np.zeros((2, 3), np.float32))
    'float32(2, 3)'
    """
    return f"{leaf.dtype if is_key(leaf) else np.dtype(leaf.dtype).name}{tuple(leaf.shape)}"


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """What differs between two trees' forms by path, in words; empty where nothing does.

    >>> differences({"w": "float32(3,)"}, {"w": "float32(4,)", "b": "int32()"})
    'w float32(3,) instead of float32(4,); b nothing instead of int32()'
    """
    # In the order of the tree's parts, so that parameters come before what the optimizer keeps for each of them.
    parts = dict.fromkeys(path.partition("/")[0] for path in (*expected, *found))
    places = {part: place for place, part in enumerate(parts)}
    paths = sorted(found.keys() | expected.keys(), key=lambda path: (places[path.partition("/")[0]], path))
    return listed(
        [
            f"{shortened(path)} {shortened(found.get(path, 'nothing'))} instead of {expected.get(path, 'nothing')}"
            for path in paths
            if found.get(path) != expected.get(path)
        ]
    )


def listed(differences: Sequence[str]) -> str:
    """The first differences in one sentence, and how many more there are."""
    left_out = len(differences) - MOST_LISTED
    return "; ".join(differences[:MOST_LISTED]) + (f"; and {left_out} more" if left_out > 0 else "")


def tree_like(like: Any, found: Mapping[str, np.ndarray], place: str, key_types: Mapping[str, str]) -> Any:
    """The tree whose arrays stand in ``found`` under the paths of ``like``; keys are made anew, of the types given.

    Raises:
        DataError: for 64-bit numbers while JAX has them switched off; it names ``place``.
    """
    paths = list(trees.flatten(like))
    wide = [path for path in paths if jax.dtypes.canonicalize_dtype(found[path].dtype) != found[path].dtype]
    if wide:
        switch = 'Call jax.config.update("jax_enable_x64", True) first, or JAX would quietly narrow them.'
        raise DataError(place, "64-bit numbers switched on", f"64-bit {', '.join(wide)}", switch)
    leaves = [
        jax.random.wrap_key_data(jax.numpy.asarray(found[path]), impl=key_types[path])
        if path in key_types
        else jax.numpy.asarray(found[path])
        for path in paths
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checksum(arrays: Mapping[str, Any], more: str = "") -> str:
    """The SHA-256 of arrays with their names, types and shapes, in the names' order, and of a text before them.

    >>> checksum({"a": np.zeros(2)}) == checksum({"a": np.zeros((2, 1))})
    False
    """
    digest = hashlib.sha256(more.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def packed(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """A safetensors file's content, with texts about the arrays and the checksum of it all in its header."""
    from safetensors.numpy import save

    return save(dict(arrays), {**about, "sha256": checksum(arrays, json.dumps(about, sort_keys=True))})


def unpacked(path: Path, *, own: bool = True) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, and what ``packed`` was told about them.

    Args:
        path: the file.
        own: whether ``packed`` made it, so that it has a checksum.

    Raises:
        FileNotFoundError: where there is none.
        DataError: for one that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # pyright: ignore[reportGeneralTypeIssues]
            about, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(str(path), "a safetensors file", f"a damaged one ({shortened(error)})") from None
    if not own:
        return arrays, about
    expected = about.pop("sha256", None)
    if expected is None:
        raise DataError(str(path), "a file with a checksum", "one without", "Give a file that functional_nn wrote.")
    if expected != checksum(arrays, json.dumps(about, sort_keys=True)):
        raise DataError(str(path), "the arrays that were written", "a damaged file, whose checksum does not match")
    return arrays, about
