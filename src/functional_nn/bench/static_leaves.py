"""Arguments with leaves that are no arrays, such as the functions in an Equinox module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import jax
import numpy as np


@jax.tree_util.register_static
@dataclass(frozen=True)
class StaticLeaf:
    """A leaf that ``jax.jit`` takes as part of a pytree's structure, and not as an array."""

    value: Hashable


def is_static(leaf: object) -> bool:
    """Whether a leaf of a pytree is a constant: a function, a type or a text."""
    is_constant = callable(leaf) or isinstance(leaf, str | bytes | np.dtype)
    return is_constant and isinstance(leaf, Hashable)


def hide_static_leaves(tree: object) -> object:
    """The same pytree, with every constant leaf as a part of its structure."""
    return jax.tree.map(lambda leaf: StaticLeaf(leaf) if is_static(leaf) else leaf, tree)


def show_static_leaves(tree: object) -> object:
    """Undoes ``hide_static_leaves``."""

    def shown(leaf: object) -> object:
        return leaf.value if isinstance(leaf, StaticLeaf) else leaf

    return jax.tree.map(shown, tree, is_leaf=lambda node: isinstance(node, StaticLeaf))


def has_static_leaves(tree: object) -> bool:
    """Whether a pytree has leaves that are constants."""
    return any(is_static(leaf) for leaf in jax.tree.leaves(tree))


def taking_hidden(function: Callable[..., object]) -> Callable[..., object]:
    """The function of pytrees whose constant leaves are hidden. Those of its result are hidden, too.

    >>> tree = {"f": jax.numpy.cos, "x": 0.0}
    >>> float(jax.jit(taking_hidden(lambda tree: tree["f"](tree["x"])))(hide_static_leaves(tree)))
    1.0
    """

    @functools.wraps(function, updated=())
    def with_constants(*hidden: object) -> object:
        return hide_static_leaves(function(*(show_static_leaves(argument) for argument in hidden)))

    return with_constants
