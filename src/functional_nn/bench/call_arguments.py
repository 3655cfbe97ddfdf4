"""Checks of the arguments of ``benchmark`` and ``explain``."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import jax
import jax.numpy as jnp

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
        if not _is_traceable(leaf):
            where = f"argument {number.idx}{jax.tree_util.keystr(tuple(rest))}"
            remedy = "Bind other values to the function: functools.partial(function, option=…)."
            raise InputError(where, "an array or a number", shown(leaf), remedy)


def _is_traceable(leaf: object) -> bool:
    if is_array(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or is_numeric(leaf) or leaf.dtype.kind == "c"
    if isinstance(leaf, int):
        return abs(leaf) <= LARGEST
    return isinstance(leaf, float | complex)
