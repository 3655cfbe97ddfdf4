"""Jacobians that share no derivative rule with JAX: references for a hand-derived formula and for ``jax.grad``.

Each takes a function in the flat form, ``function(leaves) -> outputs``, both lists of floating-point arrays. For every
leaf, it returns an array (elements of all outputs, elements of the leaf), and an estimate of the error. Call these
functions under ``jax.enable_x64(True)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.compare.problem import Function, Leaves
from functional_nn.gradients.multiprecision.interpreter import Program
from functional_nn.gradients.multiprecision.sources import dependence
from functional_nn.gradients.references.many_digits import derivatives, last_levels

Columns: TypeAlias = Sequence[np.ndarray] | None
"""For each leaf, the flat indices of the elements to differentiate by; None for all."""

EPSILON = float(np.finfo(np.float64).eps)
STEPS = 2.0 ** -np.arange(2, 16)
"""The relative steps of differences in float64."""
SMALL_STEPS = 2.0 ** -np.array([18, 21, 24, 27])
"""Steps of further differences. They are inaccurate, but detect changes that are too narrow for the larger steps."""
FAR = np.array([0.0, -1.0, 2.0, -3.5, 64.0, -1e3, 1e6])
"""Factors of an element. An output that is the same for all of them does not depend on the element."""
REGULAR_STEPS = 7
"""At a kink, this number of halvings of the step have to change the quotients by nearly the same factor."""
ORDERS = 7
"""The number of columns of Richardson's table. In the last column, six even powers of the step are removed."""


class JacobianEstimate(NamedTuple):
    """A Jacobian with an estimate of its error.

    Args:
        values: for each leaf an array (m, size), where m is the number of elements of all outputs.
        error: the estimated absolute error of each value; infinite where the function is not differentiable, or where
            this method cannot say.
        kink: where the function was found to have a kink or a jump, as arrays of booleans of the same shapes. An
            infinite error elsewhere says that nothing is known, for example outside of the function's domain.
    """

    values: list[np.ndarray]
    error: list[np.ndarray]
    kink: list[np.ndarray]


@np.errstate(all="ignore")
def exact_jacobian(
    function: Function, leaves: Leaves, *, digits: int = 50, columns: Columns = None
) -> JacobianEstimate:
    """Computes central differences of the forward pass in many digits, right to the last digit of float64.

    (f(x + h) - f(x - h)) / 2h with h = |x| 10^(-digits/3), or 10^(-digits/3) at 0, is computed in 50 and in 80 digits.
    If the two results agree to 18 digits, their difference, plus half a unit in the last place of float64, is the
    error. Otherwise both may have lost the change of f, so these elements are computed again with 350 digits more. If
    the result is larger than rounding, it is confirmed with 390 digits more. Otherwise its error is the bound of
    rounding, but at least the smallest number of float64. The error is exactly 0 only if no operation makes the output
    depend on the element. The number of repeated elements is bounded. For all further elements, the error is the larger
    bound of rounding in 80 digits.

    There is a kink, and the error is infinite, if (f(x + h) - f(x)) / h and (f(x) - f(x - h)) / h differ by as much at
    the smaller step as at the larger.

    This is the derivative of the exact function: nothing is rounded inside it, even by casts to a lower type.
    ``stop_gradient`` and custom derivatives have no effect.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point. Its binary values are taken as exact; the function is traced for their types.
        digits: the digits of the first evaluation; the second has 30 more.
        columns: for each leaf, the flat indices of the elements to differentiate by; None for all.

    Raises:
        InputError: the function uses an operation without a rule.

    >>> with jax.enable_x64(True):
    ...     found = exact_jacobian(lambda leaves: [jnp.exp(leaves[0])], [np.array([0.5, -1.0])])
    >>> print(found.values[0])
    [[1.64872127 0.        ]
     [0.         0.36787944]]

    References:
        Squire, Trapp 1998, "Using complex variables to estimate derivatives of real functions", on cancellation, which
        digits to spare make harmless.
    """
    program = Program(function, leaves)
    chosen = _chosen(leaves, columns)
    known = dependence(program, leaves, chosen, last_levels(digits)[0].digits)
    found = [derivatives(program, leaves, number, chosen[number], digits, known) for number in range(len(leaves))]
    return JacobianEstimate(*map(list, zip(*found, strict=True)))


