"""The search in one type: a sweep over points, then hill climbing from those with the largest errors in ULP."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.gradients.compare.captured_arrays import converted_anew
from functional_nn.gradients.search.computed import BATCH, ComputedFunction, HandVJP, errors, exact_of
from functional_nn.gradients.search.exact import ExactFunction, ExactValues, VectorFunction
from functional_nn.gradients.search.points import (
    from_ordinals,
    neighbors,
    number_points,
    ordinals,
    special_numbers,
    vector_points,
)

SWEEP_SHARE = 0.6
"""The share of the evaluations, or of the time, for the sweep. The rest is for hill climbing."""
PARENTS = 6
"""Hill climbing starts repeatedly from this many of the worst points of each quantity."""
LEAST_BATCH = 8
"""The smallest number of points that are evaluated at once."""
SUSPICIOUS = 100.0
"""Points with a larger score are confirmed: their condition numbers are also measured at neighboring points."""
SINGLE = float(np.finfo(np.float32).eps)
BESIDE = 4
"""The distance of these neighbors, counted in floating-point numbers."""
MOST_CANDIDATES = 100
"""The largest number of points that are confirmed until the worst one is found."""
CONFIRMATION = 1.0
"""The largest number of seconds for confirming points, if the search has a limit in seconds."""


class Limit(NamedTuple):
    """When a search ends: after a number of points, or after a time. Compiling does not count.

    Time is processor time, so the search does not depend on other programs on the machine.

    Args:
        evaluations: the largest number of points; None for no limit.
        seconds: the time; None for no limit.
    """

    evaluations: int | None
    seconds: float | None


class Measured(NamedTuple):
    """One quantity at points: for each point, the element whose error is largest, measured by ``score``.

    Args:
        score: the error in ULP beyond the condition of the problem, ``ulp / max(1, condition)``; NaN where the exact
            number is not known.
        ulp: the error in ULP.
        relative: the relative error.
        condition: the condition number.
        computed: the number that was computed.
        exact: the exact number, rounded to float64.
        element: the index of the number among all numbers of the quantity.
    """

    score: np.ndarray
    ulp: np.ndarray
    relative: np.ndarray
    condition: np.ndarray
    computed: np.ndarray
    exact: np.ndarray
    element: np.ndarray


@dataclass
class Samples:
    """All points of a search in one type, and what was measured there.

    Args:
        dtype: the type.
        points: the points, (points, n).
        measured: for each quantity, its errors at the points.
        shapes: for each quantity, the shape of its numbers at one point.
        refused: for each quantity that JAX cannot compute, its message.
        confirmed: for each point, whether its condition numbers were also measured beside the point.
    """

    dtype: np.dtype
    points: np.ndarray
    measured: dict[str, Measured] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    confirmed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


def take_samples(
    function: VectorFunction,
    hand_vjp: HandVJP | None,
    *,
    size: int | None,
    dtype: np.dtype,
    limit: Limit,
    seed: int,
    largest_condition: float = np.inf,
) -> Search:
    """Searches in one type.

    Args:
        function: the function of one number, or of a vector.
        hand_vjp: its hand-derived backward pass; None if there is none.
        size: the number of elements of the vector; None for a function of one number.
        dtype: the type of the points and of the computation.
        limit: when the search ends.
        seed: for drawing points.
        largest_condition: points with a larger condition number get no score.

    Raises:
        InputError: the function has an operation that cannot be evaluated in many digits.
    """
    random = np.random.default_rng(seed)
    other = np.dtype("float32" if dtype == np.float64 else "float64")

    def at_zeros() -> object:
        return function(jnp.zeros(() if size is None else size))

    # The constants of this program are rounded to the other type. ``Search.confirm`` compares the two.
    with (
        converted_anew(at_zeros),
        jax.enable_x64(other == np.float64),
        jax.numpy_dtype_promotion("standard"),
    ):
        in_other_type = ExactFunction(function, size, other)
    with (
        converted_anew(at_zeros),
        jax.enable_x64(dtype == np.float64),
        jax.numpy_dtype_promotion("standard"),
    ):
        exact = ExactFunction(function, size, dtype)
        computed = ComputedFunction(function, hand_vjp, size, dtype)
        if size is None:
            sweep = number_points(special_numbers(function, dtype), dtype, random)
        else:
            sweep = vector_points(size, dtype, random)
        computed.at(sweep[:1])  # compiles
        search = Search(exact, in_other_type, computed, dtype, limit, largest_condition)
        search.sweep(sweep, random)
        search.climb(random)
    return search


class Search:
    """A search in one type: its samples, and how to make more."""

    def __init__(
        self,
        exact: ExactFunction,
        in_other_type: ExactFunction,
        computed: ComputedFunction,
        dtype: np.dtype,
        limit: Limit,
        largest_condition: float,
    ):
        self._exact, self._in_other_type, self._computed = exact, in_other_type, computed
        self._evaluations, self._seconds = limit
        self._largest_condition = largest_condition
        # A function of one number is evaluated 5 times for each point. Vectors need more, so they get smaller batches.
        most = min(BATCH, 5 * BATCH // exact.evaluations)
        self._batch = max(LEAST_BATCH, most) if limit.seconds is None else LEAST_BATCH
        self._began = time.process_time()
        self.samples = Samples(dtype, np.zeros((0, 0), dtype), refused=computed.refused)

    @property
    def _deadline(self) -> float:
        return np.inf if self._seconds is None else self._began + self._seconds

    def _share(self) -> float:
        """The share of the limit that is used up."""
        if self._evaluations is not None:
            return len(self.samples.points) / self._evaluations
        return (time.process_time() - self._began) / (self._deadline - self._began)

    def sweep(self, points: np.ndarray, random: np.random.Generator) -> None:
        """Evaluates points in batches. If they exceed the limit, every k-th point and the first few are taken."""
        if self._evaluations is not None:
            room = max(1, int(SWEEP_SHARE * self._evaluations))
            first = points[: room // 2]
            rest = points[room // 2 :]
            spread = rest[np.linspace(0, len(rest) - 1, min(len(rest), room - len(first))).astype(int)]
            points = np.concatenate([first, spread])
        else:
            # Time decides how many points there are, so each batch goes across the whole sweep.
            points = random.permutation(points)
        start = 0
        while start < len(points) and (not start or self._share() < SWEEP_SHARE):
            batch = points[start : start + self._batch]
            self._evaluate(batch)
            start += len(batch)

    def climb(self, random: np.random.Generator) -> None:
        """Evaluates neighbors of the worst points until the limit is reached."""
        while self._share() < 1:
            parents = self._parents()
            if not len(parents):
                return
            room = self._batch
            if self._evaluations is not None:
                room = min(room, self._evaluations - len(self.samples.points))
            # Neighbors that are not normal numbers are left out, so more are drawn than are needed.
            drawn = neighbors(parents, 2 * room, random)
            if not len(drawn):
                return
            self._evaluate(drawn[:room])

    def worst(self, quantity: str, among: np.ndarray | None = None) -> int | None:
        """The index of the point with the largest score; None if there is no point with a known exact number.

        Args:
            quantity: the quantity.
            among: a mask of the points to choose from; by default all.
        """
        samples = self.samples
        excluded = np.zeros(len(samples.points), bool) if among is None else ~among
        for _ in range(MOST_CANDIDATES):
            scores = np.nan_to_num(samples.measured[quantity].score, nan=-1.0, posinf=np.inf)
            scores[excluded] = -1.0
            if not len(scores) or scores.max() < 0:
                return None
            place = int(np.argmax(scores))
            if samples.confirmed[place] or scores[place] < SUSPICIOUS:
                return place
            self.confirm(np.asarray([place]))
        return None

    def _parents(self) -> np.ndarray:
        """The worst points of each quantity. Infinite errors cannot grow, so they are no parents."""
        places = np.zeros(0, int)
        # Confirming lowers scores, so other points may become the worst ones.
        for _ in range(3):
            chosen: list[int] = []
            for measured in self.samples.measured.values():
                score = np.where(np.isfinite(measured.score), measured.score, -1)
                best = np.argsort(-score, kind="stable")[:PARENTS]
                chosen += best[score[best] > 0].tolist()
            places = np.unique(np.asarray(chosen, int))
            suspicious = np.any([m.score[places] > SUSPICIOUS for m in self.samples.measured.values()], 0)
            unconfirmed = places[suspicious & ~self.samples.confirmed[places]]
            if not len(unconfirmed):
                break
            self.confirm(unconfirmed)
        return self.samples.points[places]

    @np.errstate(all="ignore")
    def confirm(self, places: np.ndarray) -> None:
        """Measures the condition numbers of points in two other ways, and takes the largest.

        The first way uses the change of the exact number at neighbors that are 4 floating-point numbers away. A result
        that is right for such a neighbor is not counted as wrong. Only these differences show that a derivative jumps
        near the point, as beside a kink. At the edge of a domain there is no neighbor, and the condition number is
        infinite.

        The second way uses the change of the exact number if the program's constants are rounded to float32. For
        example, log(2 cosh x) - log(2) near 0 is a difference of nearly equal numbers. The rounding of its constant
        decides all its digits.
        """
        samples = self.samples
        centers = samples.points[places]
        count = centers.shape[1]
        # (2 · elements, points, elements): along each axis a neighbor below and one above.
        moved = np.repeat(centers[None], 2 * count, 0)
        for axis in range(count):
            for number, steps in enumerate((-BESIDE, BESIDE)):
                beside = ordinals(np.ascontiguousarray(centers[:, axis])) + steps
                moved[2 * axis + number, :, axis] = from_ordinals(beside, samples.dtype)
        everything = np.concatenate([centers[None], moved]).reshape(-1, count)
        deadline = np.inf if self._seconds is None else time.process_time() + CONFIRMATION
        with jax.enable_x64(samples.dtype == np.float64):
            exact = self._exact.at(everything.astype(np.float64), deadline)
        with jax.enable_x64(samples.dtype != np.float64):
            other = self._in_other_type.at(centers.astype(np.float64), deadline)
        spacing = BESIDE * float(np.finfo(samples.dtype).eps)
        for quantity, measured in samples.measured.items():
            right = exact_of(quantity, exact)
            rows = np.arange(len(places))
            high, low = (
                array.reshape(2 * count + 1, len(places), -1)[:, rows, measured.element[places]]
                for array in (right.high, right.low)
            )
            # The larger change of the two neighbors along each axis. The axes are added up, as in Σₖ |xₖ ∂ₖq|.
            change = np.abs((high[1:] - high[0]) + (low[1:] - low[0])).reshape(count, 2, -1).max(1).sum(0)
            by_constants = exact_of(quantity, other).high.reshape(len(places), -1)[rows, measured.element[places]]
            # Changes per relative change: of x by the distance of the neighbors, and of constants by float32's epsilon.
            changes = (change / spacing, np.abs(by_constants - high[0]) / SINGLE)
            condition = measured.condition[places]
            for absolute in changes:
                found = np.where(absolute == 0, 0, absolute / np.abs(high[0]))
                condition = np.maximum(condition, np.where(np.isnan(found), np.inf, found))
            measured.condition[places] = condition
            measured.score[places] = _score(measured.ulp[places], condition, self._largest_condition)
        samples.confirmed[places] = True

    def _adapt(self, seconds: float) -> None:
        """Changes the size of the batches, if time is limited, so that one takes a small share of the time."""
        if self._seconds is None:
            return
        if seconds > self._seconds / 5:
            self._batch = max(LEAST_BATCH, self._batch // 2)
        elif seconds < self._seconds / 10:
            self._batch = min(BATCH, self._batch * 2)

    def _evaluate(self, points: np.ndarray) -> None:
        began = time.process_time()
        exact = self._exact.at(points.astype(np.float64), self._deadline)
        results = self._computed.at(points)
        self._adapt(time.process_time() - began)
        samples = self.samples
        # Before the first points, their number of elements is not known.
        samples.points = np.concatenate([samples.points, points]) if len(samples.points) else points
        samples.confirmed = np.concatenate([samples.confirmed, np.zeros(len(points), bool)])
        for quantity, computed in results.items():
            new = self._measure(quantity, computed, exact)
            samples.shapes[quantity] = computed.shape[1:]
            old = samples.measured.get(quantity)
            joined = new if old is None else Measured(*map(np.concatenate, zip(old, new, strict=True)))
            samples.measured[quantity] = joined

    @np.errstate(all="ignore")
    def _measure(self, quantity: str, computed: np.ndarray, exact: ExactValues) -> Measured:
        right = exact_of(quantity, exact)
        found = errors(computed, right, self.samples.dtype)
        score = _score(found.ulp, right.condition, self._largest_condition)
        arrays = (score, found.ulp, found.relative, right.condition, computed.astype(np.float64), right.high)
        rows = [array.reshape(len(computed), -1) for array in arrays]
        element = np.argmax(np.nan_to_num(rows[0], nan=-1.0, posinf=np.inf), 1)
        score, ulp, relative, condition, number, high = (row[np.arange(len(row)), element] for row in rows)
        return Measured(score, ulp, relative, condition, number, high, element)


@np.errstate(all="ignore")
def _score(ulp: np.ndarray, condition: np.ndarray, largest_condition: float) -> np.ndarray:
    """The error beyond conditioning. NaN for points that are left out: an infinite condition number says nothing."""
    score = ulp / np.maximum(1, condition)
    return np.where((condition <= largest_condition) & np.isfinite(condition), score, np.nan)
