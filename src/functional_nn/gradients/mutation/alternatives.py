"""One error that a person could have made at an equation, and the ways to write such errors down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Change = Callable[[list[Any]], list[Any]]


class Alternative(NamedTuple):
    """One error that a person could have made.

    Args:
        text: what is wrong.
        before: ``operands -> operands``, what goes into the equation in place of its operands.
        after: ``operands, results -> results``, what takes the place of its results.
    """

    text: str
    before: Change | None = None
    after: Callable[[list[Any], list[Any]], list[Any]] | None = None


def operand(number: int, text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """Another operand in one's place."""
    return Alternative(text, before=lambda operands: replaced(operands, number, change(operands[number])))


def instead(text: str, function: Callable[..., jax.Array]) -> Alternative:
    """Another function of the operands in place of the one result."""

    def after(operands, results):
        return [jnp.broadcast_to(function(*operands), results[0].shape)]

    return Alternative(text, after=after)


def result(text: str, change: Callable[[jax.Array], jax.Array]) -> Alternative:
    """A change of every floating-point result."""
    return Alternative(text, after=lambda operands, results: [change(r) if is_number(r) else r for r in results])


def replaced(values: list[Any], number: int, value: Any) -> list[Any]:
    return [*values[:number], value, *values[number + 1 :]]


def is_number(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def exchanged(text: str, one: int, other: int, *, results: bool = False) -> Alternative:
    """Two operands or two results in each other's places."""

    def exchange(values):
        return replaced(replaced(values, one, values[other]), other, values[one])

    return Alternative(text, after=lambda _, values: exchange(values)) if results else Alternative(text, exchange)


def rolled(axis: int) -> Callable[[jax.Array], jax.Array]:
    return lambda array: jnp.roll(array, 1, axis)
