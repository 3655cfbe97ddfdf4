"""Parameters by path: nested dicts of arrays seen as ``{"dense_0/weight": array}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import jax

from functional_nn.core.errors import InputError, suggest
from functional_nn.core.validation import is_function

Paths: TypeAlias = str | Sequence[str] | Callable[[str], bool]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested dict under their paths, in the tree's own order.

    >>> flatten({"dense_0": {"weight": 1, "bias": 2}})
    {'dense_0/bias': 2, 'dense_0/weight': 1}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict whose leaves stand under the given paths: the inverse of ``flatten``, but for empty dicts.

    >>> unflatten({"dense_0/weight": 1})
    {'dense_0': {'weight': 1}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Any:
    """``function(path, leaf)`` in the place of every leaf.

    >>> map_with_path(lambda path, leaf: f"{path}={leaf}", {"dense_0": {"bias": 2}})
    {'dense_0': {'bias': 'dense_0/bias=2'}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_paths(paths: Any) -> Any:
    """Refuses what is no pattern, no sequence of patterns and no function of a path."""
    several = isinstance(paths, Sequence) and not isinstance(paths, bytes) and all(isinstance(p, str) for p in paths)
    if not several and not is_function(paths):
        raise InputError("paths", "a pattern such as '*weight', several of them, or a function of a path", repr(paths))
    return paths


def select(tree: Mapping[str, Any], paths: Paths) -> list[str]:
    """The paths in ``tree`` that match a pattern (``"*weight"``), one of several patterns, or a function of the path.

    Raises:
        InputError: where nothing matches, since a choice of nothing is a mistake.
    """
    known = flatten(tree)
    paths = check_paths(paths)
    patterns = (paths,) if isinstance(paths, str) else paths
    matches = patterns if callable(patterns) else lambda path: any(fnmatchcase(path, p) for p in patterns)
    chosen = [path for path in known if matches(path)]
    if not chosen:
        raise InputError("paths", "a pattern that matches a parameter", repr(paths), f"There are: {', '.join(known)}.")
    return chosen


def is_under(path: str, root: str) -> bool:
    """Whether a path is ``root`` or stands below it."""
    return path == root or path.startswith(f"{root}/")


def replace(tree: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with other leaves under the given paths; what was given stays as it is.

    Raises:
        InputError: where a path does not exist, as a new one would be a parameter that nothing uses.

    >>> replace({"dense_0": {"weight": 1, "bias": 2}}, {"dense_0/bias": 0})
    {'dense_0': {'bias': 0, 'weight': 1}}
    """
    known = flatten(tree)
    for path in leaves:
        if path not in known:
            raise InputError("leaves", "paths of the tree", repr(path), suggest(path, known))
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), tree)


def partition(tree: Mapping[str, Any], paths: Paths) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees: the leaves that ``select`` chooses, and the others. ``merge`` puts them together again.

    >>> partition({"dense_0": {"weight": 1, "bias": 2}}, "*bias")
    ({'dense_0': {'bias': 2}}, {'dense_0': {'weight': 1}})
    """
    chosen = set(select(tree, paths))
    leaves = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in leaves.items() if path in chosen}),
        unflatten({path: leaf for path, leaf in leaves.items() if path not in chosen}),
    )


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of the leaves of several.

    Raises:
        InputError: where two of them have a leaf under the same path.

    >>> merge({"dense_0": {"weight": 1}}, {"dense_0": {"bias": 2}})
    {'dense_0': {'bias': 2, 'weight': 1}}
    """
    leaves: dict[str, Any] = {}
    for tree in trees:
        if twice := leaves.keys() & (own := flatten(tree)).keys():
            raise InputError("trees", "trees without a path in common", f"{', '.join(sorted(twice))} twice")
        leaves.update(own)
    return unflatten(dict(sorted(leaves.items())))


def size(tree: Any) -> int:
    """The number of elements in all leaves together."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
