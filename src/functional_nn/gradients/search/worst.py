"""The public search for the inputs at which a function and its derivatives are worst."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.core.display import html_text
from functional_nn.core.errors import InputError
from functional_nn.core.texts import aligned
from functional_nn.core.validation import check_count, check_function, check_number, shown
from functional_nn.gradients.search.computed import HandVJP
from functional_nn.gradients.search.exact import VectorFunction
from functional_nn.gradients.search.samples import Limit, Search, take_samples
from functional_nn.storage.files import JsonObject

TYPES = ("float64", "float32")
EVALUATIONS = 1000
"""The number of points in each type if neither ``evaluations`` nor ``seconds`` is given."""
VECTOR_SIZE = 3
"""The number of elements of the input of a ``VectorActivation``."""
MOST_ELEMENTS = 16


@dataclass(frozen=True)
class WorstPoint:
    """The point at which one quantity has its largest error in one type.

    Args:
        quantity: ``"value"``, ``"gradient"`` (by ``jax.grad``), ``"second derivative"`` (by ``jax.grad`` twice),
            ``"formula"`` (by hand) or ``"derivative of the formula"`` (by ``jax.grad``).
        dtype: the type of the point and of the computation.
        error: the error in ULP, units in the last place of the exact number.
        relative_error: |computed - exact| / |exact|.
        condition: the condition number: the relative change of the exact number divided by the relative change of the
            point.
        point: the number, or the elements of the vector.
        index: which number of a vector function: the output for a value, and the output and the element for a
            derivative. Empty for a function of one number.
        computed: what was computed.
        exact: the exact number, rounded to float64.
        unknown: the number of points that were left out, because they are kinks or their exact number is not known.
    """

    quantity: str
    dtype: str
    error: float
    relative_error: float
    condition: float
    point: float | tuple[float, ...]
    index: tuple[int, ...]
    computed: float
    exact: float
    unknown: int

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
        seconds: how long the search took.
        refused: quantities that JAX cannot compute, with its message.
    """

    name: str
    rows: tuple[WorstPoint, ...]
    evaluations: int
    seconds: float
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
        return "\n".join([repr(self), "", *table(self.rows), *refused])

    def to_dict(self) -> JsonObject:
        """The result as plain numbers, texts, lists and dicts."""
        return asdict(self)


def worst(
    function: VectorFunction | Activation | VectorActivation,
    *,
    hand_vjp: HandVJP | None = None,
    size: int | None = None,
    dtypes: Sequence[str] = TYPES,
    evaluations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    largest_condition: float = np.inf,
) -> Worst:
    """Searches for the inputs at which a function, its gradient and its second derivative are worst, in ULP.

    The search first takes points at all binary exponents with both signs, beside the constants of the program (where
    the function may change its branch), and in the tails; for vectors also near ties and at margins up to 200. Then it
    climbs: it changes the worst points by a few numbers, or by a few powers of two, one element at a time, and goes on
    from those that are worse. Each exact number is computed with 50 to 1000 digits, until two computations agree.

    Points are ranked by the error in ULP, divided by the condition number if that is above 1. So sin near a multiple of
    π, where every program loses digits of a rounded x, is not the worst point.

    Two results are not counted as errors: 0 for numbers below the smallest normal number (XLA replaces such numbers by
    0), and infinity for numbers above the largest one. A point is left out if it is a kink, if it lies outside of the
    domain, or if two computations still disagree at 1000 digits.

    Args:
        function: a function of one number, or of a vector if ``size`` is given, with real results. Its traced program
            defines the exact numbers. For an activation of this package, the hand-derived formula is compared, too.
        hand_vjp: a hand-derived formula, ``hand_vjp(x, y_bar) -> x_bar`` or ``(x_bar,)``, as for ``check_vjp``.
        size: the number of elements of the vector; None for a function of one number.
        dtypes: the types in which it is computed: ``"float64"``, ``"float32"`` or both.
        evaluations: the number of points in each type; by default 1000. It and the seed determine the result.
        seconds: how long to search, in seconds of the processor and without compiling, in place of a number of points.
        seed: for drawing points.
        largest_condition: points with a larger condition number are left out.

    Raises:
        InputError: an argument is wrong, or the function has an operation that cannot be evaluated in many digits.

    >>> found = worst(lambda x: 1 - jnp.tanh(x) ** 2, dtypes=["float32"], evaluations=300)
    >>> found.rows[0].quantity, found.rows[0].error > 1e6
    ('value', True)
    """
    function, hand_vjp, size, name = _parts(function, hand_vjp, size)
    chosen = _types(dtypes)
    _check_limits(evaluations, seconds)
    check_count("seed", seed, least=0)
    check_number("largest_condition", largest_condition, "a number above 0", lambda number: number > 0)
    _check_outputs(function, size)
    began = time.perf_counter()
    limit = Limit(evaluations or EVALUATIONS, None) if seconds is None else Limit(None, seconds / len(chosen))
    searches = [
        take_samples(
            function,
            hand_vjp,
            size=size,
            dtype=dtype,
            limit=limit,
            seed=seed,
            largest_condition=largest_condition,
        )
        for dtype in chosen
    ]
    refused = {quantity: message for search in searches for quantity, message in search.samples.refused.items()}
    rows = [row for search in searches for row in rows_of(search, size)]
    count = sum(len(search.samples.points) for search in searches)
    return Worst(name, tuple(rows), count, time.perf_counter() - began, refused)


