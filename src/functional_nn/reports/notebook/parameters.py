"""Parameters in a notebook and in a terminal: a tree with shapes, types and statistics of each array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functional_nn.bench.units import in_bytes
from functional_nn.core.display import html_repr
from functional_nn.core.texts import aligned
from functional_nn.core.trees import PyTree
from functional_nn.reports.notebook.charts import histogram
from functional_nn.reports.notebook.markup import Html, badge, code, faint, fold, joined, table, title, view

BINS = 21
"""The number of bars in a histogram."""
MOST_MEASURED = 2**24
"""Of a larger array, statistics other than the number of non-finite elements use elements at equal distances."""
OPEN_ARRAYS, OPEN_GROUP = 24, 8
"""A tree with at most the first number of arrays is shown open, and in others a group with at most the second."""
HEADS = ("array", "shape", "type", "mean", "std", "min", "max", "non-finite", "histogram")


class Statistics(NamedTuple):
    """Statistics of the finite elements of an array.

    Args:
        mean, deviation, smallest, largest: of the finite elements; NaN if there are none.
        non_finite: the number of elements that are NaN or infinite.
        counts: the numbers of elements in equal intervals from the smallest to the largest.
    """

    mean: float
    deviation: float
    smallest: float
    largest: float
    non_finite: int
    counts: tuple[int, ...]


class ArrayRow(NamedTuple):
    """One array of a tree: its path, shape and type, and its statistics; None if its elements have none."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    size: int
    bytes: int
    statistics: Statistics | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Shape, type, mean, standard deviation, smallest, largest, and the number of non-finite elements."""
        about = self.statistics
        if about is None:
            return str(self.shape), self.dtype, "", "", "", "", ""
        numbers = (about.mean, about.deviation, about.smallest, about.largest)
        texts = ("" if math.isnan(number) else f"{number:.3g}" for number in numbers)
        return str(self.shape), self.dtype, *texts, f"{about.non_finite:,}" if about.non_finite else "0"


@dataclass(frozen=True)
class ParameterTable:
    """The arrays of a pytree. It shows itself as a tree in a notebook, and as a table elsewhere."""

    rows: tuple[ArrayRow, ...]

    def __str__(self) -> str:
        names = ["/".join(row.path) or "array" for row in self.rows]
        lines = [HEADS[:-1], *((name, *row.cells) for name, row in zip(names, self.rows, strict=True))]
        bad = _non_finite(self.rows)
        ending = f"{_sizes(self.rows)}, {bad:,} of them not finite" if bad else _sizes(self.rows)
        return "\n".join([*aligned(lines, numbers_from=3), ending])

    __repr__ = __str__
    _repr_html_ = html_repr


def parameter_table(tree: PyTree) -> ParameterTable:
    """The arrays of a pytree with their statistics.

    >>> parameter_table({"dense_0": {"bias": np.array([1.0, 3.0, np.inf])}})
    array         shape  type     mean  std  min  max  non-finite
    dense_0/bias  (3,)   float64     2    1    1    3           1
    3 numbers in 1 array, 24 B, 1 of them not finite
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ParameterTable(tuple(_array_row(path, leaf) for path, leaf in leaves))


def _array_row(path: jax.tree_util.KeyPath, leaf: PyTree) -> ArrayRow:
    names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    size = math.prod(leaf.shape)
    item = getattr(leaf.dtype, "itemsize", 0)
    return ArrayRow(names, tuple(leaf.shape), str(leaf.dtype), size, size * item, _statistics(leaf))


def _statistics(leaf: PyTree) -> Statistics | None:
    """The statistics of an array; None if it has no real numbers, or if its elements are not there."""
    is_known = isinstance(leaf, np.ndarray | np.generic) or (
        isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and not leaf.is_deleted()
    )
    if not is_known or not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool):
        return None
    if jnp.issubdtype(leaf.dtype, np.complexfloating):
        return None
    flat = np.asarray(leaf).ravel()
    is_finite = np.isfinite(flat)
    non_finite = int(flat.size - is_finite.sum())
    # All elements were looked at for NaN, which is fast. Statistics of float64 copies would take time and memory.
    every = max(1, flat.size // MOST_MEASURED)
    values = flat[::every][is_finite[::every]].astype(np.float64)
    if not values.size:
        return Statistics(math.nan, math.nan, math.nan, math.nan, non_finite, ())
    low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest float64
        mean, deviation = float(values.mean()), float(values.std())
        wide = math.isfinite(high - low)
    # A range that is infinite or empty cannot be divided into bins.
    counts = np.histogram(values, BINS)[0] if wide and high > low else [int(values.size)]
    return Statistics(mean, deviation, low, high, non_finite, tuple(map(int, counts)))


def parameters_html(shown: ParameterTable) -> str:
    """A tree that opens and closes: a fold for each group, and a table of its arrays."""
    rows = shown.rows
    is_open = len(rows) <= OPEN_ARRAYS
    return view(title("Parameters", faint(_sizes(rows)), _alarm(rows)), *_group(rows, 0, is_open))


def _group(rows: Sequence[ArrayRow], level: int, is_open: bool) -> Iterator[Html]:
    """The arrays that are in this group itself, and a fold for each group inside."""
    own = [row for row in rows if len(row.path) <= level + 1]
    if own:
        yield table(HEADS, [_cells(row) for row in own], numbers=range(3, 8), label="arrays", classes="fnn-leaves")
    inner: Mapping[str, list[ArrayRow]] = {}
    for row in rows:
        if len(row.path) > level + 1:
            inner.setdefault(row.path[level], []).append(row)
    for name, group in inner.items():
        line = joined((code(name), " ", faint(_sizes(group)), " ", _alarm(group)))
        opens = is_open or (level == 0 and len(group) <= OPEN_GROUP and len(inner) <= OPEN_GROUP)
        yield fold(line, *_group(group, level + 1, is_open), is_open=opens)


def _cells(row: ArrayRow) -> tuple[str, ...]:
    *cells, non_finite = row.cells
    if row.statistics is None:
        return (_name(row), *cells, "", faint("no statistics"))
    about = row.statistics
    alarm = badge(non_finite, "bad") if about.non_finite else faint(non_finite)
    label = f"histogram from {about.smallest:.3g} to {about.largest:.3g}"
    return (_name(row), *cells, alarm, histogram(about.counts, label) if about.counts else Html(""))


def _name(row: ArrayRow) -> Html:
    return code(row.path[-1] if row.path else "array")


def _sizes(rows: Sequence[ArrayRow]) -> str:
    arrays = "1 array" if len(rows) == 1 else f"{len(rows)} arrays"
    return f"{sum(row.size for row in rows):,} numbers in {arrays}, {in_bytes(sum(row.bytes for row in rows))}"


def _alarm(rows: Sequence[ArrayRow]) -> Html:
    bad = _non_finite(rows)
    return badge(f"✗ {bad:,} not finite", "bad") if bad else Html("")


def _non_finite(rows: Sequence[ArrayRow]) -> int:
    return sum(row.statistics.non_finite for row in rows if row.statistics is not None)
