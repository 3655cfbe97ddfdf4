"""Axes of plots, their limits and scales, and the texts of values on them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from functional_nn.core.errors import check, escaped, imported
from functional_nn.core.validation import check_choice
from functional_nn.sweeps.grid import PlainValue
from functional_nn.sweeps.results import SweepResult, check_result, shown_value
from functional_nn.training.evaluate import larger_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS = 200
"""The length of a line of text in a picture. Names and values may come from a stranger's file."""

POINT, MEAN, BAD = "#0072b2", "#d55e00", "#b2182b"


def import_matplotlib() -> None:
    """Imports matplotlib without reading a ``matplotlibrc`` in the working directory, which may be hostile.

    Raises:
        InputError: if it is missing.
    """
    # The working directory is that of all threads, and may be one that cannot be gone back to.
    is_in_the_way = "matplotlib" not in sys.modules and os.path.lexists("matplotlibrc")
    with _in_own_folder() if is_in_the_way else nullcontext():
        imported("matplotlib", "page", extra="plots")


@contextmanager
def _in_own_folder() -> Iterator[None]:
    """Leaves the working directory, and comes back to the same one, also if its path leads to another one by then."""
    if os.chdir not in os.supports_fd:  # Windows
        with chdir(Path(__file__).parent):
            yield
        return
    before = os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(Path(__file__).parent)
        yield
    finally:
        os.chdir(before)
        os.close(before)


def default_style() -> AbstractContextManager[None]:
    """matplotlib's own settings while the command draws."""
    import matplotlib.style

    return matplotlib.style.context("default")


def plain_axes(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure, and an array of its axes with the shape (rows, columns)."""
    from functional_nn.reports.plots.figure import ShownFigure

    figure = ShownFigure(figsize=(width, height), layout="constrained", dpi=120)
    return figure, figure.subplots(rows, columns, squeeze=False)


def make_axes(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Axes for curves and points: without a frame on the upper and the right side, and with a light grid."""
    figure, grid = plain_axes(rows, columns, width=width, height=height)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, grid


def is_share(metric: str) -> bool:
    """Whether a metric is a share of the examples, between 0 and 1."""
    return metric.endswith("accuracy")


def limit_accuracy(axes: Axes, metric: str = "test_accuracy") -> None:
    """Ends the vertical axis of an accuracy at 0 and 1, where matplotlib's margin would go beyond them."""
    if is_share(metric):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, 1.0))


def scale_losses(axes: Axes, values: np.ndarray, metric: str) -> None:
    """Makes the vertical axis logarithmic for losses that span several powers of ten."""
    values = values[np.isfinite(values)]
    if not larger_is_better(metric) and len(values) and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        # Only 1, 2 and 5 times a power of ten get a text, over many decades only the powers. The others would overlap.
        leading = "125" if values.max() / values.min() < 1e3 else "1"
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(lambda value, place: f"{value:g}" if f"{value:e}"[0] in leading else "")


def check_hyperparameters(result: SweepResult, names: str | Sequence[str], argument: str) -> list[str]:
    """Checks names of hyper-parameters of a sweep, and returns them as a list."""
    check_result(result)
    are_texts = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    check(argument, names, "names of hyper-parameters", are_texts)
    names = [names] if isinstance(names, str) else list(names)
    known = result.members[0].hyperparameters if result.members else {}
    return [check_choice(argument, name, known) for name in names]


def values_of(result: SweepResult, name: str) -> list[PlainValue]:
    """The values of a hyper-parameter: numbers in ascending order, others in the order of the grid."""
    values = list(dict.fromkeys(member.hyperparameters[name] for member in result.members))
    return sorted(values) if are_numbers(values) else values


def are_numbers(values: Sequence[object]) -> TypeGuard[Sequence[float]]:
    """Whether all values are numbers. True and False are not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def tick_texts(values: Sequence[object]) -> list[str]:
    """The texts of values on an axis."""
    return [as_plain_text(shown_value(value)) for value in values]


def as_plain_text(text: str, most: int = 24) -> str:
    r"""A name from the file system for a picture: cut, without control characters, and without formulas in $…$.

    >>> as_plain_text("5 $ or 10 $"), as_plain_text("a" * 9, 4)
    ('5 \\$ or 10 \\$', 'aaa…')
    """
    text = escaped(text)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def with_plain_texts(figure: Figure) -> Figure:
    """The figure with its texts cut and without formulas: they may come from a stranger's file."""
    from matplotlib.text import Text

    # The texts of ticks are set again while they are drawn.
    for text in figure.findobj(Text):
        lines = text.get_text().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
        text.set(text="\n".join(as_plain_text(line, MOST_LETTERS) for line in lines))
    return figure
