"""Parameters by path: nested dicts of arrays as ``{"dense_0/weight": array}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import jax

from functional_nn.core.errors import InputError, check
from functional_nn.core.validation import check_choice, is_function

PyTree: TypeAlias = Any
"""Arrays in nested dicts, lists, tuples or named tuples, or one array. Python has no type for this."""

Paths: TypeAlias = str | Sequence[str] | Callable[[str], bool]


def flatten(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, PyTree]:
    """The leaves of a nested dict by path, in the order of the tree. Nodes for which ``is_leaf`` is true are leaves.

    >>> flatten({"dense_0": {"weight": 1, "bias": 2}})
    {'dense_0/bias': 2, 'dense_0/weight': 1}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return {path_of(path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The nested dict with leaves at the given paths: the inverse of ``flatten``, except for empty dicts.

    >>> unflatten({"dense_0/weight": 1})
    {'dense_0': {'weight': 1}}
    """
    tree: dict[str, PyTree] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable[[str, PyTree], PyTree], tree: PyTree) -> PyTree:
    """The tree with ``function(path, leaf)`` in place of every leaf.

    >>> map_with_path(lambda path, leaf: f"{path}={leaf}", {"dense_0": {"bias": 2}})
    {'dense_0': {'bias': 'dense_0/bias=2'}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_of(path), leaf), tree)


def path_of(path: jax.tree_util.KeyPath) -> str:
    """The path of a leaf as text, such as ``dense_0/weight``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_paths(paths: Paths) -> Paths:
    """Requires a pattern, a sequence of patterns or a function of a path; gives it back."""
    several = isinstance(paths, Sequence) and not isinstance(paths, bytes) and all(isinstance(p, str) for p in paths)
    expected = "a pattern such as '*weight', several of them, or a function of a path"
    check("paths", paths, expected, several or is_function(paths))
    return paths


def select(tree: Mapping[str, PyTree], paths: Paths) -> list[str]:
    """The paths in ``tree`` that match a pattern (``"*weight"``), one of several patterns, or a function of the path.

    Raises:
        InputError: where nothing matches.
    """
    known, matches = flatten(tree), matcher(paths)
    chosen = [path for path in known if matches(path)]
    check("paths", paths, "a pattern that matches a parameter", chosen, f"There are: {', '.join(known)}.")
    return chosen


def matcher(paths: Paths) -> Callable[[str], bool]:
    """A function that says whether a path is among those that ``select`` chooses."""
    paths = check_paths(paths)
    patterns = (paths,) if isinstance(paths, str) else paths
    return patterns if callable(patterns) else lambda path: any(fnmatchcase(path, p) for p in patterns)


def is_under(path: str, root: str) -> bool:
    """Whether a path is ``root`` or lies below it."""
    return path == root or path.startswith(f"{root}/")


def replace(tree: Mapping[str, PyTree], leaves: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """A copy of the tree with other leaves at the given paths.

    Raises:
        InputError: where a path does not exist, since no layer would use a new parameter.

    >>> replace({"dense_0": {"weight": 1, "bias": 2}}, {"dense_0/bias": 0})
    {'dense_0': {'bias': 0, 'weight': 1}}
    """
    known = flatten(tree)
    for path in leaves:
        check_choice("leaves", path, known)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), tree)


def partition(tree: Mapping[str, PyTree], paths: Paths) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Two trees: the leaves that ``select`` chooses, and the others. ``merge`` is the inverse.

    >>> partition({"dense_0": {"weight": 1, "bias": 2}}, "*bias")
    ({'dense_0': {'bias': 2}}, {'dense_0': {'weight': 1}})
    """
    chosen = set(select(tree, paths))
    leaves = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in leaves.items() if path in chosen}),
        unflatten({path: leaf for path, leaf in leaves.items() if path not in chosen}),
    )


def merge(*trees: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """One tree with the leaves of several.

    Raises:
        InputError: where two of them have a leaf at the same path.

    >>> merge({"dense_0": {"weight": 1}}, {"dense_0": {"bias": 2}})
    {'dense_0': {'bias': 2, 'weight': 1}}
    """
    leaves: dict[str, PyTree] = {}
    for tree in trees:
        added = flatten(tree)
        if twice := leaves.keys() & added.keys():
            raise InputError("trees", "trees without a path in common", f"{', '.join(sorted(twice))} twice")
        leaves.update(added)
    return unflatten(dict(sorted(leaves.items())))


def size(tree: PyTree) -> int:
    """The number of elements in all leaves together."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
