"""What a module of another library gives to a layer, and what the adapters of several libraries share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.core.errors import FormulaMissing, InputError
from functional_nn.core.layer import Params, State
from functional_nn.core.layer_checks import check_entries
from functional_nn.core.shapes import Shapes, traced
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown

TRAIN_ARGUMENTS = ("train", "training", "is_training", "deterministic", "use_running_average")
"""The arguments that are known to say whether a call is in training."""

EVALUATION_ARGUMENTS = ("deterministic", "use_running_average")
"""Those of them that are true in evaluation."""

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


def train_argument_of(parameters: Iterable[inspect.Parameter], given: str | None) -> str | None:
    """The argument of a call that says whether it is training; None if calls are the same in both.

    Args:
        parameters: the parameters of the call after x.
        given: the argument that the user chose, or None.

    Raises:
        InputError: if the call does not have the argument that was given. If none was given and no name is known, and
            the call has another argument that is true, false or required: it may be the one.
    """
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    names = [one.name for one in named]
    if given is not None:
        if not isinstance(given, str) or given not in names:
            raise InputError("train_argument", f"an argument of the call: {', '.join(names) or 'none'}", shown(given))
        return given
    for name in TRAIN_ARGUMENTS:
        if name in names:
            return name
    flags = [one.name for one in named if isinstance(one.default, bool) or one.default is one.empty]
    if flags:
        expected = f"a call with one of the arguments {', '.join(TRAIN_ARGUMENTS)}"
        remedy = f"Name the one that is true in training: train_argument={flags[0]!r}."
        raise InputError("module", expected, f"one with {', '.join(flags)}", remedy)
    return None


def train_option(argument: str | None, train: bool) -> dict[str, bool]:
    """The argument with its value, for the call."""
    if argument is None:
        return {}
    return {argument: not train if argument in EVALUATION_ARGUMENTS else train}


def first_input(initialize: Callable[[PyTree], PyTree], in_shape: Shapes) -> PyTree:
    """A batch of one example of zeros, of floating-point numbers, or of integers if ``initialize`` rejects these."""

    def accepted(x: PyTree) -> PyTree:
        with failing_as(f"one that takes examples of shape {in_shape}", "one that raises"):
            jax.eval_shape(initialize, x)
        return x

    return jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), traced(accepted, in_shape))
