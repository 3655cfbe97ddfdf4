"""The page docs/explanation/tails.md: three tables of errors, and a list of those that are too large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.tails.measure import (
    GRADIENT,
    LIBRARIES,
    MOST_RELATIVE,
    MOST_ULP,
    NEAR,
    SECOND,
    TYPES,
    UNDERFLOW,
    VALUE,
    WELL_CONDITIONED,
    Row,
)

Place = tuple[str, str, str, str]
"""Function, regime, quantity and type."""
SHOWN = {"functional_nn": "functional_nn", "jax": "JAX", "pytorch": "PyTorch"}
COMMAND = "python -m benchmarks tails --out docs/explanation/tails.md"

ABOUT = f"""\
# Errors in the tails

A formula that is right on paper can lose all of its digits: where a function becomes flat, for logits that lie far
apart, near ties, and for tiny or huge numbers. Such a range of inputs is a *regime*. This page shows the largest
relative errors of functional_nn, JAX and PyTorch that were measured, for each function and each regime.
`{COMMAND}` makes the page.

## How to read the tables

Each number is a relative error, |computed - exact| / |exact|, at the worst point of the regime. If the exact number is
0, the error is divided by the smallest normal number of the type. Rounding alone makes an error of 1e-16 in float64,
and of 6e-8 in float32. An error of 1 means that no digit is right. Numbers above the limit are bold. A † means that at
least one computed number is 0, although the exact number is not 0. This is a *silent 0*, and it is always above the
limit.

- **functional_nn** is the package's function, its gradient by the hand-derived formula, and the derivative of the
  formula by `jax.grad`.
- **JAX** is the function of `jax.nn` or of Optax, with `jax.grad` applied once and twice. The loss
  `negative_log_likelihood` selects from `jax.nn.log_softmax`. For layers, and for losses that Optax does not have, the
  package's own function is used, also with `jax.grad`.
- **PyTorch** is the function of `torch.nn.functional`, or the cell of `torch.nn`, with autograd applied once and twice.
- A **dash** means that no number counts, that there is no such function or derivative, or that PyTorch was not
  installed.
