"""Mutation operators for the cotangents that a formula returns: signs, factors, axes, order, single components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import prod
from typing import TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.gradients.mutation.alternatives import Alternative, Arrays, exchange_results, replaced, shift_along

Change: TypeAlias = Callable[[jax.Array], jax.Array]

PARTS = {2: ("halves", 1), 3: ("thirds", 2), 4: ("quarters", 3)}
"""For each number of parts: the name of the parts, and the number of neighboring pairs."""


def cotangent_alternatives(
    bars: Sequence[jax.ShapeDtypeStruct], batch: int | None
) -> Iterator[tuple[int, Alternative]]:
    """Yields the errors to plant in the formula's cotangents (bars), each with the index of its bar.

    Args:
        bars: the shapes and types of the cotangents that the formula returns. Only floating-point ones are changed.
        batch: the batch size, by which a mean would divide; None if there is no batch.
    """
    numbers = [number for number, bar in enumerate(bars) if jnp.issubdtype(bar.dtype, jnp.floating) and bar.size]
    for number in numbers:
        for text, change in changes(bars[number].shape, batch):
            yield number, change_bar(number, text, change)
        same = [other for other in numbers if other > number and bars[other].shape == bars[number].shape]
        if same and bars[same[0]].dtype == bars[number].dtype:
            yield number, exchange_results(f"exchanged with the bar number {same[0] + 1}", number, same[0])


def change_bar(number: int, text: str, change: Change) -> Alternative:
    def after(operands: Arrays, bars: Arrays) -> Arrays:
        return replaced(bars, number, change(bars[number]))

    return Alternative(text, after=after)


def changes(shape: tuple[int, ...], batch: int | None) -> Iterator[tuple[str, Change]]:
    """Yields the errors for a bar of this shape: the error in words, and the function that makes it."""
    yield "sign flipped", jnp.negative
    yield "factor 2", lambda bar: 2 * bar
    yield "left out", jnp.zeros_like
    yield "largest component × (1 + 1e-6)", off_by_a_millionth
    if prod(shape) > 1:
        yield "middle component × (1 + 1e-6)", lambda bar: off_by_a_millionth(bar, middle=True)
    if batch is not None:
        yield f"divided by the batch size {batch}", lambda bar: bar / batch
        yield f"multiplied by the batch size {batch}", lambda bar: bar * batch
    for axis, size in enumerate(shape):
        if size > 1:
            yield f"off by one along axis {axis}", shift_along(axis)
    for one, other in combinations(range(len(shape)), 2):
        if shape[one] == shape[other] > 1:
            yield f"axes {one} and {other} exchanged", lambda bar, one=one, other=other: jnp.swapaxes(bar, one, other)
    yield from gate_exchanges(shape)


def gate_exchanges(shape: tuple[int, ...]) -> Iterator[tuple[str, Change]]:
    """Yields errors that swap neighboring halves, thirds or quarters of the last axis, as if gates were swapped."""
    for parts, (word, pairs) in PARTS.items():
        if shape and shape[-1] % parts == 0 and shape[-1] > 2:
            for first in range(pairs):
                order = list(range(parts))
                order[first], order[first + 1] = order[first + 1], order[first]
                yield f"{word} {first + 1} and {first + 2} exchanged", reordered(parts, order)


def reordered(parts: int, order: list[int]) -> Change:
    def change(bar: jax.Array) -> jax.Array:
        pieces = jnp.split(bar, parts, axis=-1)
        return jnp.concatenate([pieces[number] for number in order], axis=-1)

    return change


def off_by_a_millionth(bar: jax.Array, *, middle: bool = False) -> jax.Array:
    """Makes one component wrong: the largest one, or the median by size of the components that are not 0."""
    flat = bar.reshape(-1)
    place = jnp.count_nonzero(flat) // 2 if middle else 0
    index = jnp.argsort(-jnp.abs(flat))[place]
    return flat.at[index].multiply(jnp.asarray(1 + 1e-6, bar.dtype)).reshape(bar.shape)
