"""The programs that compute what the parties say of a problem, and the unit that errors are measured in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.compare.error_scale import absolute_terms
from functional_nn.gradients.compare.problem import Leaves, Problem
from functional_nn.gradients.compare.rounding_noise import rounding

MOST_ELEMENTS = 4_000_000
"""Elements of all Jacobians above which the outputs are compared in a few random sums of them."""
SUMS = 8


class Parties(NamedTuple):
    """What two parties say of the derivative by each leaf, and the sums of absolute terms, as lists of arrays."""

    hand: Any
    automatic: Any
    terms: Any


def condensed(problem: Problem) -> Problem:
    """The problem itself, or with a few random sums of the outputs, where all Jacobians would be too large."""
    shapes = jax.eval_shape(problem.function, problem.leaves)
    outputs = sum(shape.size for shape in shapes)
    if outputs * sum(np.size(leaf) for leaf in problem.leaves) <= MOST_ELEMENTS:
        return problem
    random = np.random.default_rng(0)
    weights = [random.normal(size=(SUMS, shape.size)) for shape in shapes]

    def function(leaves: Leaves) -> Leaves:
        y = problem.function(leaves)
        sums = (jnp.asarray(w, leaf.dtype) @ leaf.reshape(-1) for w, leaf in zip(weights, y, strict=True))
        return [sum(sums, jnp.zeros(SUMS, y[0].dtype))]

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        given = zip(weights, shapes, strict=True)
        bars = [(y_bars[0] @ jnp.asarray(w, y_bars[0].dtype)).reshape(shape.shape) for w, shape in given]
        return problem.pullback(leaves, bars)

    return Problem(problem.names, problem.leaves, function, pullback)


def jacobians(problem: Problem, leaves: Leaves) -> Parties:
    """Both Jacobians and their terms."""
    y, automatic = jax.vjp(problem.function, leaves)
    basis = basis_of(y)
    return Parties(
        jax.vmap(partial(problem.pullback, leaves))(basis),
        jax.vmap(lambda y_bars: automatic(y_bars)[0])(basis),
        jax.vmap(partial(terms, problem, leaves))(basis),
    )


def pushed(problem: Problem, leaves: Leaves, directions: Leaves) -> Leaves:
    """For each leaf what ``jax.jvp`` makes of its direction alone."""
    pushed = []
    for number, u in enumerate(directions):
        only = [jnp.asarray(u) if i == number else jnp.zeros_like(leaf) for i, leaf in enumerate(leaves)]
        _, tangents = jax.jvp(problem.function, (leaves,), (only,))
        pushed.append(jnp.concatenate([tangent.reshape(-1) for tangent in tangents]))
    return pushed


def basis_of(y: Leaves) -> Leaves:
    """A cotangent for every element of the outputs, along a leading axis."""
    sizes = [leaf.size for leaf in y]
    parts = jnp.split(jnp.eye(sum(sizes)), np.cumsum(sizes)[:-1].tolist(), axis=1)
    return [part.reshape(sum(sizes), *leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, y, strict=True)]


def pulled(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Parties:
    """What both parties pull one cotangent back to, and the sums of its absolute terms."""
    pull = partial(automatic_pullback, problem, leaves)
    y_bars = list(map(jnp.asarray, y_bars))
    return Parties(problem.pullback(leaves, y_bars), pull(y_bars), terms(problem, leaves, y_bars))


def automatic_pullback(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """What ``jax.vjp`` makes of a cotangent."""
    return jax.vjp(problem.function, leaves)[1](y_bars)[0]


def terms(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """The sum of absolute terms, and what rounding makes of them."""
    own = absolute_terms(lambda bars: jax.vjp(problem.function, leaves)[1](bars)[0], y_bars)
    return [a + b for a, b in zip(own, rounding(partial(automatic_pullback, problem), leaves, y_bars), strict=True)]


def in_ways(
    problem: Problem, transforms: Sequence[str], leaves: Leaves, y_bars: Leaves
) -> tuple[dict[str, Leaves], Leaves]:
    """The formula alone, as a member of a vmapped population, and in a loop; and automatic differentiation."""
    y_bars = list(map(jnp.asarray, y_bars))
    twice = [jnp.stack([jnp.asarray(leaf), jnp.asarray(leaf) / 2]) for leaf in leaves]
    pulled = lambda leaves: problem.pullback(leaves, y_bars)  # noqa: E731
    first = lambda bars: [bar[0] for bar in bars]  # noqa: E731
    ways = {
        "jit": lambda: pulled(leaves),
        "vmap": lambda: first(jax.vmap(pulled)(twice)),
        "scan": lambda: first(jax.lax.scan(lambda carry, leaves: (carry, pulled(leaves)), 0, twice)[1]),
    }
    _, automatic = jax.vjp(problem.function, leaves)
    return {transform: ways[transform]() for transform in transforms}, automatic(y_bars)[0]


def along(pullback: Callable[[Leaves, Leaves], Leaves], leaves: Leaves, y_bars: Leaves, u: Leaves, t: Leaves):
    """The pulled-back cotangent as a function of t, at leaves + t u."""
    return pullback([leaf + t[0] * step for leaf, step in zip(leaves, u, strict=True)], list(map(jnp.asarray, y_bars)))


def second_order(problem: Problem, leaves: Leaves, y_bars: Leaves, directions: Leaves) -> Parties:
    """The derivative of the pulled-back cotangent along a direction, of both formulas, and the terms."""

    automatic = partial(automatic_pullback, problem)

    def derivative(pullback: Callable[[Leaves, Leaves], Leaves], t_dot: jax.Array) -> Leaves:
        function = partial(along, pullback, leaves, y_bars, directions)
        return jax.jvp(function, ([jnp.zeros(())],), ([t_dot],))[1]

    one = jnp.ones(())
    own = absolute_terms(partial(derivative, automatic), one)
    terms = [a + b for a, b in zip(own, rounding(partial(derivative, automatic), one), strict=True)]
    return Parties(derivative(problem.pullback, one), derivative(automatic, one), terms)
