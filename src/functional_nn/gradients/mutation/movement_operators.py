"""Mutation operators for equations that move numbers, and for loops and branches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from functional_nn.gradients.mutation.alternatives import (
    Alternative,
    Arrays,
    change_operand,
    change_results,
    exchange_operands,
    exchange_results,
    replace_result,
    replaced,
    shift_along,
)
from functional_nn.gradients.mutation.sites import bodies, is_floating, literal, reach, shape_of
from functional_nn.jaxprs.walk import scan_parts


def transpositions(equation: JaxprEqn) -> Iterator[Alternative]:
    if shape_of(equation.invars[0]) == shape_of(equation.outvars[0]):
        yield replace_result("dropped", lambda array: array)


def slices(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``slice``, ``dynamic_slice`` and ``gather``: the neighbor of each element is read instead."""
    taken = equation.params.get("slice_sizes") or shape_of(equation.outvars[0])
    for axis, (size, part) in enumerate(zip(shape_of(equation.invars[0]), taken, strict=True)):
        if part < size:
            yield change_operand(0, f"off by one along axis {axis}", shift_along(axis))


def paddings(equation: JaxprEqn) -> Iterator[Alternative]:
    for axis, ((low, high, _), size) in enumerate(
        zip(equation.params["padding_config"], shape_of(equation.outvars[0]), strict=True)
    ):
        if (low or high) and size > 1:
            yield change_results(f"off by one along axis {axis}", shift_along(axis))


def joined(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``concatenate`` and ``stack``: two neighboring parts of the same shape are swapped."""
    for number, (one, other) in enumerate(pairwise(equation.invars)):
        if shape_of(one) == shape_of(other) and one is not other:
            yield exchange_operands(f"parts {number + 1} and {number + 2} exchanged", number, number + 1)


def parted(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``split`` and ``unstack``: two neighboring parts of the same shape are swapped."""
    for number, (one, other) in enumerate(pairwise(equation.outvars)):
        if shape_of(one) == shape_of(other):
            yield exchange_results(f"parts {number + 1} and {number + 2} exchanged", number, number + 1)


def additions_at(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``scatter-add``: a repeated index counts only once, or the updates are shifted by one."""
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    number_of_indices = prod(shape_of(equation.invars[1])[:-1])

    def overwriting(array: jax.Array, indices: jax.Array, updates: jax.Array) -> jax.Array:
        return lax.scatter(array, indices, updates, numbers, mode=mode)

    if number_of_indices > 1:  # a single index cannot be repeated
        yield replace_result("repeated indices overwrite each other", overwriting)
    shape = shape_of(equation.invars[2])
    for axis in range(len(shape)):
        if axis not in numbers.update_window_dims and shape[axis] > 1:
            yield change_operand(2, f"updates off by one along axis {axis}", shift_along(axis))


def scans(equation: JaxprEqn) -> Iterator[Alternative]:
    """Yields errors in ``scan``: time reversed, an input or output one step off, or a carry that starts from 0."""
    scan = scan_parts(equation)
    if scan.length < 2:
        return
    first_input = scan.constants + scan.carried

    def reversed_from(start: int, values: Arrays) -> Arrays:
        return [*values[:start], *(jnp.flip(value, 0) for value in values[start:])]

    def shifted_output(number: int, results: Arrays) -> Arrays:
        return replaced(results, number, jnp.roll(results[number], 1, 0))

    yield Alternative(
        "direction reversed",
        before=lambda operands: reversed_from(first_input, operands),
        after=lambda _, results: reversed_from(scan.carried, results),
    )
    # An error in an input that the results do not depend on would change nothing.
    (body,) = bodies(equation)
    read = reach(body, [True] * len(equation.outvars))
    for number in range(first_input, len(equation.invars)):
        if is_floating(equation.invars[number]) and scan.body.jaxpr.invars[number] in read:
            yield change_operand(number, f"input {number - first_input + 1} one time step off", shift_along(0))
    for number in range(scan.carried, len(equation.outvars)):
        if is_floating(equation.outvars[number]):
            text = f"output {number - scan.carried + 1} one time step off"
            yield Alternative(text, after=lambda _, results, number=number: shifted_output(number, results))
    for number in range(scan.carried):
        start = equation.invars[scan.constants + number]
        if is_floating(start) and literal(start) != 0:
            yield change_operand(scan.constants + number, f"carry {number + 1} starts from 0", jnp.zeros_like)


def branches(equation: JaxprEqn) -> Iterator[Alternative]:
    if len(equation.params["branches"]) == 2:
        yield change_operand(0, "branches exchanged", lambda index: 1 - index)
