"""The picture of an atlas: errors against x for each function with a finding; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.gradients.atlas.survey import LARGEST_DRAWN, Survey, half_digits
from functional_nn.reports.plots.axes import make_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"value": "0.55", "gradient": "#d55e00", "second derivative": "#0072b2"}
LEAST, MOST = 0.3, 1e17
"""The range of errors shown, in ULP. Smaller errors are drawn on the lower edge; larger ones and NaN on the upper."""
COLUMNS = 5


def plot_atlas(surveys: Sequence[Survey], dtype: str = "float64") -> Figure:
    """Draws the largest errors in ULP against x, one small picture for each function with a finding.

    Args:
        surveys: the results of the atlas.
        dtype: the type of the computation.
    """
    found = [survey for survey in surveys if survey.findings]
    rows = max(1, math.ceil(len(found) / COLUMNS))
    figure, grid = make_axes(rows, COLUMNS, width=13, height=1.75 * rows + 0.6)
    for axes, survey in zip(grid.flat, found, strict=False):
        for quantity, color in COLORS.items():
            if (dtype, quantity) in survey.curves:
                x, ulp = survey.curves[dtype, quantity]
                shown = np.clip(np.nan_to_num(ulp, nan=MOST, posinf=MOST), LEAST, MOST)
                axes.plot(x, shown, ".", ms=3, color=color, label=quantity)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xticks([-1000, -10, 0, 10, 1000], ["−10³", "−10", "0", "10", "10³"])
        least = min((x.min() for x, _ in survey.curves.values() if len(x)), default=0.0)
        axes.set_xlim(-LARGEST_DRAWN if least < 0 else 0.0, LARGEST_DRAWN)
        axes.set_yscale("log")
        axes.set_ylim(LEAST / 2, MOST * 5)
        axes.set_yticks([1, 1e8, 1e16])
        axes.minorticks_off()
        axes.tick_params(labelsize=6)
        axes.axhline(half_digits(dtype) / np.finfo(dtype).eps, color="0.35", lw=0.7, ls=(0, (4, 3)))
        axes.set_title(survey.name.removeprefix("jax."), fontsize=7, loc="left")
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    # A picture may lack a quantity, so the legend is collected from all of them.
    by_label = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        by_label |= dict(zip(labels, handles, strict=True))
    names = [name for name in COLORS if name in by_label]
    place = {"loc": "outside upper right", "ncols": 3, "frameon": False}
    figure.legend([by_label[name] for name in names], names, **place, markerscale=3, fontsize=8)
    figure.suptitle(f"Error in ULP ({dtype}); half of the digits are lost above the dashed line", x=0.01, ha="left")
    return figure