def _chosen(leaves: Leaves, columns: Columns) -> list[np.ndarray]:
    if columns is None:
        return [np.arange(np.size(leaf)) for leaf in leaves]
    return [np.asarray(chosen, int) for chosen in columns]


def difference_jacobian(function: Function, leaves: Leaves, *, columns: Columns = None) -> JacobianEstimate:
    """Computes central differences of the float64 function as JAX runs it, extrapolated to a step of 0.

    With D(h) = (f(x + h) - f(x - h)) / 2h for h = 2^-2 … 2^-15 of |x| (of 1 below 1), Richardson's table
    T(k, j) = T(k, j - 1) + (T(k, j - 1) - T(k - 1, j - 1)) / (4^j - 1) removes one even power of h after the other.
    The table's entry with the smallest error is taken. The error has two parts. The first is ten times the entry's
    distance from the entries that it is made of; the factor is ten because the smallest of many errors can be small by
    chance. The second is rounding, at least 4 ε |f| / h. The error is larger if D(h) for two of the steps 2^-18, 2^-21,
    2^-24 and 2^-27 agree on another value: the function then bends too sharply for the larger steps. The error is
    infinite if the last two do not agree at all, or if the differences to the right and to the left still disagree as h
    shrinks. It is 0 if the output stays the same at all these points, and for seven values of the element from -1000 to
    10^6 times its size.

    Args:
        function: ``function(leaves) -> outputs``, anything that JAX can run.
        leaves: the point; it is converted to float64.
        columns: for each leaf, the flat indices of the elements to differentiate by; None for all.

    >>> with jax.enable_x64(True):
    ...     found = difference_jacobian(lambda leaves: [jnp.sin(leaves[0])], [np.array([0.0])])
    >>> print(found.values[0].round(12))
    [[1.]]

    References:
        Ridders 1982, "Accurate computation of F'(x) and F'(x) F''(x)".
    """
    flat = [np.asarray(leaf).astype(np.float64) for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in flat])
    everything = np.concatenate([np.zeros(0), *(leaf.reshape(-1) for leaf in flat)])

    def outputs(numbers: jax.Array) -> jax.Array:
        given = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(numbers, ends[:-1]), flat, strict=True)]
        return jnp.concatenate([jnp.reshape(y, (-1,)) for y in function(given)]).astype(jnp.float64)

    def at_one(place_and_value: tuple[jax.Array, jax.Array]) -> jax.Array:
        place, value = place_and_value
        return outputs(jnp.asarray(everything).at[place].set(value))

    def at(places: np.ndarray, moved: np.ndarray) -> jax.Array:
        """Evaluates the outputs at several points. Each differs from the given point in one element only."""
        points = jnp.asarray(places), jnp.asarray(moved)
        try:
            return jax.jit(lambda points: jax.lax.map(at_one, points, batch_size=64))(points)
        except NotImplementedError:  # some operations, such as a callback, do not work under vmap
            return jax.jit(lambda points: jax.lax.map(at_one, points))(points)

    chosen = [c + end - leaf.size for c, end, leaf in zip(_chosen(leaves, columns), ends, flat, strict=True)]
    places = np.concatenate([np.zeros(0, int), *chosen])
    x = everything[places]
    # A power of two: the steps are exact.
    scale = 2.0 ** np.round(np.log2(np.maximum(np.abs(x), 1.0)))
    h = np.concatenate([STEPS, SMALL_STEPS])[:, None] * scale
    far = FAR[:, None] * np.where(x == 0, 1.0, x)
    moved = np.concatenate([x + h, x - h, x[None], far])
    y = np.asarray(at(np.broadcast_to(places, moved.shape).reshape(-1), moved.reshape(-1)))
    y = np.moveaxis(y.reshape(*moved.shape, -1), -1, 1)  # points, outputs, columns
    up, down, middle = y[: len(h)], y[len(h) : 2 * len(h)], y[2 * len(h)]
    # The actual steps, after x + h and x - h were rounded.
    ahead, back = (moved[: len(h)] - x)[:, None], (x - moved[len(h) : 2 * len(h)])[:, None]
    value, error, kink = _extrapolated(up, middle, down, ahead, back)
    error[np.all(y == middle, 0)] = 0
    splits = np.cumsum([len(c) for c in chosen])[:-1]
    return JacobianEstimate(*(np.split(array, splits, 1) for array in (value, error, kink)))


