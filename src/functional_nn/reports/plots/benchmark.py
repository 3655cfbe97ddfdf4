"""Pictures of benchmarks, as matplotlib figures; matplotlib is the extra ``functional-nn[plots]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.bench.measure.layer_times import LayerCost
from functional_nn.bench.measure.peaks import Peaks
from functional_nn.bench.measure.suite import NEAR_BEST, Measured, knee
from functional_nn.reports.plots.axes import make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
INK = "#595959"


def roofline(measured: Sequence[Measured]) -> Figure:
    """Operations a second against operations per byte, below the roof that was measured beside them."""
    peaks = Peaks(tuple(rate for one in measured for rate in one.result.peaks.rates))
    top, slope = peaks.flops_per_second, peaks.bytes_per_second
    found = [(one.result.flops / max(one.result.bytes, 1), one.result.flops_per_second) for one in measured]
    ridge = top / slope
    low = min(ridge, *(intensity for intensity, _ in found)) / 4
    high = max(ridge, *(intensity for intensity, _ in found)) * 6
    figure, ((axes,),) = make_axes(1, 1, width=8.5, height=4.6)
    roof = np.geomspace(low, high, 200)
    axes.plot(roof, np.minimum(top, roof * slope) / 1e9, color=INK, lw=1.6)
    axes.text(high / 1.1, top / 1e9 * 1.12, f"{top / 1e9:.0f} GFLOP/s", ha="right", fontsize=9)
    middle = (low * ridge) ** 0.5
    beside = {"xytext": (8, -12), "textcoords": "offset points", "fontsize": 9}
    axes.annotate(f"{slope / 1e9:.0f} GB/s", (middle, middle * slope / 1e9), **beside)
    for (what, precision), group in _groups(measured).items():
        number = len(axes.collections)
        points = np.array(
            [(one.result.flops / max(one.result.bytes, 1), one.result.flops_per_second / 1e9) for one in group]
        )
        axes.scatter(
            *points.T,
            s=42,
            color=COLORS[number % 6],
            marker=MARKERS[number % 6],
            label=_label(what, precision),
            zorder=3,
        )
        for one, (x, y) in zip(group, points, strict=True):
            text = f"{one.members} at once" if what == "sweep" else f"batch {one.batch_size}"
            place = {"xytext": (0, -13), "textcoords": "offset points", "ha": "center", "fontsize": 7.5}
            if len(measured) <= 12:
                axes.annotate(text, (x, y), color=INK, **place)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", xlim=(low, high))
    axes.set_ylim(min(rate for _, rate in found) / 4e9, top / 1e9 * 2)
    _plain(axes)
    axes.set_title("What the device allows, and what the programs reach", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def batch_sizes(measured: Sequence[Measured]) -> Figure:
    """Time of a call, and examples a second, against the batch size, with the knee of each line marked."""
    figure, ((left, right),) = make_axes(1, 2, width=10, height=4.2)
    groups = {key: group for key, group in _groups(measured).items() if key[0] != "sweep" and len(group) > 1}
    for number, ((what, precision), group) in enumerate(groups.items()):
        sizes = [one.batch_size for one in group]
        seconds = [one.result.seconds for one in group]
        low, high = np.array([(one.result.donated or one.result.steady).quartiles for one in group]).T
        style = {"color": COLORS[number % 6], "marker": MARKERS[number % 6], "ms": 4}
        left.plot(sizes, np.array(seconds) * 1e3, label=_label(what, precision), **style)
        left.fill_between(sizes, low * 1e3, high * 1e3, color=style["color"], alpha=0.2, lw=0)
        right.plot(sizes, np.array(sizes) / seconds, **style)
        at = knee(sizes, seconds)
        rate = at / seconds[sizes.index(at)]
        right.plot([at], [rate], "o", ms=13, mfc="none", mec=style["color"], mew=1.6)
        right.annotate(f"{at}", (at, rate), xytext=(0, 11), textcoords="offset points", ha="center", fontsize=9)
    left.set(xlabel="batch size", ylabel="ms a call", xscale="log", yscale="log")
    right.set(xlabel="batch size", ylabel="examples a second", xscale="log", yscale="log")
    for axes in (left, right):
        _plain(axes)
        ticks = sorted({one.batch_size for one in measured})
        axes.set_xticks(ticks, [f"{size}" if len(ticks) <= 7 or not i % 2 else "" for i, size in enumerate(ticks)])
    left.set_title("time of a call, quartiles", loc="left", fontsize=11)
    right.set_title(f"throughput; ringed: {NEAR_BEST:.0%} of the best", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=9)
    return figure


def populations(measured: Sequence[Measured]) -> Figure:
    """Time of a model's step against how many are trained at once, and that of one after another."""
    figure, ((axes,),) = make_axes(1, 1, width=7, height=4.2)
    for number, ((_, precision), group) in enumerate(
        (key, group) for key, group in _groups(measured).items() if key[0] == "sweep"
    ):
        color = COLORS[number % 6]
        members = np.array([one.members for one in group])
        seconds = np.array([one.result.seconds for one in group])
        low, high = np.array([(one.result.donated or one.result.steady).quartiles for one in group]).T / members
        axes.plot(members, seconds / members * 1e3, "o-", color=color, ms=5, label=f"vmap, {precision}")
        axes.fill_between(members, low * 1e3, high * 1e3, color=color, alpha=0.2, lw=0)
        if 1 in members:
            alone = float(seconds[members == 1][0]) * 1e3
            axes.axhline(alone, color=color, ls=(0, (4, 3)), lw=1.2, label=f"one after another, {precision}")
    axes.set(xlabel="models at once", ylabel="ms for each model's step", xscale="log")
    axes.set_ylim(0, 2e3 * max(one.result.seconds / one.members for one in measured if one.what == "sweep"))
    _plain(axes)
    axes.set_xticks(sorted({one.members for one in measured}))
    axes.set_title("Does training at once pay?", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    return figure


def layer_times(costs: Sequence[LayerCost]) -> Figure:
    """How long each layer's part takes alone, forward and backward."""
    names = list(dict.fromkeys(cost.layer for cost in costs if cost.timing))
    figure, ((axes,),) = make_axes(1, 1, width=7.5, height=1.4 + 0.42 * len(names))
    for backward, color, shift in ((False, COLORS[0], -0.2), (True, COLORS[1], 0.2)):
        own = [
            (names.index(cost.layer), cost.timing.median) for cost in costs if cost.timing and cost.backward == backward
        ]
        label = "backward" if backward else "forward"
        axes.barh([place + shift for place, _ in own], [s * 1e6 for _, s in own], 0.38, color=color, label=label)
        for place, seconds in own:
            note = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            axes.annotate(f"{seconds * 1e6:.3g}", (seconds * 1e6, place + shift), **note)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="µs, each part compiled and run alone")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _groups(measured: Sequence[Measured]) -> dict[tuple[str, str], list[Measured]]:
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.what, one.precision), []).append(one)
    return {key: sorted(group, key=lambda one: (one.batch_size, one.members)) for key, group in groups.items()}


def _label(what: str, precision: str) -> str:
    return what if precision == "float32" else f"{what}, {precision}"


def _plain(axes: Axes) -> None:
    """Numbers on logarithmic axes as they are read: 0.1, 10, 1000."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, place: f"{value:g}")
        axis.set_minor_formatter(lambda value, place: "")
