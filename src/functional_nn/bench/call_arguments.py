"""Arguments of ``benchmark`` and ``explain``: their checks, and leaves that are no arrays, such as functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.validation import LARGEST, check_count, check_function, is_array, is_numeric, shown


def check_call(function: object, arguments: Sequence[object], donate: object) -> tuple[int, ...]:
    """Checks the function, its arguments and the numbers of the donated arguments; returns these numbers."""
    if isinstance(function, Layer):
        remedy = "Write: lambda params, x: net.apply(params, state, x, train=False)[0], and give it params and x."
        raise InputError("function", "a function of arrays", "a network", remedy)
    check_function("function", function, "a function of arrays")
    check_leaves(arguments)
    numbers = (donate,) if isinstance(donate, Integral) else donate
    if not isinstance(numbers, tuple | list | range):
        raise InputError("donate", "an argument's number, or several", shown(donate))
    return tuple(check_count("donate", number, least=0, most=len(arguments) - 1) for number in numbers)


def check_leaves(arguments: Sequence[object]) -> None:
    """Raises an error for arguments that JAX cannot trace. It names the argument's number and the path inside it."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]:
        number, *rest = path
        is_constant = bool(rest) and is_static(leaf)  # in a pytree; as an argument of its own it is refused
        if not is_constant and not _is_traceable(leaf):
            where = f"argument {number.idx}{jax.tree_util.keystr(tuple(rest))}"
            remedy = "Bind other values to the function: functools.partial(function, option=…)."
            raise InputError(where, "an array or a number", shown(leaf), remedy)


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


def _is_traceable(leaf: object) -> bool:
    if is_array(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or is_numeric(leaf) or leaf.dtype.kind == "c"
    if isinstance(leaf, int):
        return abs(leaf) <= LARGEST
    return isinstance(leaf, float | complex)