- The **second derivative** is the diagonal of the Hessian.
- **Exact** numbers come from the function's own program, evaluated with 50 to 1000 digits until two evaluations agree
  ([where is it worst?](../how_to/checking_gradients.md#where-is-it-worst)).
- The **condition number** is the relative change of the exact number divided by the relative change of the input that
  causes it.
- The **limit** is {MOST_ULP:g} ULP (units in the last place) for functions of one number. For functions of a vector and
  for cells, it is {MOST_RELATIVE["float64"]:g} in float64 and {MOST_RELATIVE["float32"]:g} in float32.
  If the condition number is above 1, the limit is multiplied by it. One ULP counts as at least the smallest normal
  number. So near underflow, an error of 1 can be within the limit.
- The **worst point** has the largest error, after division by the condition number if that is above 1. Each library has
  its own worst point. So in one row, a larger error can be within the limit and a smaller one above it.
- **What counts**: numbers with a condition number of at most {WELL_CONDITIONED:g}, if the exact number is a normal
  number of the type, or 0. Kinks do not count.

The regimes:

- **normal**: numbers up to 4, and neighbors of 1, 3 and 6, where some functions have kinks. For vectors, random numbers
  with a standard deviation of 1.
- **tails**: sizes from 4 to 200, with both signs. For probabilities, numbers near 0 and 1.
- **margins**: one logit is ahead by 0 to 200. For cells, each gate is open or closed by up to 200.
- **near ties**: logits that are nearly equal, probabilities near the label, vectors that are nearly parallel.
- **near 0** and **huge**: sizes down to 1e-30, and up to a fraction of the largest number of the type.
- **subnormal**: inputs below the smallest normal number. XLA on a CPU reads them as 0. So if a function has a kink
  at 0, its derivative is the one chosen for the kink. Losses of probabilities are infinite.
- **masked**: one more logit is -∞.
- **near underflow**: results within a factor of {NEAR:g} of the smallest normal number, for any inputs. XLA replaces
  an intermediate result below the smallest normal number by 0.
"""


def page(rows: Sequence[Row], circumstances: dict, versions: dict[str, str]) -> str:
    """The text of the page.

    Args:
        rows: all measured rows.
        circumstances: the date and the machine, as in the records of the benchmarks.
        versions: the versions of the libraries.
    """
    date, cpu, cores = circumstances["date"][:10], circumstances["cpu"], circumstances["cores"]
    numbers = ", ".join(f"{library} {number}" for library, number in versions.items())
    about = (
        f"Date: {date}. Machine: {cpu}, {cores} cores, {circumstances['system']}; Python {circumstances['python']}, "
    )
    parts = [ABOUT, f"{about}{numbers}.\n", *_totals(rows), *_too_large(rows)]
    parts += ["## The gradient\n", *_table(rows, GRADIENT, _regimes(rows, GRADIENT))]
    for quantity in (VALUE, SECOND):
        above = {(row.function, row.regime) for row in rows if row.quantity == quantity and row.is_above_limit}
        shown = [regime for regime in _regimes(rows, quantity) if regime in above]
        others = f"{len(_regimes(rows, quantity)) - len(shown)} other rows"
        parts.append(f"## The {quantity}\n")
        parts.append(f"The table has only rows with a number above the limit. In {others} all are within the limit.\n")
        parts += _table(rows, quantity, shown)
    return "\n".join(parts)


def summary(rows: Sequence[Row]) -> list[str]:
    """For each library, how many numbers are above the limit."""
    lines = []
    for library in LIBRARIES:
        rows_of_package = [row for row in rows if row.package == library]
        if rows_of_package:
            above = sum(row.is_above_limit for row in rows_of_package)
            lines.append(f"{SHOWN[library]}: {above} of {len(rows_of_package)} above the limit")
    return lines


def _totals(rows: Sequence[Row]) -> Iterable[str]:
    yield "## In short\n"
    yield "Each function, regime, quantity and type counts once. The regimes *at the lower end* are subnormal and near"
    yield "underflow, where XLA replaces numbers by 0. In the last column, the limit is not multiplied by the condition"
    yield "number.\n"
    yield "| | compared | above the limit | of these, at the lower end | with a silent 0 | above without the factor |"
    yield "|---|---|---|---|---|---|"
    for library in LIBRARIES:
        rows_of_package = [row for row in rows if row.package == library]
        counts = (
            len(rows_of_package),
            sum(row.is_above_limit for row in rows_of_package),
            sum(row.is_above_limit and row.regime in ("subnormal", UNDERFLOW) for row in rows_of_package),
            sum(row.silent_zeros > 0 for row in rows_of_package),
            sum(row.is_above_plain_limit for row in rows_of_package),
        )
        if rows_of_package:
            yield f"| {SHOWN[library]} | {' | '.join(map(str, counts))} |"
    yield ""


def _too_large(rows: Sequence[Row]) -> Iterable[str]:
    """The list of what is above the limit in functional_nn, with the other libraries' errors in the same place."""
    by_place = {(_place(row), row.package): row for row in rows}
    above = [row for row in rows if row.package == "functional_nn" and row.is_above_limit]
    yield "## Where functional_nn is above the limit\n"
    if not above:
        yield "Nowhere.\n"
        return
    yield "Each row shows the worst point of functional_nn. The last two columns have the largest errors of JAX and"
    yield "PyTorch in the same regime. `--json FILE` writes the worst point of every library, with all digits.\n"
    yield "| function | regime | what | error | condition | point | computed | exact | JAX | PyTorch |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in above:
        others = [_cell(by_place.get((_place(row), library))) for library in ("jax", "pytorch")]
        point = ", ".join(f"{element:.6g}" for element in row.point)
        cells = (
            row.function,
            row.regime,
            f"{row.quantity}, {row.dtype}",
            _cell(row),
            f"{row.condition:.2g}",
            point,
            f"{row.computed:.2g}",
            f"{row.exact:.2g}",
            *others,
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _regimes(rows: Sequence[Row], quantity: str) -> list[tuple[str, str]]:
    """Each function with each of its regimes, in order."""
    return list(dict.fromkeys((row.function, row.regime) for row in rows if row.quantity == quantity))


def _table(rows: Sequence[Row], quantity: str, regimes: Sequence[tuple[str, str]]) -> Iterable[str]:
    if not regimes:
        return
    found = {(_place(row), row.package): row for row in rows}
    columns = [(dtype, library) for dtype in TYPES for library in LIBRARIES]
    heads = [f"{dtype}: {SHOWN[library]}" for dtype, library in columns]
    yield f"| function | regime | {' | '.join(heads)} |"
    yield "|" + "---|" * (2 + len(columns))
    for function, regime in regimes:
        cells = [_cell(found.get(((function, regime, quantity, dtype), library))) for dtype, library in columns]
        yield f"| {function} | {regime} | {' | '.join(cells)} |"
    yield ""


def _place(row: Row) -> Place:
    return (row.function, row.regime, row.quantity, row.dtype)


def _cell(row: Row | None) -> str:
    """A relative error with two digits, in bold if it is above the limit, with a mark for a silent 0."""
    if row is None:
        return "—"
    text = "0" if row.relative == 0 else f"{row.relative:.1e}"
    if not math.isfinite(row.relative):
        text = "not finite"
    if row.silent_zeros:
        text += " †"
    return f"**{text}**" if row.is_above_limit else text
