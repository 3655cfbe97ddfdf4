"""What ``benchmark`` and ``explain`` refuse before anything is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.validation import LARGEST, check_count, check_function, is_array, is_numeric, shown


def check_call(function: Any, arguments: Any, donate: Any) -> tuple[int, ...]:
    """Refuses what is no function, no pytrees of arrays and numbers, or no argument's number; gives the numbers."""
    check_function("function", function, "a function of arrays")
    check_leaves(arguments)
    numbers = (donate,) if isinstance(donate, Integral) else donate
    if not isinstance(numbers, tuple | list | range):
        raise InputError("donate", "an argument's number, or several", shown(donate))
    return tuple(check_count("donate", number, least=0, most=len(arguments) - 1) for number in numbers)


def check_calls(function: Callable[..., Any], calls: Any) -> Sequence[Sequence[Any]]:
    """Refuses what are no tuples of arguments, as many as the function takes."""
    if not isinstance(calls, tuple | list) or not all(isinstance(call, tuple | list) for call in calls):
        raise InputError("then", "tuples of arguments, one for each later call", shown(calls))
    for call in calls:
        check_leaves(call)
        try:
            inspect.signature(function).bind(*call)
        except TypeError as error:
            raise InputError("then", "tuples of arguments that the function takes", shown(call), f"{error}.") from None
        except ValueError:  # a function without a signature, such as some of C
            continue
    return calls


def check_leaves(arguments: Sequence[Any]) -> None:
    """Refuses arguments that JAX cannot trace, by their number and path."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tuple(arguments))[0]:
        number, *rest = path
        known = isinstance(leaf, bool | float | complex) or (isinstance(leaf, int) and abs(leaf) <= LARGEST)
        if is_array(leaf):
            known = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or is_numeric(leaf) or leaf.dtype.kind == "c"
        if not known:
            where = f"argument {number.idx}{jax.tree_util.keystr(tuple(rest))}"
            remedy = "Bind what is no array to the function: functools.partial(function, option=…)."
            raise InputError(where, "an array or a number", shown(leaf), remedy)
