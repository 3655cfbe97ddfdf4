"""The survey of one function: its worst points by regime, and the findings among them, each with a reproduction."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import jax
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.gradients.atlas.catalog import IMPORTS, Entry
from functional_nn.gradients.atlas.regimes import regimes
from functional_nn.gradients.search.computed import GRADIENT, SECOND, VALUE
from functional_nn.gradients.search.samples import Limit, Search, take_samples
from functional_nn.gradients.search.worst import TYPES, WorstPoint, rows_of
from functional_nn.storage.files import JsonObject

WELL_CONDITIONED = 1000.0
"""The largest condition number of a finding."""
MARGIN = 2.0**10
"""The exact number of a finding must be this factor away from the ends of the type's range. Nearer to them, an
intermediate result may overflow, or fall below the smallest normal number and be replaced by 0."""


LARGEST_DRAWN = 1e4
"""Points with a larger absolute value are left out of pictures."""


@dataclass(frozen=True)
class Finding:
    """A point at which JAX loses more than half of the digits of a well-conditioned number.

    Args:
        function: the name of the function.
        regime: where the point lies.
        worst: the error at the point.
        code: two lines that reproduce it.
        printed: what they print.
    """

    function: str
    regime: str
    worst: WorstPoint
    code: str
    printed: str


Curve = tuple[np.ndarray, np.ndarray]
"""The largest errors in ULP, above the size of the points."""


@dataclass(frozen=True)
class Survey:
    """What was found about one function.

    Args:
        name: its name.
        code: an expression for it.
        rows: the worst points of each type and quantity, over all regimes.
        findings: the findings, one for each type, quantity and regime.
        not_reproduced: the number of findings that were left out, because their two lines print a number with more
            right digits. Compiled programs round differently from single operations.
        evaluations: the number of points.
        note: why it could not be evaluated; empty if it was.
        refused: quantities that JAX cannot compute, with its message.
        curves: the largest errors by type and quantity, for a picture.
    """

    name: str
    code: str
    rows: tuple[WorstPoint, ...] = ()
    findings: tuple[Finding, ...] = ()
    not_reproduced: int = 0
    evaluations: int = 0
    note: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """Converts the result for JSON, without the curves. Infinity and NaN become strings."""
        return {name: _with_infinities_as_text(value) for name, value in asdict(self).items() if name != "curves"}


def survey(entry: Entry, *, seconds: float, seed: int = 0) -> Survey:
    """Searches for the worst points of a function in both types, and reproduces what is found.

    Args:
        entry: the function.
        seconds: how long the searches may take together.
        seed: for drawing points.
    """
    rows: list[WorstPoint] = []
    findings: list[Finding] = []
    refused: dict[str, str] = {}
    curves: dict[tuple[str, str], Curve] = {}
    evaluations, not_reproduced = 0, 0
    for name in TYPES:
        try:
            search = take_samples(
                entry.function,
                None,
                size=entry.size,
                dtype=np.dtype(name),
                limit=Limit(None, seconds / len(TYPES)),
                seed=seed,
            )
        except InputError as error:
            return Survey(entry.name, entry.code, note=_reason(error))
        except Exception as error:  # whatever a function of another library raises must not end the atlas
            return Survey(entry.name, entry.code, note=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        rows += rows_of(search, entry.size)
        candidates = list(_candidates(search, entry))
        reproduced = [finding for finding in map(_reproduced, candidates) if finding is not None]
        findings += reproduced
        not_reproduced += len(candidates) - len(reproduced)
        refused |= search.samples.refused
        evaluations += len(search.samples.points)
        for quantity in search.samples.measured:
            curves[name, quantity] = _curve(search, quantity)
    if all(math.isnan(row.exact) for row in rows):
        return Survey(entry.name, entry.code, note="no exact number is known at any point", evaluations=evaluations)
    return Survey(
        entry.name, entry.code, tuple(rows), tuple(findings), not_reproduced, evaluations, "", refused, curves
    )


def _reason(error: InputError) -> str:
    """Says why the exact numbers cannot be computed. If an operation has no rule, it is named."""
    if error.expected == "operations with a rule":
        return f"no rule for {str(error.given).partition(',')[0]}"
    return str(error)


def half_digits(dtype: str) -> float:
    """The relative error with which half of a type's binary digits are wrong."""
    return math.sqrt(float(np.finfo(dtype).eps) / 2) if dtype == "float64" else 2.0**-12


def _candidates(search: Search, entry: Entry) -> Iterator[tuple[Entry, str, WorstPoint]]:
    """The worst point of each regime and quantity, if more than half of its digits are lost."""
    for regime, among in regimes(search.samples.points).items():
        for row in rows_of(search, entry.size, among & _in_range(search)):
            if is_finding(row):
                yield entry, regime, row


