"""The arbiter: Jacobians that share no derivative rule with JAX, by differences in many digits or in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.flatten_util import ravel_pytree

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare.problem import Array, Function, Leaves, Problem, inner_product, is_simple_fraction
from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import as_numbers, many_digits
from functional_nn.jaxprs.evaluate import evaluate

MOST_EXACT_NUMBERS = 1_000_000
"""At most this many numbers of hundreds of digits are computed for one problem. They take some seconds."""
MOST_COLUMNS = 200
"""The largest number of elements of a leaf that the arbiter computes."""
STEP, SMALLEST_STEP = 2.0**-600, 2.0**-1000
"""The step of the inner difference in a second derivative, in units of the smallest element of the point, or of 1 if
that is smaller, and the smallest such step. It is far smaller than the steps of the outer difference, which then sees
kinks of the slope. Its own error, which falls with its square, is too small for float64."""
SECOND_ORDER_DIGITS = 230
"""The digits of a second derivative. The inner difference loses 180 of them."""
USUAL_RANGE = 10
"""If the largest element is more than this many powers of ten above the smallest, a second derivative takes more
digits."""

OF_FORMULA = "differences of the formula"
"""The name of the arbiter where it differentiates the formula, and not the function."""
CHANGE = 2.0**-30
"""The relative change of all numbers with which the sensitivity is measured. It is small, but far above rounding."""
ROUNDINGS = 64
"""An error may be as large as the effect of this many roundings of all numbers."""


class Reference(NamedTuple):
    """Independent derivatives with respect to chosen elements of one leaf, with estimates of their errors.

    Args:
        name: the method that computed them.
        columns: the indices of the chosen elements in the flat leaf.
        values: the derivatives, (m, columns), where m is the number of elements of all outputs.
        error: the estimated absolute errors. At a kink, the value is the mean of the two one-sided derivatives, and the
            error is half of their distance. The error is infinite where they do not exist, or where the method cannot
            say.
        kink: where the function was found to have a kink or a jump. An infinite error elsewhere says that nothing is
            known, for example outside of the function's domain.
    """

    name: str
    columns: np.ndarray
    values: np.ndarray
    error: np.ndarray
    kink: np.ndarray


Columns: TypeAlias = Callable[[int], Sequence[np.ndarray]]
"""``columns(count)`` gives the flat indices of about ``count`` elements of each leaf by which to differentiate."""


def reference_jacobian(function: Function, leaves: Leaves, columns: Columns | None = None) -> list[Reference]:
    """Differentiates a function of float64 leaves by each of them, without any derivative rule of JAX.

    The derivatives are computed in 50 digits. If an operation has no rule for that, differences in float64 are taken.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        columns: the elements; None for all.
    """
    try:
        return exact_jacobian(function, leaves, columns=columns)
    except InputError:  # an operation has no rule
        return difference_jacobian(function, leaves, columns)


def derivatives_at(function: Function, leaves: Leaves, number: int, columns: np.ndarray) -> Reference:
    """The derivatives by some elements of one leaf, computed as in ``reference_jacobian``."""
    chosen = [columns if place == number else np.zeros(0, int) for place in range(len(leaves))]
    return reference_jacobian(function, leaves, lambda count: chosen)[number]


def reference_second_order(
    problem: Problem, y_bars: Leaves, directions: Leaves, columns: Columns | None = None
) -> list[Reference]:
    """Differentiates the pulled-back cotangent along u: ∂²⟨ȳ, f(x + t u)⟩ / ∂x ∂t. The result has one row per leaf.

    This is a mixed difference of the function in many digits, with a step in t of 2⁻⁶⁰⁰. At a kink of the function or
    its slope, all errors are infinite. If an operation has no rule, it is a difference of the formula in float64.

    Args:
        problem: the function, its pullback and the point x.
        y_bars: the cotangent ȳ.
        directions: the direction u.
        columns: see ``reference_jacobian``.
    """
    try:
        elements = np.concatenate([np.abs(np.asarray(leaf, np.float64)).reshape(-1) for leaf in problem.leaves])
        smallest, largest = np.min(elements, where=elements > 0, initial=1.0), np.max(elements, initial=1.0)
        # A power of 2, so small that no element of the point changes by more than a tiny share.
        step = max(STEP * 2.0 ** float(np.floor(np.log2(smallest))), SMALLEST_STEP)
        slope = partial(_slope_along, problem.function, y_bars, directions, step)
        # Steps relative to the smallest element get lost beside the largest one, unless there are more digits.
        digits = SECOND_ORDER_DIGITS + max(0, int(np.ceil(np.log10(largest) - np.log10(smallest))) - USUAL_RANGE)
        found = exact_jacobian(slope, problem.leaves, columns, digits=digits)
    except InputError:  # an operation has no rule
        return _difference_of_pullback(problem, y_bars, directions)
    if any(leaf.kink.any() for leaf in found):  # the direction moves all elements together
        return [leaf._replace(error=np.full_like(leaf.error, np.inf), kink=np.ones_like(leaf.kink)) for leaf in found]
    return found


def _difference_of_pullback(problem: Problem, y_bars: Leaves, directions: Leaves) -> list[Reference]:
    """Computes the same derivative as a difference of the formula in float64, with respect to t at t = 0."""

    def pulled_back(t: Leaves) -> Leaves:
        at = [leaf + t[0] * direction for leaf, direction in zip(problem.leaves, directions, strict=True)]
        return problem.pullback(at, list(map(jnp.asarray, y_bars)))

    (found,) = difference_jacobian(pulled_back, [np.zeros(())])
    # The Jacobian has one column, t. Its rows are the elements of all leaves; each leaf gets its part as one row.
    sizes = list(map(np.size, problem.leaves))
    ends = np.cumsum(sizes)[:-1]
    rows = ([part.T for part in np.split(column, ends)] for column in (found.values, found.error, found.kink))
    return [Reference(OF_FORMULA, *of_leaf) for of_leaf in zip(map(np.arange, sizes), *rows, strict=True)]


def _slope_along(function: Function, y_bars: Leaves, directions: Leaves, step: float, leaves: Leaves) -> Leaves:
    """⟨ȳ, f(x + h u) - f(x - h u)⟩ / 2h with the step h."""
    ahead, behind = (
        function([leaf + sign * step * direction for leaf, direction in zip(leaves, directions, strict=True)])
        for sign in (1.0, -1.0)
    )
    (product,) = inner_product(y_bars, list(map(jnp.subtract, ahead, behind)))
    return [product * (0.5 / step)]


def sensitivity(
    function: Function, leaves: Leaves, number: int, at_point: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """How far the derivatives by some elements of a leaf change, if all numbers are rounded 64 times in float64.

    All elements of the leaves and all arrays of numbers inside the function are multiplied by 1 ± 2⁻³⁰, twice, with
    random signs. Simple fractions in these arrays stay, since they were not rounded. The largest change of each
    derivative, divided by 2⁻³⁰, is its condition number times the derivative. This returns 2⁻⁴⁶ times this.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point.
        number: the index of the leaf.
        at_point: the derivatives at the point itself, by all elements.
        columns: the flat indices of the elements in the leaf.
    """
    program = jax.make_jaxpr(lambda leaves: list(function(leaves)))(list(leaves))
    random = np.random.default_rng(0)

    def moved(array: Array, stays: np.ndarray | bool = False) -> np.ndarray:
        change = CHANGE * random.choice([-1.0, 1.0], np.shape(array))
        return np.where(stays, array, np.asarray(array) * (1 + change))

    def derivatives() -> np.ndarray:
        point = list(map(moved, leaves))
        is_number = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)  # noqa: E731
        constants = [moved(x, is_simple_fraction(x)) if is_number(x) else x for x in program.consts]
        function = partial(evaluate, ClosedJaxpr(program.jaxpr, constants))
        return derivatives_at(function, point, number, columns).values

    return ROUNDINGS * 2.0**-52 / CHANGE * np.max([np.abs(derivatives() - at_point[:, columns]) for _ in range(2)], 0)


def doubtful(doubt: np.ndarray, count: int) -> np.ndarray:
    """Chooses elements of a leaf: a third of ``count`` for each of two reasons, the others at regular distances.

    ``doubt`` has a number for each reason and element, (reasons, elements). The elements with the largest are chosen.
    """
    size = doubt.shape[1]
    if size <= count:
        return np.arange(size)
    share = -(-count // (len(doubt) + 1))
    worst = [np.argsort(-np.nan_to_num(row, nan=np.inf))[: min(share, np.count_nonzero(row))] for row in doubt]
    spread = np.linspace(0, size - 1, max(0, count - sum(map(len, worst)))).astype(int)
    return np.unique(np.concatenate([*worst, spread]))


class Steps(NamedTuple):
    """The steps of differences of a function that computes in one type.

    Args:
        dtype: the type.
        usual: the relative steps that are extrapolated to 0; each is half of the one before.
        small: further steps, each an eighth of the one before. Their differences are inaccurate, but detect changes
            that are too narrow for the larger steps.
        clear: a kink is found only where the one-sided differences disagree by this many times more than by rounding.
    """

    dtype: type[np.floating]
    usual: np.ndarray
    small: np.ndarray
    clear: float


STEPS = Steps(np.float64, 2.0 ** -np.arange(2, 16), 2.0 ** -np.array([18, 21, 24, 27]), 1000)
FLOAT32_STEPS = Steps(np.float32, 2.0 ** -np.arange(1, 9), 2.0 ** -np.array([6, 9, 12]), 16)
FACTORS = np.array([0.0, -1.0, 2.0, -3.5, 64.0, -1e3, 1e6])
"""Factors of an element. An output that is the same for all of them does not depend on the element."""
REGULAR_STEPS = 7
"""At a kink, this number of halvings of the step have to change the quotients by nearly the same factor."""
ORDERS = 7
"""The number of columns of Richardson's table. In the last column, six even powers of the step are removed."""


