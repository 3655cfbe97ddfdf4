"""The names of a function's arguments, and the paths of the arrays in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import jax

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree, path_of


def argument_names(function: Callable[..., PyTree], count: int) -> list[str]:
    """The names of a function's first arguments. If their names are not known, their numbers are used."""
    names = list(_positional(function))
    return names[:count] if len(names) >= count else [f"argument {number}" for number in range(count)]


def check_takes(argument: str, function: Callable[..., PyTree], names: Sequence[str]) -> None:
    """Requires a function that can be called with so many arguments, which the message names."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C have no signature
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise InputError(argument, f"a function of ({', '.join(names)})", f"one of {signature}") from None


def _positional(function: Callable[..., PyTree]) -> Iterator[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # functions written in C have no signature
        return
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            yield parameter.name


def path_name(path: jax.tree_util.KeyPath, names: Sequence[str] = ()) -> str:
    """Formats the path of an array in a tuple of arguments, such as ``params/dense_0/weight``.

    Args:
        path: the path.
        names: the names of the arguments, which are used on the first level.
    """
    if not path or not names:
        return path_of(path)
    place: int = path[0].idx
    first, rest = names[place], path_of(path[1:])
    return f"{first}/{rest}" if rest else first