def _extrapolated(
    up: np.ndarray, middle: np.ndarray, down: np.ndarray, ahead: np.ndarray, back: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The derivative, its error, and where there is a kink.

    Args:
        up: f at x + h, an array (steps, m, columns). The last steps are ``SMALL_STEPS``.
        middle: f at x, (m, columns).
        down: f at x - h, (steps, m, columns).
        ahead: (x + h) - x, (steps, 1, columns).
        back: x - (x - h).
    """
    with np.errstate(all="ignore"):
        right, left = (up - middle) / ahead, (middle - down) / back
        differences = (up - down) / (ahead + back)
        larger, smaller = differences[len(STEPS) : -1], differences[len(STEPS) + 1 :]
        # With the two smallest steps, the differences differ mostly by the rounding errors of f.
        noise = np.abs(larger[-1] - smaller[-1]) * (ahead + back)[-1]
        sizes = np.maximum(np.abs(up), np.abs(down))
        rounding = np.maximum(8 * EPSILON * sizes, 4 * noise) / (ahead + back)
        table = [differences[: len(STEPS)]]
        value, error = table[0][-1], np.full_like(table[0][-1], np.inf)
        for order in range(1, ORDERS):
            before = table[-1]
            # Each step is half of the one before, so the error term in h^(2 order) is 4^order times smaller.
            table.append(before[1:] + (before[1:] - before[:-1]) / (4.0**order - 1))
            distance = np.maximum(np.abs(table[-1] - before[1:]), np.abs(table[-1] - before[:-1]))
            # Row k is made of the steps k to k + order. The last of them is the smallest, where rounding counts most.
            distance = 10 * distance + rounding[order : len(STEPS)]
            distance = np.where(np.isnan(distance), np.inf, distance)
            best = np.argmin(distance, 0)[None]
            found, found_error = (np.take_along_axis(array, best, 0)[0] for array in (table[-1], distance))
            value, error = np.where(found_error < error, found, value), np.minimum(found_error, error)
        # If two small steps agree on a value far from the extrapolated one, the larger steps missed something.
        uncertain = 10 * (np.abs(larger - smaller) + 8 * EPSILON * (sizes / (ahead + back))[len(STEPS) + 1 :])
        away = np.abs(value - larger)
        error = np.max(np.where(away > uncertain + error, away + uncertain, error), 0)
        # At the two smallest steps, the differences still change by half, far more than by rounding. So they diverge.
        change = np.abs(larger - smaller)[-1]
        diverges = (np.abs(smaller[-1]) > np.abs(larger[-1]) / 2) & (change > np.abs(smaller[-1]) / 2)
        diverges &= change > 1000 * EPSILON * (sizes / (ahead + back))[-1]
        # In a smooth function the jump at the smallest step is 32 times smaller than at a step 2^5 times as large.
        jump = np.abs(right - left)[: len(STEPS)]
        kink = (jump[-1] > jump[-6] / 4) & (jump[-1] > 1000 * rounding[len(STEPS) - 1])
        unknown = kink | diverges | np.isnan(error)
        # A function that oscillates faster than the steps has such quotients, too, but they change irregularly. At a
        # kink or a discontinuity, each halving of the step multiplies the difference of the one-sided slopes by nearly
        # the same factor, between 1/2 and 2.
        ratio = jump[-REGULAR_STEPS:] / jump[-REGULAR_STEPS - 1 : -1]
        kink &= np.all((ratio > 0.4) & (ratio < 2.5), 0)
        growth = differences[len(STEPS) - REGULAR_STEPS :] / differences[len(STEPS) - REGULAR_STEPS - 1 : -1]
        diverges &= np.all((growth > 0.99) & (growth < 10), 0)
    return value, np.where(unknown, np.inf, error), kink | diverges
