"""The largest relative errors of one function in each regime, type and quantity, for each library."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import jax
import numpy as np

from benchmarks.tails import pytorch
from benchmarks.tails.cases import Case
from functional_nn.gradients.search.computed import (
    FORMULA,
    GRADIENT,
    OF_FORMULA,
    SECOND,
    VALUE,
    ComputedFunction,
    errors,
    exact_of,
)
from functional_nn.gradients.search.exact import ExactFunction, ExactNumbers

QUANTITIES = (VALUE, GRADIENT, SECOND)
TYPES = ("float64", "float32")
LIBRARIES = ("functional_nn", "jax", "pytorch")
OURS = {VALUE: VALUE, GRADIENT: FORMULA, SECOND: OF_FORMULA}
"""For each quantity, the result of functional_nn that is compared."""
WELL_CONDITIONED = 1000.0
"""Numbers with a larger condition number are left out."""
UNDERFLOW = "near underflow"
"""The regime of results that are nearly too small for the type. It has points from all other regimes."""
NEAR = 1024.0
"""A result is near underflow if it is below this factor times the smallest normal number."""
MOST_ULP = 8.0
"""The largest allowed error of functional_nn for functions of one number, in units in the last place."""
MOST_RELATIVE = {"float64": 1e-14, "float32": 1e-6}
"""The largest allowed relative errors of functional_nn for functions of vectors and for cells."""


@dataclass(frozen=True)
class Row:
    """The number with the largest error that one library computed.

    Args:
        function: the name of the function.
        regime: where the points lie.
        quantity: value, gradient or second derivative.
        dtype: the type of the computation.
        package: the library that computed it.
        size: the number of elements of the point; None for a function of one number.
        relative: the relative error.
        ulp: the error in units in the last place.
        condition: the condition number.
        silent_zeros: how many numbers were computed as 0, although the exact number is not too small for the type.
        point: the elements of the point.
        computed: what was computed.
        exact: the exact number.
        numbers: how many numbers were compared.
    """

    function: str
    regime: str
    quantity: str
    dtype: str
    package: str
    size: int | None
    relative: float
    ulp: float
    condition: float
    silent_zeros: int
    point: tuple[float, ...]
    computed: float
    exact: float
    numbers: int

    @property
    def is_above_limit(self) -> bool:
        """Whether the error is above the limit times the condition number, or there are silent zeros."""
        factor = max(1.0, self.condition)
        if self.size is None:
            return bool(self.silent_zeros) or self.ulp > MOST_ULP * factor
        return bool(self.silent_zeros) or self.relative > MOST_RELATIVE[self.dtype] * factor

    @property
    def is_above_plain_limit(self) -> bool:
        """Whether the error is above the limit itself, whatever the condition number is."""
        if self.size is None:
            return self.ulp > MOST_ULP
        return self.relative > MOST_RELATIVE[self.dtype]

    def to_dict(self) -> dict:
        return asdict(self)


def measure(case: Case, seed: int = 0) -> list[Row]:
    """Measures all regimes of a function in both types."""
    return [row for dtype in TYPES for row in _measure_in(case, np.dtype(dtype), seed)]


def _measure_in(case: Case, dtype: np.dtype, seed: int) -> list[Row]:
    regimes = case.points(dtype, np.random.default_rng(seed))
    count = 1 if case.size is None else case.size
    regimes = {name: points[:, :count] for name, points in regimes.items()}
    every = np.concatenate(list(regimes.values()))
    names = np.repeat(list(regimes), [len(points) for points in regimes.values()])
    with jax.enable_x64(dtype == np.float64), jax.numpy_dtype_promotion("standard"):
        exact = ExactFunction(case.ours, case.size, dtype).at(every.astype(np.float64))
        found = _computed(case, every, dtype)
    rows = []
    for library, numbers in found.items():
        for quantity, computed in numbers.items():
            part = _Part(case, quantity, dtype, library, every, computed.astype(dtype), exact_of(quantity, exact))
            near_end = part.is_near_underflow()
            of_regimes = [(regime, part.at(names == regime) & ~near_end) for regime in regimes]
            worst = [part.worst(regime, among) for regime, among in [*of_regimes, (UNDERFLOW, near_end)]]
            rows += [row for row in worst if row is not None]
    return rows


def _computed(case: Case, points: np.ndarray, dtype: np.dtype) -> dict[str, dict[str, np.ndarray]]:
    """Computes all quantities at all points with each library."""
    ours = ComputedFunction(case.ours, case.hand_vjp, case.size, dtype).at(points)
    theirs = ours
    if case.plain is not None:
        theirs = ComputedFunction(case.plain, None, case.size, dtype).at(points)
    found = {
        "functional_nn": {quantity: ours[name] for quantity, name in OURS.items()},
        "jax": {quantity: theirs[quantity] for quantity in QUANTITIES},
    }
    if case.pytorch is not None and pytorch.is_installed():
        found["pytorch"] = pytorch.derivatives(case.pytorch, points, case.size)
    return found


@dataclass(frozen=True)
class _Part:
    """All numbers that one library computed for one quantity, (points, m) or (points, m, n)."""

    case: Case
    quantity: str
    dtype: np.dtype
    package: str
    points: np.ndarray
    computed: np.ndarray
    exact: ExactNumbers

    def at(self, points: np.ndarray) -> np.ndarray:
        """Turns a mask of points into a mask of the numbers at these points."""
        return np.broadcast_to(points.reshape(-1, *[1] * (self.computed.ndim - 1)), self.computed.shape)

    def is_near_underflow(self) -> np.ndarray:
        size = np.abs(self.exact.high)
        return (size > 0) & (size < NEAR * float(np.finfo(self.dtype).smallest_normal))

    @np.errstate(all="ignore")
    def worst(self, regime: str, among: np.ndarray) -> Row | None:
        """The number in a mask with the largest error divided by its condition number; None if none can be compared."""
        limits, condition = np.finfo(self.dtype), self.exact.condition
        found = errors(self.computed, self.exact, self.dtype)
        size = np.abs(self.exact.high)
        is_normal = (size >= float(limits.smallest_normal)) & (size <= float(limits.max))
        counts = among & (is_normal | (size == 0)) & (condition <= WELL_CONDITIONED)
        if not counts.any():
            return None
        excess = np.where(counts, found.relative / np.maximum(1, condition), -1)
        place = np.unravel_index(np.argmax(excess), excess.shape)
        zeros = counts & is_normal & (self.computed == 0)
        return Row(
            function=self.case.name,
            regime=regime,
            quantity=self.quantity,
            dtype=self.dtype.name,
            package=self.package,
            size=self.case.size,
            relative=float(found.relative[place]),
            ulp=float(found.ulp[place]),
            condition=float(condition[place]),
            silent_zeros=int(zeros.sum()),
            point=tuple(map(float, self.points[place[0]])),
            computed=float(self.computed[place]),
            exact=float(self.exact.high[place]),
            numbers=int(counts.sum()),
        )
