"""What a module of another library gives to a layer, and what the adapters of several libraries share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import jax

from functional_nn.core import trees
from functional_nn.core.errors import FormulaMissing, InputError
from functional_nn.core.layer import Params, State
from functional_nn.core.layer_checks import check_entries
from functional_nn.core.shapes import Shapes
from functional_nn.core.trees import PyTree

MOST_SHOWN_OF_AN_ERROR = 200
"""How many characters of an error of another library a message repeats."""

MakeModule: TypeAlias = Callable[[jax.Array], Any]
"""A function of a key that makes a module with its initial values."""


class ModuleFunctions(NamedTuple):
    """How a module is initialized and run.

    Args:
        init: ``init(key, in_shape) -> (params, state)``.
        run: ``run(params, state, x, train, key) -> (y, state)``.
    """

    init: Callable[[jax.Array, Shapes], tuple[Params, State]]
    run: Callable[[Params, State, PyTree, bool, jax.Array | None], tuple[PyTree, State]]


class NamedLeaves(NamedTuple):
    """The structure of a tree of another library, with a readable path for each leaf."""

    paths: tuple[str, ...]
    structure: Any

    def nested(self, tree: PyTree) -> dict[str, PyTree]:
        """The leaves of a tree of this structure as a nested dict."""
        return trees.unflatten(dict(zip(self.paths, jax.tree.leaves(tree), strict=True)))

    def tree(self, argument: str, nested: Mapping[str, PyTree]) -> PyTree:
        """The inverse of ``nested``.

        Raises:
            InputError: if the nested dict lacks a leaf.
        """
        leaves = trees.flatten(nested)
        check_entries(argument, leaves, self.paths)
        return jax.tree.unflatten(self.structure, [leaves[path] for path in self.paths])


def name_leaves(tree: PyTree) -> NamedLeaves:
    """The structure of a tree, with the paths that JAX gives to its leaves."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return NamedLeaves(tuple(trees.path_of(path) for path, _ in leaves), structure)


@contextmanager
def failing_as(expected: str, given: str, remedy: str = "") -> Iterator[None]:
    """Turns an error inside a module of another library into an ``InputError`` about the module."""
    try:
        yield
    except (InputError, FormulaMissing, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # each library has errors of its own
        first_line = str(error).strip().split("\n")[0][:MOST_SHOWN_OF_AN_ERROR].rstrip(".")
        raise InputError("module", expected, f"{given} {type(error).__name__}: {first_line}", remedy) from error
