"""Derivatives by hand and by automatic differentiation, computed in one program, with the scale of their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.error_scale import Noise, drawn_errors, largest_change, with_rounding
from functional_nn.gradients.compare.problem import Array, Leaves, Problem, Pullback, inner_product
from functional_nn.jaxprs.evaluate import evaluate
from functional_nn.jaxprs.xla_options import quick_jit

MOST_ELEMENTS = 4_000_000
"""The largest number of elements of all Jacobians. Above it, a few random sums of the outputs are compared."""
SUMS = 8
"""The number of these sums."""


class Derivatives(NamedTuple):
    """Derivatives by one leaf.

    Args:
        hand: the derivatives by the hand-derived formula.
        automatic: the derivatives by automatic differentiation.
        scale: the size by which errors are divided: the absolute values of the automatic derivatives, plus the effect
            of rounding on them.
        narrow: how far the derivatives may be off because the function rounds to types narrower than float64.
    """

    hand: Array
    automatic: Array
    scale: Array
    narrow: Array


def condensed(problem: Problem) -> Problem:
    """Returns the problem. If its Jacobians are too large, its outputs become a few random sums of the outputs."""
    shapes = jax.eval_shape(problem.function, problem.leaves)
    if not shapes:
        remedy = "Only outputs of floating-point or complex numbers have a derivative."
        raise InputError("function", "a function with at least one such output", "none", remedy)
    outputs = sum(shape.size for shape in shapes)
    if not outputs:
        raise InputError("function", "at least one output: without any, every formula is right", "no elements")
    if outputs * sum(np.size(leaf) for leaf in problem.leaves) <= MOST_ELEMENTS:
        return problem
    # An error in one output changes every random sum, unless its weight happens to be nearly 0.
    random = np.random.default_rng(0)
    weights = [random.normal(size=(SUMS, *shape.shape)) for shape in shapes]

    def sums(y: Leaves) -> Leaves:
        pairs = zip(weights, y, strict=True)
        return [reduce(jnp.add, (jnp.tensordot(jnp.asarray(w, part.dtype), part, part.ndim) for w, part in pairs))]

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        return problem.pullback(leaves, *jax.linear_transpose(sums, shapes)(y_bars))

    return Problem(
        problem.names, problem.leaves, lambda leaves: sums(problem.function(leaves)), pullback, domain=problem.domain
    )


ROWS = 8
"""The number of cotangents that are pulled back at the same time."""


class Pullbacks:
    """Pulls cotangents back by the formula and by automatic differentiation, in one program that is compiled once."""

    def __init__(self, problem: Problem):
        types = [y.dtype for y in jax.eval_shape(problem.function, problem.leaves)]

        def pulled_back(leaves: Leaves, y_bars: Leaves) -> list[Derivatives]:
            y_bars = [bar.astype(dtype) for bar, dtype in zip(y_bars, types, strict=True)]
            return _with_scale(problem.pullback(leaves, y_bars), partial(automatic_pullback, problem), leaves, y_bars)

        self._program = quick_jit(jax.vmap(pulled_back, (None, 0)))

    def __call__(self, leaves: Leaves, *cotangents: Leaves) -> list[Derivatives]:
        """The derivatives by each leaf as matrices, (cotangents, elements of the leaf)."""
        return self._rows(leaves, [np.stack(bars) for bars in zip(*cotangents, strict=True)])

    def jacobian(self, leaves: Leaves, y: Leaves) -> list[Derivatives]:
        """Full Jacobians: every cotangent of the basis is pulled back. Each is 1 at one element of the outputs y."""
        sizes = [leaf.size for leaf in y]
        parts = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        return self._rows(leaves, [part.reshape(len(part), *leaf.shape) for part, leaf in zip(parts, y, strict=True)])

    def _rows(self, leaves: Leaves, y_bars: list[np.ndarray]) -> list[Derivatives]:
        parts = []
        for start in range(0, len(y_bars[0]), ROWS):
            some = (bar[start : start + ROWS] for bar in y_bars)
            filled = [np.resize(bar, (ROWS, *bar.shape[1:])) for bar in some]  # the last rows are repeated
            parts.append(as_rows(self._program(leaves, filled), ROWS))
        return jax.tree.map(lambda matrix: matrix[: len(y_bars[0])], joined(parts))


def _with_scale(hand: Leaves, automatic: Callable[..., Leaves], *arguments: PyTree) -> list[Derivatives]:
    """Computes the derivatives by automatic differentiation, and the scale of their errors."""
    found = with_rounding(automatic, *arguments)
    scale = [jnp.abs(bar) + size for bar, size in zip(found.value, found.size, strict=True)]
    return list(map(Derivatives, hand, found.value, scale, found.narrow))


def unavoidable_rounding(problem: Problem, size: float, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """How far the pulled-back cotangent moves if every operation of the function, and its inputs, are a little wrong.

    The errors are in the function, and the derivative of each operation is exact. So this is what no formula can avoid:
    the derivative of tanh moves by a few units in the last place, even where 1 - tanh² loses all digits. A sum of terms
    that cancel moves by more, since the terms come from rounded values.

    Args:
        problem: the function.
        size: the relative error of each operation.
        leaves: the point.
        y_bars: the cotangent.
    """
    program = jax.make_jaxpr(lambda leaves, _: list(problem.function(leaves)))(leaves, y_bars)

    def pulled_back(errors: jax.Array) -> Leaves:
        noise = Noise(errors)

        def rounded(arrays: Leaves) -> Leaves:
            return [noise.with_relative_error(jnp.asarray(array), 1.0) for array in arrays]

        noisy = problem._replace(function=lambda leaves: evaluate(program, [*rounded(leaves), *y_bars], noise))
        return automatic_pullback(noisy, leaves, rounded(y_bars))

    original = automatic_pullback(problem, leaves, y_bars)
    return list(map(largest_change, jax.vmap(pulled_back)(size * drawn_errors(program)), original))


def automatic_pullback(problem: Problem, leaves: Leaves, y_bars: Leaves) -> Leaves:
    """Pulls back a cotangent by automatic differentiation.

    It is ``jax.vjp``. If JAX has only a forward derivative, as for a ``while_loop``, it is ``jax.jacfwd`` of ⟨ȳ, f(x)⟩.
    """
    return values_and_pullback(problem, leaves, y_bars)[1]


def values_and_pullback(problem: Problem, leaves: Leaves, y_bars: Leaves) -> tuple[Leaves, Leaves]:
    """The outputs, and what ``automatic_pullback`` gives."""
    try:
        y, pullback = jax.vjp(problem.function, leaves)
        return y, pullback([bar.astype(output.dtype) for bar, output in zip(y_bars, y, strict=True)])[0]
    except ValueError as error:
        if "Reverse-mode" not in str(error):
            raise
    except NotImplementedError as error:  # such as for the multiplication of elements with repeated indices
        remedy = "Write it with other operations, or call check_implementation, which differentiates nothing."
        raise InputError("function", "operations that JAX can differentiate", str(error), remedy) from error
    bars = jax.jacfwd(lambda leaves: inner_product(y_bars, problem.function(leaves))[0])(leaves)
    return problem.function(leaves), bars


def under_transforms(
    problem: Problem, transforms: Sequence[str], points: Leaves, y_bars: Leaves
) -> tuple[dict[str, Leaves], Leaves]:
    """Pulls back cotangents by the formula under each JAX transform, and by automatic differentiation.

    Args:
        problem: the formula and the function.
        transforms: names of transforms: ``"jit"``, ``"vmap"``, ``"scan"``.
        points: the points, stacked along a leading axis of each leaf.
        y_bars: a cotangent for each point, stacked likewise.

    Returns:
        The bars by transform, and those of automatic differentiation. Their leading axis is the point; under ``jit``,
        only the first point is computed.
    """

    def pulled_back(point: tuple[Leaves, Leaves]) -> Leaves:
        return problem.pullback(*point)

    def of_first(both: tuple[Leaves, Leaves]) -> Leaves:
        return [bar[None] for bar in pulled_back(jax.tree.map(lambda array: array[0], both))]

    under = {"jit": of_first, "vmap": jax.vmap(pulled_back), "scan": partial(jax.lax.map, pulled_back)}
    bars = {transform: under[transform]((points, y_bars)) for transform in transforms}
    return bars, jax.lax.map(lambda point: automatic_pullback(problem, *point), (points, y_bars))


Derivative: TypeAlias = Callable[[Callable[[Array], Leaves], Array, Array], Leaves]
"""``derivative(function, t, t_dot)``, the derivative of a function of a number along a direction."""


def second_order(
    problem: Problem, derivative: Derivative, leaves: Leaves, y_bars: Leaves, directions: Leaves, y_directions: Leaves
) -> tuple[list[Derivatives], Leaves]:
    """Differentiates the pulled-back cotangent along a direction of the leaves, and along one of the cotangent.

    Returns:
        The derivatives of the formula and of ``jax.vjp`` by t, at t = 0 of leaves + t · directions. And that of the
        formula by s, at s = 0 of y_bars + s · y_directions.
    """
    zero, one = jnp.zeros(()), jnp.ones(())
    by_s = derivative(lambda s: problem.pullback(leaves, moved(y_bars, s, y_directions)), zero, one)
    by_t = along_leaves(problem.pullback, derivative, leaves, y_bars, directions, one)
    automatic = partial(along_leaves, partial(automatic_pullback, problem), derivative, leaves, y_bars, directions)
    return _with_scale(by_t, automatic, one), by_s


def along_leaves(
    pullback: Pullback, derivative: Derivative, leaves: Leaves, y_bars: Leaves, directions: Leaves, size: Array
) -> Leaves:
    """The derivative of a pulled-back cotangent along a direction of the leaves, times a number."""
    y_bars = list(map(jnp.asarray, y_bars))
    return derivative(lambda t: pullback(moved(leaves, t, directions), y_bars), jnp.zeros(()), size)


def moved(arrays: Leaves, t: Array, along: Leaves) -> Leaves:
    """The arrays plus t times a direction."""
    return [array + t.astype(array.dtype) * direction for array, direction in zip(arrays, along, strict=True)]


def forward_derivative(function: Callable[[Array], Leaves], t: Array, t_dot: Array) -> Leaves:
    """The derivative of a function along a direction by ``jax.jvp``. JAX refuses it for a ``custom_vjp``."""
    return jax.jvp(function, (t,), (t_dot,))[1]


def reverse_derivative(function: Callable[[Array], Leaves], t: Array, t_dot: Array) -> Leaves:
    """The same by ``jax.vjp``: the pullback of the pullback, which is linear. JAX refuses it for a ``while_loop``."""
    results, pullback = jax.vjp(function, t)
    return jax.vjp(lambda bars: pullback(bars)[0], results)[1](t_dot)[0]


def joined(parts: Sequence[list[Derivatives]]) -> list[Derivatives]:
    """Joins the rows of several matrices of each leaf."""
    return jax.tree.map(lambda *matrices: np.concatenate(matrices), *parts)


def as_rows(derivatives: list[Derivatives], rows: int) -> list[Derivatives]:
    """Reshapes the derivatives to float64 matrices, (rows, elements of the leaf)."""
    return jax.tree.map(lambda array: np.asarray(array, np.float64).reshape(rows, -1), derivatives)