def rows_of(search: Search, size: int | None, among: np.ndarray | None = None) -> Iterable[WorstPoint]:
    """The worst point of each quantity among the points of a mask. Quantities without a known number are left out."""
    for quantity in search.samples.measured:
        place = search.worst(quantity, among)
        if place is not None:
            yield _row_at(search, quantity, place, size)


def _row_at(search: Search, quantity: str, place: int, size: int | None) -> WorstPoint:
    """The row for one point of a search."""
    samples = search.samples
    measured = samples.measured[quantity]
    point = tuple(map(float, samples.points[place]))
    element = np.unravel_index(measured.element[place], samples.shapes[quantity])
    return WorstPoint(
        quantity,
        samples.dtype.name,
        float(measured.ulp[place]),
        float(measured.relative[place]),
        float(measured.condition[place]),
        point[0] if size is None else point,
        () if size is None else tuple(map(int, element)),
        float(measured.computed[place]),
        float(measured.exact[place]),
        int(np.isnan(measured.ulp).sum()),
    )


def table(rows: Iterable[WorstPoint]) -> list[str]:
    """The lines of a table of worst points."""
    head = ("quantity", "type", "ULP", "condition", "computed", "exact", "point")
    cells = [
        (
            row.quantity,
            row.dtype,
            f"{row.error:.3g}",
            f"{row.condition:.2g}",
            f"{row.computed:.9g}",
            f"{row.exact:.9g}",
            shown_point(row.point),
        )
        for row in rows
    ]
    return aligned([head, *cells])


def shown_point(point: float | tuple[float, ...]) -> str:
    """A point with all its digits."""
    return f"x = {list(point) if isinstance(point, tuple) else point!r}"


def _parts(
    function: VectorFunction | Activation | VectorActivation, hand_vjp: HandVJP | None, size: int | None
) -> tuple[VectorFunction, HandVJP | None, int | None, str]:
    """The function, its formula, its size and its name."""
    check_function("function", function, "a function of one number, or of a vector")
    if hand_vjp is not None:
        check_function("hand_vjp", hand_vjp, "a function of x and a cotangent")
    elif isinstance(function, Activation | VectorActivation):
        hand_vjp = function.pullback
    if size is not None:
        check_count("size", size, most=MOST_ELEMENTS)
    elif isinstance(function, VectorActivation):
        size = VECTOR_SIZE
    name = getattr(function, "name", None) or getattr(function, "__name__", "function").strip("<>")
    return function, hand_vjp, size, str(name)


def _types(dtypes: Sequence[str]) -> list[np.dtype]:
    known = (
        isinstance(dtypes, list | tuple) and dtypes and all(isinstance(name, str) and name in TYPES for name in dtypes)
    )
    if not known:
        raise InputError("dtypes", f"a list of names among {', '.join(TYPES)}", shown(dtypes))
    return [np.dtype(name) for name in dict.fromkeys(dtypes)]


def _check_limits(evaluations: int | None, seconds: float | None) -> None:
    if evaluations is not None:
        check_count("evaluations", evaluations)
    if seconds is not None:
        check_number("seconds", seconds, "a number above 0", lambda number: 0 < number < np.inf)
        if evaluations is not None:
            raise InputError("seconds", "None where evaluations is given", shown(seconds), "Give one of the two.")


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
