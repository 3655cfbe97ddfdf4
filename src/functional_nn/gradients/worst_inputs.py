"""The search for the inputs at which a function, its gradient and a hand-derived formula have the largest errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.core.display import html_text
from functional_nn.core.errors import InputError, shown
from functional_nn.core.texts import aligned
from functional_nn.core.validation import check_count, check_function
from functional_nn.gradients import exact_numbers
from functional_nn.gradients.compare.points import branch_constants
from functional_nn.gradients.compare.problem import converted_anew
from functional_nn.gradients.exact_numbers import GRADIENT, VALUE, ExactFunction

VectorFunction: TypeAlias = Callable[[jax.Array], jax.Array]
"""A function of one number or of one vector."""
HandVJP: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array | tuple[jax.Array]]
"""``hand_vjp(x, y_bar) -> x_bar`` or ``(x_bar,)``."""

FORMULA = "formula"
EXACT = {VALUE: VALUE, GRADIENT: GRADIENT, FORMULA: GRADIENT}
"""The exact numbers that each quantity is compared with."""
TYPES = ("float64", "float32")
VECTOR_SIZE = 3
"""The number of elements of the input of a ``VectorActivation``."""
MOST_ELEMENTS = 16

BATCH = 128
"""The number of points that are evaluated at once."""
SWEEP_SHARE = 0.6
"""The share of the evaluations for the sweep. The rest is for hill climbing."""
PARENTS = 6
"""Hill climbing starts repeatedly from this many of the worst points of each quantity."""
SUSPICIOUS = 100.0
"""Points with a larger score are confirmed: their condition numbers are also measured at neighboring points."""
BESIDE = 4
"""The distance of these neighbors, counted in floating-point numbers."""

DENSE = (-60, 13)
"""Every binary exponent in this range is swept, with several mantissas. Outside of it, exponents are skipped."""
STRIDE = 16
MANTISSAS = 4
MARGINS = np.concatenate([np.arange(0, 20, 2.0), np.arange(20, 210, 10.0)])
"""Differences between the elements of a vector."""
LARGEST_STEP = 54
"""The largest distance of a neighbor is two to this power, counted in float64 numbers."""


@dataclass(frozen=True)
class WorstPoint:
    """The point at which one quantity has its largest error in one type.

    Args:
        quantity: ``"value"``, ``"gradient"`` (by ``jax.grad``) or ``"formula"`` (by hand).
        dtype: the type of the point and of the computation.
        error: the error in ULP, units in the last place of the exact number.
        condition: the condition number: the relative change of the exact number divided by the relative change of the
            point.
        point: the number, or the elements of the vector.
        index: which number of a vector function: the output for a value, and the output and the element for a
            derivative. Empty for a function of one number.
        computed: what was computed.
        exact: the exact number, rounded to float64.
    """

    quantity: str
    dtype: str
    error: float
    condition: float
    point: float | tuple[float, ...]
    index: tuple[int, ...]
    computed: float
    exact: float

    @property
    def excess(self) -> float:
        """The error beyond conditioning: the error in ULP, divided by the condition number if that is above 1."""
        return self.error / max(1.0, self.condition)


@dataclass(frozen=True, repr=False)
class Worst:
    """The result of a search: for each type and quantity the worst point.

    Args:
        name: the name of the function.
        rows: the worst points.
        evaluations: the number of points in all types together.
        refused: quantities that JAX cannot compute, with its message.
    """

    name: str
    rows: tuple[WorstPoint, ...]
    evaluations: int
    refused: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.rows:
            return f"Worst({self.name}: nothing could be compared at {self.evaluations} points)"
        row = max(self.rows, key=lambda row: row.excess)
        where = f"{row.quantity} is off by {row.error:.3g} ULP at {shown_point(row.point)} ({row.dtype})"
        refused = f"; not computed: {', '.join(self.refused)}" if self.refused else ""
        return f"Worst({self.name}: {where}, of {self.evaluations} points{refused})"

    _repr_html_ = html_text

    def __str__(self) -> str:
        refused = [f"{quantity}: not computed, {message}" for quantity, message in self.refused.items()]
        table = [("quantity", "type", "ULP", "condition", "computed", "exact", "point")]
        for row in self.rows:
            numbers = f"{row.error:.3g}", f"{row.condition:.2g}", f"{row.computed:.9g}", f"{row.exact:.9g}"
            table.append((row.quantity, row.dtype, *numbers, shown_point(row.point)))
        return "\n".join([repr(self), "", *aligned(table), *refused])


def worst(
    function: VectorFunction | Activation | VectorActivation,
    *,
    hand_vjp: HandVJP | None = None,
    size: int | None = None,
    dtypes: Sequence[str] = TYPES,
    evaluations: int = 1000,
    seed: int = 0,
) -> Worst:
    """Searches for the inputs at which a function, its gradient and a formula of yours are worst, in ULP.

    The search first takes points at all binary exponents with both signs, beside the constants of the program (where
    the function may change its branch), and in the tails; for vectors also near ties and at margins up to 200. Then it
    climbs: it changes the worst points by a few numbers, or by a few powers of two, one element at a time, and goes on
    from those that are worse. Each exact number is computed twice, with 400 and 440 digits or more.

    Points are ranked by the error in ULP, divided by the condition number if that is above 1. So sin near a multiple of
    π, where every program loses digits of a rounded x, is not the worst point.

    Two results are not counted as errors: 0 for numbers below the smallest normal number (XLA replaces such numbers by
    0), and infinity for numbers above the largest one. A point is left out if it is a kink, if it lies outside of the
    domain, or if the two computations disagree.

    Args:
        function: a function of one number, or of a vector if ``size`` is given, with real results. Its traced program
            defines the exact numbers. For an activation of this package, the hand-derived formula is compared, too.
        hand_vjp: a hand-derived formula, ``hand_vjp(x, y_bar) -> x_bar`` or ``(x_bar,)``, as for ``check_vjp``.
        size: the number of elements of the vector; None for a function of one number.
        dtypes: the types in which it is computed: ``"float64"``, ``"float32"`` or both.
        evaluations: the number of points in each type. It and the seed determine the result.
        seed: for drawing points.

    Raises:
        InputError: an argument is wrong, or the function has an operation that cannot be evaluated in many digits.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> found = fnn.gradients.worst(lambda x: 1 - jnp.tanh(x) ** 2, dtypes=["float32"], evaluations=300)
    >>> found.rows[0].quantity, found.rows[0].error > 1e6
    ('value', True)
    """
    check_function("function", function, "a function of one number, or of a vector")
    if hand_vjp is not None:
        check_function("hand_vjp", hand_vjp, "a function of x and a cotangent")
    elif isinstance(function, Activation | VectorActivation):
        hand_vjp = function.pullback
    if size is not None:
        check_count("size", size, most=MOST_ELEMENTS)
    elif isinstance(function, VectorActivation):
        size = VECTOR_SIZE
    chosen = _types(dtypes)
    check_count("evaluations", evaluations)
    check_count("seed", seed, least=0)
    _check_outputs(function, size)
    searches = [_Search(function, hand_vjp, size, dtype, evaluations, seed) for dtype in chosen]
    refused = {quantity: message for search in searches for quantity, message in search.refused.items()}
    rows = tuple(row for search in searches for row in search.rows())
    name = getattr(function, "name", None) or getattr(function, "__name__", "function").strip("<>")
    return Worst(str(name), rows, sum(len(search.points) for search in searches), refused)


def shown_point(point: float | tuple[float, ...]) -> str:
    """A point with all its digits."""
    return f"x = {list(point) if isinstance(point, tuple) else point!r}"


def _types(dtypes: Sequence[str]) -> list[np.dtype]:
    known = isinstance(dtypes, list | tuple) and all(isinstance(name, str) and name in TYPES for name in dtypes)
    if not (known and dtypes):
        raise InputError("dtypes", f"a list of names among {', '.join(TYPES)}", shown(dtypes))
    return [np.dtype(name) for name in dict.fromkeys(dtypes)]


def _check_outputs(function: VectorFunction, size: int | None) -> None:
    """Requires one real number, or for a vector an array of real numbers, as the result."""
    shape = () if size is None else (size,)
    expected = "one floating-point number" if size is None else "an array of floating-point numbers"
    with jax.numpy_dtype_promotion("standard"):
        y = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float32))
    given = f"{y.dtype} of shape {y.shape}" if isinstance(y, jax.ShapeDtypeStruct) else shown(y)
    if not isinstance(y, jax.ShapeDtypeStruct) or not jnp.issubdtype(y.dtype, jnp.floating) or not y.size:
        raise InputError("function(x)", expected, given)
    if size is None and y.size != 1:
        raise InputError("function(x)", expected, given, "Give size= for a function of a vector.")


NUMBERS = ("score", "ulp", "condition", "computed", "exact")
MEASURED = [(name, float) for name in NUMBERS] + [("element", int)]
"""What is known of one quantity at a point: of the element with the largest score, which is the error in ULP beyond the
condition of the problem, ``ulp / max(1, condition)``. NaN stands for an exact number that is not known."""


class _Search:
    """A search in one type: a sweep over points, then hill climbing from those with the largest errors.

    Args:
        function: the function of one number, or of a vector.
        hand_vjp: its hand-derived backward pass; None if there is none.
        size: the number of elements of the vector; None for a function of one number.
        dtype: the type of the points and of the computation.
        evaluations: how many points the search takes.
        seed: for drawing points.

    Raises:
        InputError: the function has an operation that cannot be evaluated in many digits.
    """

    def __init__(
        self,
        function: VectorFunction,
        hand_vjp: HandVJP | None,
        size: int | None,
        dtype: np.dtype,
        evaluations: int,
        seed: int,
    ):
        self._size, self._dtype, self._evaluations = size, dtype, evaluations
        self._other = np.dtype("float32" if dtype == np.float64 else "float64")
        self.points = np.zeros((0, size or 1), dtype)
        self._measured: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        # For each point, whether its condition numbers were also measured beside the point.
        self._confirmed = np.zeros(0, bool)
        random = np.random.default_rng(seed)

        def at_zeros() -> object:
            return function(jnp.zeros(() if size is None else size))

        # The constants of this program are rounded to the other type. ``_confirm`` compares the two.
        with converted_anew(at_zeros), _precision(self._other):
            self._in_other_type = ExactFunction(function, size, self._other)
        with converted_anew(at_zeros), _precision(dtype):
            self._exact = ExactFunction(function, size, dtype)
            self._computed, self.refused = _computed_function(function, hand_vjp, size, dtype)
            if size is None:
                sweep = _number_points(branch_constants(jax.make_jaxpr(function)(np.zeros((), dtype))), dtype, random)
            else:
                sweep = _vector_points(size, dtype, random)
            # Few vectors are evaluated at once, because each of them needs many evaluations.
            self._batch = BATCH if size is None else BATCH // 8
            self._sweep(sweep)
            self._climb(random)

    def rows(self) -> Iterator[WorstPoint]:
        """The worst point of each quantity. Quantities without a known number are left out."""
        for quantity, (place, *_) in self._worst().items():
            measured = self._measured[quantity]
            if np.isnan(measured[place]["score"]):
                continue
            found, point, index = measured[place], float(self.points[place, 0]), ()
            if self._size is not None:
                point = tuple(map(float, self.points[place]))
                index = tuple(map(int, np.unravel_index(found["element"], self._shapes[quantity])))
            _, ulp, condition, computed, exact = (float(found[name]) for name in NUMBERS)
            yield WorstPoint(quantity, self._dtype.name, ulp, condition, point, index, computed, exact)

    def _sweep(self, points: np.ndarray) -> None:
        """Evaluates points in batches. If they exceed the limit, every k-th point and the first few are taken."""
        room = max(1, int(SWEEP_SHARE * self._evaluations))
        first, rest = points[: room // 2], points[room // 2 :]
        spread = rest[np.linspace(0, len(rest) - 1, min(len(rest), room - len(first))).astype(int)]
        points = np.concatenate([first, spread])
        for start in range(0, len(points), self._batch):
            self._evaluate(points[start : start + self._batch])

    def _climb(self, random: np.random.Generator) -> None:
        """Evaluates neighbors of the worst points until the limit is reached."""
        while len(self.points) < self._evaluations:
            # Infinite errors cannot grow, so these points are no parents.
            places = [at[np.isfinite(self._measured[quantity]["score"][at])] for quantity, at in self._worst().items()]
            parents = self.points[np.unique(np.concatenate([np.zeros(0, int), *places]))]
            if not len(parents):
                return
            room = min(self._batch, self._evaluations - len(self.points))
            # Neighbors that are not normal numbers are left out, so more are drawn than are needed.
            drawn = _neighbors(parents, 2 * room, random)
            if not len(drawn):
                return
            self._evaluate(drawn[:room])

    def _worst(self) -> dict[str, np.ndarray]:
        """The indices of the points with the largest scores of each quantity, the worst first."""
        while True:
            scores = {name: np.nan_to_num(found["score"], nan=-1.0) for name, found in self._measured.items()}
            worst = {name: np.argsort(-score, kind="stable")[:PARENTS] for name, score in scores.items()}
            places = np.unique(np.concatenate([np.zeros(0, int), *worst.values()]))
            suspicious = np.any([score[places] > SUSPICIOUS for score in scores.values()], 0)
            unconfirmed = places[suspicious & ~self._confirmed[places]]
            if not len(unconfirmed):
                return worst
            self._confirm(unconfirmed)  # this lowers scores, so other points may become the worst ones

    @np.errstate(all="ignore")
    def _confirm(self, places: np.ndarray) -> None:
        """Measures the condition numbers of points in two other ways, and takes the largest.

        The first way uses the change of the exact number at neighbors that are 4 floating-point numbers away. A result
        that is right for such a neighbor is not counted as wrong. Only these differences show that a derivative jumps
        near the point, as beside a kink. At the edge of a domain there is no neighbor, and the condition number is
        infinite.

        The second way uses the change of the exact number if the program's constants are rounded to float32. For
        example, log(2 cosh x) - log(2) near 0 is a difference of nearly equal numbers. The rounding of its constant
        decides all its digits.
        """
        centers = self.points[places]
        axes, rows = np.eye(centers.shape[1], dtype=int), np.arange(len(places))
        # (1 + 2 · elements, points, elements): the point, then along each axis a neighbor above, then those below.
        steps = BESIDE * np.concatenate([0 * axes[:1], axes, -axes])
        beside = exact_numbers.from_ordinals(exact_numbers.ordinals(centers) + steps[:, None], self._dtype)
        everything = beside.astype(np.float64)
        with _precision(self._dtype):
            exact = self._exact.at(everything.reshape(-1, len(axes)))
        with _precision(self._other):
            other = self._in_other_type.at(everything[0])
        distance = np.abs(everything[1:] - everything[0]).sum(-1) / np.tile(np.abs(everything[0].T), (2, 1))
        for quantity, measured in self._measured.items():
            right, elements = exact[EXACT[quantity]], measured["element"][places]
            high, low = (array.reshape(len(steps), len(places), -1)[:, rows, elements] for array in right[:2])
            change = np.abs((high[1:] - high[0]) + (low[1:] - low[0]))
            # Changes per relative change of x. The axes are added up, as in Σₖ |xₖ ∂ₖq|.
            change = np.where(change == 0, 0, change / distance).reshape(2, len(axes), -1).max(0).sum(0)
            by_constants = np.abs(other[EXACT[quantity]].high[rows, elements] - high[0])
            change = np.maximum(change, by_constants / float(np.finfo(np.float32).eps))
            condition = np.where(change == 0, 0, change / np.abs(high[0]))
            condition = np.maximum(measured["condition"][places], condition)
            measured["condition"][places] = condition
            measured["score"][places] = _score(measured["ulp"][places], condition)
        self._confirmed[places] = True

    @np.errstate(all="ignore")
    def _evaluate(self, points: np.ndarray) -> None:
        exact, results = self._exact.at(points.astype(np.float64)), self._computed(points)
        limits = np.finfo(self._dtype)
        self.points = np.concatenate([self.points, points])
        self._confirmed = np.concatenate([self._confirmed, np.zeros(len(points), bool)])
        for quantity, computed in results.items():
            self._shapes[quantity] = computed.shape[1:]
            computed = computed.reshape(len(points), -1)
            right = exact[EXACT[quantity]]
            # No unit is smaller than the smallest normal number.
            least = float(limits.smallest_normal) / float(limits.eps)
            ulp = exact_numbers.ulp_errors(computed, right, self._dtype, at_least=least)
            score = _score(ulp, right.condition)
            element = np.argmax(np.nan_to_num(score, nan=-1.0, posinf=np.inf), 1)
            new = np.zeros(len(points), MEASURED)
            arrays = (score, ulp, right.condition, computed, right.high)
            for name, array in zip(NUMBERS, arrays, strict=True):
                new[name] = array[np.arange(len(points)), element]
            new["element"] = element
            old = self._measured.get(quantity)
            self._measured[quantity] = new if old is None else np.concatenate([old, new])


def _score(ulp: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """The error beyond conditioning. NaN for points that are left out: an infinite condition says nothing."""
    return np.where(np.isfinite(condition), ulp / np.maximum(1, condition), np.nan)


@contextmanager
def _precision(dtype: np.dtype) -> Iterator[None]:
    """A context in which JAX computes in this type, and promotes types as it does by default."""
    with jax.enable_x64(dtype == np.float64), jax.numpy_dtype_promotion("standard"):
        yield


def _computed_function(
    function: VectorFunction, hand_vjp: HandVJP | None, size: int | None, dtype: np.dtype
) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, str]]:
    """A function, its gradient and its formula as JAX computes them in one type, in one compiled program.

    For the arguments see ``_Search``.

    Returns:
        ``computed(points)`` gives all quantities at points (points, n): values (points, m), and derivatives
        (points, m, *shape). And the message for each quantity that JAX cannot compute.
    """
    shape = () if size is None else (size,)
    point = jax.ShapeDtypeStruct(shape, dtype)

    def outputs(x: jax.Array) -> jax.Array:
        return jnp.reshape(function(x), (-1,))

    def by_hand(x: jax.Array) -> jax.Array:
        y = jax.eval_shape(function, point)
        one_hot = jnp.reshape(jnp.eye(y.size, dtype=y.dtype), (y.size, *y.shape))
        return jnp.stack([x_bar(x, y_bar) for y_bar in one_hot])

    def x_bar(x: jax.Array, y_bar: jax.Array) -> jax.Array:
        (bar,) = jax.tree.leaves(hand_vjp(x, y_bar) if hand_vjp else None)
        return jnp.reshape(bar, shape)

    computable = {VALUE: outputs, GRADIENT: jax.jacrev(outputs)} | ({FORMULA: by_hand} if hand_vjp else {})
    refused: dict[str, str] = {}
    for quantity, compute in list(computable.items()):
        try:
            jax.eval_shape(compute, point)
        except Exception as error:  # JAX has many kinds of errors for "not differentiable"
            refused[quantity] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            del computable[quantity]

    # The points are computed one after the other, as a user does it. Under vmap, some loops of JAX never end.
    run = jax.jit(partial(jax.lax.map, lambda x: {name: compute(x) for name, compute in computable.items()}))

    def computed(points: np.ndarray) -> dict[str, np.ndarray]:
        # They are filled up with copies, so that one compiled program fits all.
        filled = np.concatenate([points, np.repeat(points[-1:], BATCH - len(points), 0)]).astype(dtype)
        results = run(jnp.asarray(filled.reshape(BATCH, *shape)))
        return {name: np.asarray(results[name], np.float64)[: len(points)] for name in computable}

    return computed, refused


def _number_points(special: Iterable[float], dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Points for a function of one number, (points, 1), the most important ones first.

    Args:
        special: numbers at which the function may change its branch.
        dtype: the type of the points.
        random: draws mantissas.
    """
    limits = np.finfo(dtype)
    near = _beside(np.unique([0.0, 1.0, *special]), dtype)
    # The tails end a little beyond the point at which e⁻ˣ falls below the smallest normal number.
    far = -1.2 * np.log(float(limits.smallest_normal))
    tail = np.concatenate([np.arange(0.5, 40.5, 0.5), np.geomspace(41, far, 40)])
    low, high = max(DENSE[0], int(limits.minexp)), min(DENSE[1], int(limits.maxexp))
    dense = np.ldexp(random.uniform(1, 2, (MANTISSAS, high - low)), np.arange(low, high))
    others = np.arange(int(limits.minexp), int(limits.maxexp), max(1, STRIDE * int(limits.maxexp) // 1024))
    coarse = np.ldexp(random.uniform(1, 2, len(others)), others)
    # One number for each exponent comes first, then the rare exponents, then the other numbers for each exponent.
    sizes = np.concatenate([tail, dense[0], coarse, *dense[1:]])
    both_signs = np.stack([sizes, -sizes], 1).reshape(-1)
    every = np.concatenate([near, both_signs])
    kept = every[exact_numbers.is_normal(every, dtype)].astype(dtype)
    _, first = np.unique(kept, return_index=True)
    return kept[np.sort(first)][:, None]


def _vector_points(size: int, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Points for a function of a vector, (points, size): normal numbers, margins, near ties, offsets, large numbers."""
    found = [random.normal(size=(40, size))]
    for margin in (*MARGINS, *np.geomspace(4 * float(np.finfo(dtype).eps), 1, 24)):
        others = random.normal(size=(2, size))
        # In the first vector, one element is ahead by about the margin. In the second, the sorted elements have this
        # distance.
        ahead = others.copy()
        ahead[0, random.integers(size)] += margin
        ahead[1] = -margin * random.permutation(size)
        # All elements are equal, except for one that is ahead by the margin.
        tied = np.full((1, size), random.normal())
        tied[0, random.integers(size)] += margin
        found += [ahead, tied]
    for exponent in range(-60, 61, 4):
        scale = 2.0**exponent
        found += [scale * random.normal(size=(1, size)), scale + random.normal(size=(1, size))]
    every = np.concatenate(found) + 0.0  # no -0.0
    return random.permutation(every[exact_numbers.is_normal(every, dtype).all(1)]).astype(dtype)


def _neighbors(parents: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draws points near given ones, (count, n): one element moves by a random power of two, counted in numbers.

    A small move changes the last bits of an element, a large one its exponent. An element may also move close to
    another one or change its sign.
    """
    dtype = parents.dtype
    chosen = parents[random.integers(len(parents), size=count)]
    size = parents.shape[1]
    rows, column = np.arange(count), random.integers(size, size=count)
    # The mantissa of float32 has 29 bits fewer. So the largest step changes the exponent as much as in float64.
    bits = LARGEST_STEP if dtype == np.float64 else LARGEST_STEP - 29
    steps = np.floor(2.0 ** random.uniform(0, bits, count)).astype(np.int64) * random.choice([-1, 1], count)
    # The kind of the move: below 0.15 an element starts from the place of another one, above 0.95 it changes its sign.
    move = random.uniform(size=count)
    start = chosen[rows, column]
    if size > 1:
        other = chosen[rows, (column + random.integers(1, size, count)) % size]
        start = np.where(move < 0.15, other, start)
    start = np.where(move > 0.95, -start, start)
    moved = exact_numbers.from_ordinals(exact_numbers.ordinals(np.ascontiguousarray(start)) + steps, dtype)
    result = chosen.copy()
    result[rows, column] = moved
    return result[exact_numbers.is_normal(result, dtype).all(1)].astype(dtype)


def _beside(centers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Each center and its mirror image, their nearest numbers on both sides, and numbers ever further away."""
    centers = np.unique(np.concatenate([centers, -centers])).astype(dtype)
    close = exact_numbers.beside(centers[centers != 0], 2 ** np.arange(0, 52 if dtype == np.float64 else 23, 4))
    return np.concatenate([centers, close]).astype(np.float64)
