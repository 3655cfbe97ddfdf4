"""Errors that a person could make in one equation, and functions that construct them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Arrays: TypeAlias = list[jax.Array]


class Alternative(NamedTuple):
    """One error that a person could make. It changes the operands or the results of an equation.

    Args:
        text: the error in words.
        before: ``before(operands)`` returns the changed operands.
        after: ``after(operands, results)`` returns the changed results.
    """

    text: str
    before: Callable[[Arrays], Arrays] | None = None
    after: Callable[[Arrays, Arrays], Arrays] | None = None


def change_operand(number: int, text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """Makes an error that changes one operand."""
    return Alternative(text, before=lambda operands: replaced(operands, number, change(operands[number])))


def replace_result(text: str, function: Callable[..., jax.Array]) -> Alternative:
    """Makes an error that replaces the only result by another function of the operands."""

    def after(operands: Arrays, results: Arrays) -> Arrays:
        return [jnp.broadcast_to(function(*operands), results[0].shape)]

    return Alternative(text, after=after)


def change_results(text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """Makes an error that changes every floating-point result."""

    def after(operands: Arrays, results: Arrays) -> Arrays:
        return [change(array) if is_floating_array(array) else array for array in results]

    return Alternative(text, after=after)


def exchange_operands(text: str, one: int, other: int) -> Alternative:
    """Makes an error that swaps two operands."""
    return Alternative(text, before=lambda operands: exchanged(operands, one, other))


def exchange_results(text: str, one: int, other: int) -> Alternative:
    """Makes an error that swaps two results."""
    return Alternative(text, after=lambda _, results: exchanged(results, one, other))


def replaced(values: Sequence[jax.Array], number: int, value: jax.Array) -> Arrays:
    """Copies a list of values and replaces the value at one index."""
    return [*values[:number], value, *values[number + 1 :]]


def exchanged(values: Sequence[jax.Array], one: int, other: int) -> Arrays:
    return replaced(replaced(values, one, values[other]), other, values[one])


def is_floating_array(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def shift_along(axis: int) -> Callable[[jax.Array], jax.Array]:
    """Makes the function that shifts an array by one along an axis. The last element becomes the first."""
    return lambda array: jnp.roll(array, 1, axis)
