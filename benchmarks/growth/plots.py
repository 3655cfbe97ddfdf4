"""The pictures of `docs/explanation/growth.md`: cost against size on logarithmic axes, with the bends ringed."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.growth.curves import CURVES, NAMES, OURS
from benchmarks.growth.page import Line

STYLES = {
    "functional_nn": ("#0072b2", "o"),
    "functional_nn_repeat": ("#56b4e9", "P"),
    "functional_nn_vmap": ("#cc79a7", "v"),
    "jax": ("#595959", "D"),
    "equinox": ("#009e73", "^"),
    "pytorch": ("#d55e00", "s"),
}
"""Colors that color-blind readers can tell apart, and a marker for each. The background is white in both themes."""
FEW_POINTS = 4
"""With so few points, each has its own tick."""
PALETTE = 96
"""Colors of a picture. Fewer would change the lines where they are blended with the background."""
SCALES = {"s": (1e3, "ms"), "bytes": (1e-6, "MB")}


def plot(lines: dict[str, list[Line]]) -> Figure:
    """A panel for each curve, two in a row."""
    columns = 2 if len(lines) != 3 else 3
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(4.4 * columns if columns == 2 else 11, 3.1 * rows), layout="constrained", dpi=100)
    figure.set_facecolor("white")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, of_curve) in zip(grid, lines.items(), strict=False):
        _panel(axes, name, of_curve)
    for axes in list(grid):
        axes.set_axis_off()
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture with a palette of few colors, which makes the file a third as large."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    PIL.Image.open(content).convert("RGB").quantize(PALETTE).save(path, optimize=True)


def _panel(axes: Axes, name: str, lines: list[Line]) -> None:
    curve = CURVES[name]
    scale, unit = SCALES[curve.unit]
    for line in lines:
        color, marker = STYLES[line.entry]
        costs = [cost * scale for cost in line.costs]
        # A broad line below the others can still be seen where they have the same numbers.
        size = {"ms": 7, "lw": 3} if line.entry == OURS else {"ms": 4, "lw": 1.4}
        axes.plot(line.sizes, costs, color=color, marker=marker, label=NAMES[line.entry].replace("`", ""), **size)
        found = line.growth
        if found is not None and found.bend is not None:
            bend = costs[line.sizes.index(int(found.bend))]
            axes.plot([found.bend], [bend], "o", ms=14, mfc="none", mec=color, mew=1.3)
    axes.set(xscale="log", yscale="log", xlabel=curve.size, ylabel=unit)
    axes.set_title(curve.title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter(
        lambda value, place: f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:.0f} million"
    )
    axes.xaxis.set_minor_formatter(lambda value, place: "")
    if len(curve.points) <= FEW_POINTS:
        axes.set_xticks(curve.points, minor=False)
        axes.set_xticks([], minor=True)
    # Only 1, 2 and 5 times a power of ten get a text. The others would overlap.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:,g}")
    axes.yaxis.set_minor_formatter(lambda value, place: "")
    axes.legend(frameon=False, fontsize=8)