def _in_range(search: Search) -> np.ndarray:
    """The points at which no quantity is near the ends of the range of its type."""
    limits = np.finfo(search.samples.dtype)
    # Above this limit, also a term that is only an epsilon of the number is far from the smallest normal number.
    low = float(limits.smallest_normal) / float(limits.eps) * MARGIN
    high = float(limits.max) / MARGIN
    kept = np.ones(len(search.samples.points), bool)
    for measured in search.samples.measured.values():
        size = np.abs(measured.exact)
        kept &= np.isnan(size) | (size == 0) | ((size > low) & (size < high))
    return kept


def is_finding(row: WorstPoint) -> bool:
    """Whether more than half of the digits of a well-conditioned number are lost, beyond its conditioning."""
    if row.condition > WELL_CONDITIONED:
        return False
    if not math.isfinite(row.computed):
        return True
    return row.exact != 0 and row.excess * float(np.finfo(row.dtype).eps) > half_digits(row.dtype)


def _reproduced(candidate: tuple[Entry, str, WorstPoint]) -> Finding | None:
    """Runs the two lines of a finding; None if they print more than half of the digits right."""
    entry, regime, row = candidate
    code = reproduction(entry, row)
    printed = run_reproduction(code)
    if not is_wrong(printed, row.exact, row.dtype):
        return None
    return Finding(entry.name, regime, row, code, printed)


def is_wrong(printed: str, exact: float, dtype: str) -> bool:
    """Whether a printed number has more than half of its digits wrong."""
    number = float(printed)
    error = abs(number - exact) / abs(exact) if exact else math.inf
    return not math.isfinite(number) or error > half_digits(dtype)


def still_wrong(finding: JsonObject) -> bool:
    """Whether the two lines of a finding, read from JSON, still print a wrong number with the installed JAX."""
    worst = finding["worst"]
    return is_wrong(run_reproduction(finding["code"]), float(worst["exact"]), worst["dtype"])


def reproduction(entry: Entry, row: WorstPoint) -> str:
    """Two lines of code that print the number."""
    single = row.dtype == "float32"
    if isinstance(row.point, tuple):
        x = f"jnp.array({list(row.point)}" + (', "float32")' if single else ")")
    else:
        is_plain = not single and row.quantity != VALUE  # jax.grad makes an array of a number of Python
        x = repr(row.point) if is_plain else f"jnp.{row.dtype}({row.point!r})"
    derivative = {VALUE: "f", GRADIENT: "jax.grad(f)", SECOND: "jax.grad(jax.grad(f))"}[row.quantity]
    place = ""
    if isinstance(row.point, tuple):
        is_scalar = jax.eval_shape(entry.function, jax.ShapeDtypeStruct((len(row.point),), "float32")).shape == ()
        derivative = {VALUE: "f", GRADIENT: "jax.jacrev(f)", SECOND: "jax.hessian(f)"}[row.quantity]
        output, *elements = row.index
        if row.quantity == SECOND:
            # The search knows only ∂²f/∂xⱼ², an element of the Hessian's diagonal.
            elements = elements * 2
        indices = elements if is_scalar else [output, *elements]
        place = f"[{', '.join(map(str, indices))}]" if indices else ""
    return f"f = {entry.code}\nprint({derivative}({x}){place})"


def run_reproduction(code: str) -> str:
    """Runs the lines as a reader would, in 64-bit mode, and returns what they print."""
    with jax.enable_x64(True), contextlib.redirect_stdout(io.StringIO()) as output:
        exec(f"{IMPORTS}\n{code}", {})
    return output.getvalue().strip()


def _curve(search: Search, quantity: str) -> Curve:
    """The largest errors in bins of the size of the points: of x, or of the spread of a vector's elements."""
    points, measured = search.samples.points.astype(float), search.samples.measured[quantity]
    with np.errstate(all="ignore"):
        x = points[:, 0] if points.shape[1] == 1 else np.ptp(points, 1)
        known = (measured.condition <= WELL_CONDITIONED) & (np.abs(x) <= LARGEST_DRAWN) & ~np.isnan(measured.ulp)
    x, ulp = x[known], measured.ulp[known]
    # arcsinh is linear near 0 and logarithmic far from it, for both signs. So there are bins of useful size everywhere.
    bins = np.round(np.arcsinh(x * 10) * 8).astype(int)
    kept = [np.flatnonzero(bins == number)[np.argmax(ulp[bins == number])] for number in np.unique(bins)]
    return x[kept], ulp[kept]


def _with_infinities_as_text(value: object) -> object:
    """Converts a value for JSON. Infinity and NaN become texts, because the page shows which of them was printed."""
    if isinstance(value, dict):
        return {name: _with_infinities_as_text(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_infinities_as_text(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
