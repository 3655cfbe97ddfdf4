"""Errors that a person could have made at one equation, and the ways to write them down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Arrays: TypeAlias = list[jax.Array]


class Alternative(NamedTuple):
    """One error that a person could have made.

    Args:
        text: what is wrong.
        before: ``before(operands)`` gives the operands that the equation gets instead.
        after: ``after(operands, results)`` gives the results that the equation has instead.
    """

    text: str
    before: Callable[[Arrays], Arrays] | None = None
    after: Callable[[Arrays, Arrays], Arrays] | None = None


def change_operand(number: int, text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """One operand changed."""
    return Alternative(text, before=lambda operands: replaced(operands, number, change(operands[number])))


def replace_result(text: str, function: Callable[..., jax.Array]) -> Alternative:
    """Another function of the operands in place of the only result."""

    def after(operands: Arrays, results: Arrays) -> Arrays:
        return [jnp.broadcast_to(function(*operands), results[0].shape)]

    return Alternative(text, after=after)


def change_results(text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """Every floating-point result changed."""

    def after(operands: Arrays, results: Arrays) -> Arrays:
        return [change(array) if is_floating_array(array) else array for array in results]

    return Alternative(text, after=after)


def exchange_operands(text: str, one: int, other: int) -> Alternative:
    """Two operands in each other's places."""
    return Alternative(text, before=lambda operands: exchanged(operands, one, other))


def exchange_results(text: str, one: int, other: int) -> Alternative:
    """Two results in each other's places."""
    return Alternative(text, after=lambda _, results: exchanged(results, one, other))


def replaced(values: Sequence[jax.Array], number: int, value: jax.Array) -> Arrays:
    """A copy of the values with the value at this index replaced."""
    return [*values[:number], value, *values[number + 1 :]]


def exchanged(values: Sequence[jax.Array], one: int, other: int) -> Arrays:
    return replaced(replaced(values, one, values[other]), other, values[one])


def is_floating_array(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def shift_along(axis: int) -> Callable[[jax.Array], jax.Array]:
    """The function that moves every element one place further along an axis, and the last one to the first place."""
    return lambda array: jnp.roll(array, 1, axis)