@np.errstate(all="ignore")
def exact_jacobian(
    function: Function, leaves: Leaves, columns: Columns | None = None, *, digits: int = 50
) -> list[Reference]:
    """Computes central differences of the forward pass in many digits, right to the last digit of float64.

    (f(x + h) - f(x - h)) / 2h is computed twice: with h = min(|x|, 1) 10^-60 and 350 additional digits, and with 10^-75
    and 390 of them. At x = 0, h is 10^-60 and 10^-75. So the change of an output of size 1 is seen for every derivative
    that float64 can hold. If the two results agree to 18 digits, their difference, plus half a unit in the last place
    of float64, is the error. Otherwise it is at least a bound of the effect of rounding, and the smallest number of
    float64.

    There is a kink if (f(x + h) - f(x)) / h and (f(x) - f(x - h)) / h differ by as much at the smaller step as at the
    larger. Half of their difference is then added to the error. If their difference grows, the error is infinite.

    This is the derivative of the exact function: nothing is rounded inside it, even by casts to a lower type.
    ``stop_gradient`` and custom derivatives have no effect.

    Args:
        function: ``function(leaves) -> outputs``.
        leaves: the point. Its binary values are taken as exact; the function is traced for their types.
        columns: the elements to differentiate by; None for all.
        digits: 50, or more for a function that loses digits itself, such as a difference with a tiny step.

    Raises:
        InputError: the function uses an operation without a rule.

    >>> with jax.enable_x64(True):
    ...     (found,) = exact_jacobian(lambda leaves: [jnp.exp(leaves[0])], [np.array([0.5, -1.0])])
    >>> print(found.values)
    [[1.64872127 0.        ]
     [0.         0.36787944]]

    References:
        Squire, Trapp 1998, "Using complex variables to estimate derivatives of real functions", on cancellation, which
        digits to spare make harmless.
    """
    program = Program(function, leaves)
    # A central difference evaluates the function at two points, each in two precisions.
    count = max(1, MOST_EXACT_NUMBERS // (4 * program.numbers) // len(leaves))
    chosen = _chosen(leaves, columns, min(count, MOST_COLUMNS))
    at_once, nothing = max(1, AT_ONCE // (2 * program.numbers)), np.zeros((program.outputs, 0))  # two points for each
    found = []
    for number, at in enumerate(chosen):
        some = [at[start : start + at_once] for start in range(0, len(at), at_once)]
        parts = [derivatives(program, leaves, number, columns, digits) for columns in some]
        parts.append((nothing, nothing, nothing.astype(bool)))
        arrays = (np.concatenate(some, 1) for some in zip(*parts, strict=True))
        found.append(Reference(f"{digits} digits", at, *arrays))
    return found


def _chosen(leaves: Leaves, columns: Columns | None, count: int) -> Sequence[np.ndarray]:
    return columns(count) if columns else [np.arange(np.size(leaf)) for leaf in leaves]


def difference_jacobian(function: Function, leaves: Leaves, columns: Columns | None = None) -> list[Reference]:
    """Computes central differences of the float64 function as JAX runs it, extrapolated to a step of 0.

    See ``extrapolated`` for the method. The error is 0 if the output stays the same at all points of the differences,
    and for seven values of the element from -1000 to 10^6 times its size.

    Args:
        function: ``function(leaves) -> outputs``, anything that JAX can run.
        leaves: the point; it is converted to float64.
        columns: the elements to differentiate by; None for all.

    >>> with jax.enable_x64(True):
    ...     (found,) = difference_jacobian(lambda leaves: [jnp.sin(leaves[0])], [np.array([0.0])])
    >>> print(found.values.round(12))
    [[1.]]
    """
    flat = [np.asarray(leaf).astype(np.float64) for leaf in leaves]
    everything, unraveled = ravel_pytree(flat)

    def at_one(place_and_value: tuple[jax.Array, jax.Array]) -> jax.Array:
        place, value = place_and_value
        outputs, _ = ravel_pytree(list(function(unraveled(everything.at[place].set(value)))))
        return outputs.astype(jnp.float64)

    def at(places: np.ndarray, moved: np.ndarray) -> jax.Array:
        """Evaluates the outputs at several points. Each differs from the given point in one element only."""
        return jax.jit(partial(jax.lax.map, at_one))((jnp.asarray(places), jnp.asarray(moved)))

    chosen = _chosen(leaves, columns, MOST_COLUMNS)
    starts = np.cumsum([0, *(leaf.size for leaf in flat[:-1])])
    places = np.concatenate([c + start for c, start in zip(chosen, starts, strict=True)])
    x = np.asarray(everything)[places]
    moved = difference_points(x)
    points = np.concatenate([moved, FACTORS[:, None] * np.where(x == 0, 1.0, x)])
    y = np.asarray(at(np.broadcast_to(places, points.shape).reshape(-1), points.reshape(-1)))
    y = np.moveaxis(y.reshape(*points.shape, -1), -1, 1)  # points, outputs, columns
    found = extrapolated(y[: len(moved)], moved, largest=np.nanmax(np.abs(y), initial=0, where=np.isfinite(y)))
    is_constant = np.all(y == y[0], 0)
    error = np.where(is_constant, 0, np.where(found.kink, np.inf, found.error))
    splits = np.cumsum([len(c) for c in chosen])[:-1]
    parts = (np.split(array, splits, 1) for array in (found.value, error, found.kink))
    return [Reference("differences", *of_leaf) for of_leaf in zip(chosen, *parts, strict=True)]


class Extrapolated(NamedTuple):
    """Derivatives of the outputs by some numbers, as arrays (m, columns).

    Args:
        value: the derivative; at a kink, the mean of both one-sided derivatives.
        error: its estimated absolute error; infinite if it is not known. At a kink it is half of the distance between
            the one-sided derivatives.
        kink: where the function has a kink or a jump.
        doubtful: where the smallest step gives another value: the function may be flat for the larger steps only.
    """

    value: np.ndarray
    error: np.ndarray
    kink: np.ndarray
    doubtful: np.ndarray


def difference_points(x: np.ndarray, steps: Steps = STEPS) -> np.ndarray:
    """The numbers at which ``extrapolated`` needs the outputs, (points, columns): x, then all x + h, then all x - h."""
    # A power of two: the steps are exact.
    scale = 2.0 ** np.round(np.log2(np.maximum(np.abs(x), 1.0)))
    h = np.concatenate([steps.usual, steps.small])[:, None] * scale
    return np.concatenate([x[None], x + h, x - h]).astype(steps.dtype).astype(np.float64)


@np.errstate(all="ignore")
def extrapolated(y: np.ndarray, moved: np.ndarray, steps: Steps = STEPS, largest: float = 0.0) -> Extrapolated:
    """Computes central differences by several numbers, each on its own, extrapolated to a step of 0.

    With D(h) = (f(x + h) - f(x - h)) / 2h for h = 2^-2 … 2^-15 of |x| (of 1 below 1), Richardson's table
    T(k, j) = T(k, j - 1) + (T(k, j - 1) - T(k - 1, j - 1)) / (4^j - 1) removes one even power of h after the other.
    The table's entry with the smallest error is taken. The error has two parts. The first is ten times the entry's
    distance from the entries that it is made of; the factor is ten because the smallest of many errors can be small by
    chance. The second is rounding, at least 4 ε |f| / h, and more where f moves by leaps: 1 - tanh² in its tail is a
    multiple of ε / 2, and does not move at all by small steps. The error is larger if D(h) for two of the steps 2^-18,
    2^-21, 2^-24 and 2^-27 agree on another value: the function then bends too sharply for the larger steps. The error
    is infinite if the last two do not agree at all, or if the differences to the right and to the left still disagree
    as h shrinks, and do not converge.

    Args:
        y: the outputs, (points, m, columns): in column c, only the number x_c is moved.
        moved: what it is moved to, (points, columns), from ``difference_points``.
        steps: the steps; those above are for a function that computes in float64.
        largest: the size of the largest numbers, as far as known, that may be rounded inside of f.

    References:
        Ridders 1982, "Accurate computation of F'(x) and F'(x) F''(x)".
    """
    (middle, x), count = (y[0], moved[0]), len(moved) // 2
    up, down = y[1 : count + 1], y[count + 1 :]
    # The actual steps, after x + h and x - h were rounded.
    ahead, back = (moved[1 : count + 1] - x)[:, None], (x - moved[count + 1 :])[:, None]
    usual, epsilon = len(steps.usual), float(np.finfo(steps.dtype).eps)
    right, left = (up - middle) / ahead, (middle - down) / back
    differences = (up - down) / (ahead + back)
    larger, smaller = differences[usual:-1], differences[usual + 1 :]
    # With the two smallest steps, the differences differ mostly by the rounding errors of f.
    noise = np.abs(larger[-1] - smaller[-1]) * (ahead + back)[-1]
    sizes = np.maximum(np.abs(up), np.abs(down))
    if steps.dtype != np.float64:
        # If numbers far from 0 cancel inside of f, it moves as if they were rounded. In float64 this is seldom visible.
        terms = np.abs(smaller[-1]) * (ahead + back)[-1] / (2 * steps.small[-1])
        sizes = sizes + np.nansum(terms, -1, keepdims=True) / 8
    # In a smooth function the changes shrink with the steps. Where they do not, and smaller steps do not show that they
    # do, the function moves by leaps of about this size. Larger ones are no rounding: it has a kink or a bend there.
    changes, ratio = up - down, ((ahead + back)[:-1] / (ahead + back)[1:])
    leaps = np.abs(changes[:-1] - ratio * changes[1:])
    is_smooth = (leaps <= np.abs(changes[:-1]) / 2) & (changes[:-1] != 0)
    smooth_below = np.cumsum(is_smooth[::-1], 0)[::-1] - is_smooth
    is_leap = ~is_smooth & (smooth_below < 3) & (leaps <= 64 * epsilon * largest)
    leap = 4 * np.max(np.where(is_leap, leaps, 0), 0) / (ahead + back)
    rounding = np.maximum(np.maximum(8 * epsilon * sizes, 4 * noise) / (ahead + back), leap)
    table = [differences[:usual]]
    value, error = table[0][-1], np.full_like(table[0][-1], np.inf)
    for order in range(1, ORDERS):
        before = table[-1]
        # Each step is half of the one before, so the error term in h^(2 order) is 4^order times smaller.
        table.append(before[1:] + (before[1:] - before[:-1]) / (4.0**order - 1))
        distance = np.maximum(np.abs(table[-1] - before[1:]), np.abs(table[-1] - before[:-1]))
        # Row k is made of the steps k to k + order. The last of them is the smallest, where rounding counts most.
        distance = 10 * distance + rounding[order:usual]
        distance = np.where(np.isnan(distance), np.inf, distance)
        best = np.argmin(distance, 0)[None]
        found, found_error = (np.take_along_axis(array, best, 0)[0] for array in (table[-1], distance))
        value, error = np.where(found_error < error, found, value), np.minimum(found_error, error)
    # If two small steps agree on a value far from the extrapolated one, the larger steps missed something.
    of_each = 8 * epsilon * sizes / (ahead + back) + leap
    uncertain = 10 * (np.abs(larger - smaller) + of_each[usual + 1 :])
    away = np.abs(value - larger)
    error = np.max(np.where(away > uncertain + error, away + uncertain, error), 0)
    # At the two smallest steps, the differences still change by half, far more than by rounding. So they diverge.
    change = np.abs(larger - smaller)[-1]
    diverges = (np.abs(smaller[-1]) > np.abs(larger[-1]) / 2) & (change > np.abs(smaller[-1]) / 2)
    diverges &= change > steps.clear * epsilon * (sizes / (ahead + back))[-1]
    # In a smooth function the jump at the smallest step is 32 times smaller than at a step 2^5 times as large.
    jump = np.abs(right - left)[:usual]
    kink = (jump[-1] > jump[-6] / 4) & (jump[-1] > steps.clear * rounding[usual - 1])
    unknown = kink | diverges | np.isnan(error)
    # The error of the smallest step is 1/64 of the change from the step before, and rounding of f and of all numbers.
    of_smallest = change / 16 + 8 * epsilon * sizes[-1] / (ahead + back)[-1]
    doubtful = np.abs(value - smaller[-1]) > of_smallest + np.where(unknown, 0, error)
    # A function that oscillates faster than the steps has such quotients, too, but they change irregularly. At a
    # kink or a discontinuity, each halving of the step multiplies the difference of the one-sided slopes by nearly
    # the same factor, between 1/2 and 2.
    ratio = jump[-REGULAR_STEPS:] / jump[-REGULAR_STEPS - 1 : -1]
    kink &= np.all((ratio > 0.4) & (ratio < 2.5), 0)
    growth = differences[usual - REGULAR_STEPS :] / differences[usual - REGULAR_STEPS - 1 : -1]
    diverges &= np.all((growth > 0.99) & (growth < 10), 0)
    # At a kink, any number between the slopes to the right and to the left can be right, if these converge.
    far_slopes, near_slopes = (np.stack([right[place], left[place]]) for place in (usual - 2, usual - 1))
    change = np.abs(near_slopes - far_slopes)
    slack, distance = 2 * np.sum(change, 0) + rounding[usual - 1], np.abs(near_slopes[0] - near_slopes[1])
    between = kink & ~diverges & (slack < distance / 4)
    value = np.where(between, np.mean(near_slopes, 0), value)
    error = np.where(between, distance / 2 + slack, np.where(unknown, np.inf, error))
    return Extrapolated(value, error, kink | diverges, doubtful)


AT_ONCE = 500_000
"""About how many numbers are in memory at the same time."""
AGREEMENT = 1e-18
"""Two derivatives agree if they differ by at most this share."""
STABLE = 1e-6
"""Two differences of one-sided derivatives agree if they differ by at most this share."""
MARGIN = 1000
"""The estimate of the effect of rounding is multiplied by this factor to get a bound."""
SMALLEST = 5e-324
"""The smallest positive number of float64."""


class Differences(NamedTuple):
    """Differences with one step and one number of digits, as arrays (m, columns, points) of numbers of many digits.

    Args:
        digits: the number of digits.
        h: the steps, (columns, points).
        base: the outputs at x, (m, 1, points).
        central: the central differences.
        jump: how far the differences to the right and to the left disagree.
        size: the largest absolute output at the points of a difference.
    """

    digits: int
    h: np.ndarray
    base: np.ndarray
    central: np.ndarray
    jump: np.ndarray
    size: np.ndarray


def differences(
    program: Program, leaves: Leaves, number: int, columns: np.ndarray, digits: int, step: int
) -> Differences:
    """Computes differences by these elements of one leaf, with steps of min(|x|, 1) 10^-step. The last axis of each
    leaf has the points; if there are several, there is one leaf."""
    base, count = list(map(as_numbers, leaves)), len(columns)
    size = np.abs(np.asarray(leaves[number], np.float64)).reshape(-1, np.shape(leaves[number])[-1])[columns]
    size = np.where(size == 0, 1.0, size)
    # The smallest x has the smallest step. Added to numbers of size 1, or to the largest x, it needs more digits.
    digits += int(np.ceil(np.max(np.log10(size), initial=0) - np.min(np.log10(size), initial=0)))
    with many_digits(digits):
        h = as_numbers(np.minimum(size, 1.0)) / 10**step
        # For each point there are ``count`` points x + h, ``count`` points x - h, and x itself.
        moved = np.repeat(base[number].reshape(-1, 1, h.shape[1]), 2 * count + 1, 1)
        moved[columns, np.arange(count)] += h
        moved[columns, count + np.arange(count)] -= h
        moved = moved.reshape(*np.shape(leaves[number])[:-1], -1)
        y = program([*base[:number], moved, *base[number + 1 :]]).reshape(-1, 2 * count + 1, h.shape[1])
        up, down, middle = y[:, :count], y[:, count:-1], y[:, -1:]
        right, left = (up - middle) / h, (middle - down) / h
        size = np.maximum(np.maximum(np.abs(up), np.abs(down)), np.abs(middle))
        return Differences(digits, h, middle, (right + left) / 2, np.abs(right - left), size)


def two_differences(
    program: Program, leaves: Leaves, number: int, columns: np.ndarray, digits: int
) -> tuple[Differences, Differences]:
    """Differences with two steps, in these digits and those that they lose. See ``exact_jacobian``."""
    coarse = differences(program, leaves, number, columns, digits + 350, 60)
    return coarse, differences(program, leaves, number, columns, digits + 390, 75)


def derivatives(
    program: Program, leaves: Leaves, number: int, columns: np.ndarray, digits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the derivatives by some elements of one leaf, bounds of their errors, and which are at a kink.

    Args:
        program: the function.
        leaves: the point.
        number: the number of the leaf.
        columns: the flat indices of the elements.
        digits: see ``exact_jacobian``.
    """
    coarse, fine = two_differences(program, [np.asarray(leaf)[..., None] for leaf in leaves], number, columns, digits)
    change = np.abs(fine.central - coarse.central)
    # Two zeros do not agree: both may have lost the change of f.
    agree = (change <= np.abs(fine.central) * AGREEMENT) & (fine.central != 0)
    # The coarse outputs show how many digits cancel inside of f. The fine ones have 40 more of them.
    wrong = np.abs(fine.base - coarse.base) / 10 ** (fine.digits - coarse.digits)
    rounding = MARGIN * (wrong + fine.size / 10**fine.digits) / fine.h
    # Rounding to float64 adds an error of up to half a unit in the last place.
    value = fine.central.astype(np.float64)
    error = np.where(agree, change, np.maximum(change, rounding)).astype(np.float64) + np.spacing(np.abs(value)) / 2
    # An error of exactly 0 would say that the output does not depend on the element.
    error = np.where(np.isfinite(value) & ~np.isnan(error), np.maximum(error, SMALLEST), np.inf)
    kink = np.asarray(is_kink(coarse, fine), bool)
    # At a kink, the derivatives to the right and to the left exist if their difference does not change with the step.
    one_sided = np.asarray((np.abs(fine.jump - coarse.jump) <= fine.jump * STABLE) & (fine.jump != 0), bool)
    half_jump = np.where(one_sided, (fine.jump / 2).astype(np.float64), np.inf)
    return value[..., 0], np.where(kink, error + half_jump, error)[..., 0], kink[..., 0]


def is_kink(coarse: Differences, fine: Differences) -> np.ndarray:
    """Whether the differences to the right and to the left disagree at both levels.

    In a smooth function the jump shrinks with the step, and rounding shrinks even faster. At a kink it stays. At a
    point where the function itself jumps, it grows as the step shrinks.
    """
    finer = coarse.h / fine.h
    # A jump of a smooth function would be ``finer`` times smaller, and one of a function that jumps ``finer`` times
    # larger. A jump that grows even more was not seen at the coarse level, so it is not confirmed.
    stays = (fine.jump > coarse.jump / MARGIN) & (fine.jump < coarse.jump * finer * MARGIN)
    # It has to be 15 digits larger than rounding in the quotients.
    seen = fine.jump > fine.size / fine.h / 10 ** (fine.digits - 15)
    # If the value is in the middle of a jump, as that of sign at 0, only the central difference grows.
    grows = (np.abs(fine.central) > np.abs(coarse.central) * finer / MARGIN) & (coarse.central != 0)
    return (stays & seen) | grows
