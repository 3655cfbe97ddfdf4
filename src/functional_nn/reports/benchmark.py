"""Tables, pictures and the HTML page of benchmarks; the last two need the extra ``[plots]``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.bench.benchmark import LEAST_SHOWN, WIDTH
from functional_nn.bench.layer_times import LayerCost
from functional_nn.bench.peaks import Peaks
from functional_nn.bench.records import Record, RecordComparison, platform_notes
from functional_nn.bench.suite import Measured
from functional_nn.bench.targets import TargetCase
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.core.errors import escaped
from functional_nn.core.texts import aligned
from functional_nn.reports.page import as_svg, check_libraries, write_template
from functional_nn.reports.plots.axes import make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_page(
    path: str | Path,
    about: Record,
    measured: Sequence[Measured],
    compared: Sequence[RecordComparison] = (),
) -> None:
    """Writes a page of what ``functional-nn bench`` measured.

    Args:
        path: the file, in a folder that exists.
        about: the environment of the measurements, and the model.
        measured: the programs.
        compared: comparisons with older records.

    Raises:
        InputError: if Jinja or matplotlib is missing, or the file cannot be written.
    """
    check_libraries(("jinja2", "matplotlib"))
    pictures = [(title, as_svg(figure, title, title, {})) for title, figure in figures(measured).items()]
    findings = list(dict.fromkeys(finding for one in measured for finding in one.result.findings.findings))
    values = {
        "title": f"functional_nn: {about['model']} on {about['device']}",
        "about": about,
        "notes": platform_notes(about),
        "measured": measured,
        "compared": compared,
        "findings": findings,
        "pictures": pictures,
    }
    filters = {"time": in_seconds, "flops": in_flops, "size": in_bytes}
    write_template("benchmark.html", path, filters, values, follow_links=True)


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """The pictures for these measurements, by title."""
    drawn: dict[str, Figure] = {}
    if measured:
        drawn["Roofline"] = roofline(measured)
    if len({one.case.batch_size for one in measured if one.case.what != "sweep"}) > 1:
        drawn["Time against batch size"] = batch_sizes(measured)
    if len({one.case.members for one in measured if one.case.what == "sweep"}) > 1:
        drawn["Time against the number of models"] = populations(measured)
    for one in measured:
        if any(cost.timing for cost in one.result.layers):
            title = f"Layers of a train step, batch {one.case.batch_size}, {one.case.precision}"
            drawn[title] = layer_times(one.result.layers)
    return drawn


COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
INK = "#595959"
MOST_ANNOTATED = 12
"""With more programs than this, the points of a roofline have no labels of their own."""


def roofline(measured: Sequence[Measured]) -> Figure:
    """Plots operations per second against operations per byte, below the measured peaks."""
    peaks = Peaks(tuple(rate for one in measured for rate in one.result.peaks.rates))
    top, slope = peaks.flops_per_second, peaks.bytes_per_second
    # At the ridge, arithmetic and moving bytes take the same time. Left of it the bytes limit, right of it the
    # arithmetic.
    ridge = top / slope
    intensities = [_intensity(one) for one in measured]
    low, high = min(ridge, *intensities) / 4, max(ridge, *intensities) * 6
    figure, ((axes,),) = make_axes(1, 1, width=8.5, height=4.6)
    roof = np.geomspace(low, high, 200)
    axes.plot(roof, np.minimum(top, roof * slope) / 1e9, color=INK, lw=1.6)
    axes.text(high / 1.1, top / 1e9 * 1.12, f"{top / 1e9:.0f} GFLOP/s", ha="right", fontsize=9)
    # The middle of the slope on a logarithmic axis.
    middle = (low * ridge) ** 0.5
    axes.annotate(
        f"{slope / 1e9:.0f} GB/s",
        (middle, middle * slope / 1e9),
        xytext=(8, -12),
        textcoords="offset points",
        fontsize=9,
    )
    for number, ((what, precision), group) in enumerate(_groups(measured).items()):
        x = [_intensity(one) for one in group]
        y = [one.result.flops_per_second / 1e9 for one in group]
        color, marker = COLORS[number % 6], MARKERS[number % 6]
        axes.scatter(x, y, s=42, color=color, marker=marker, label=_label(what, precision), zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", xlim=(low, high))
    axes.set_ylim(min(one.result.flops_per_second for one in measured) / 4e9, top / 1e9 * 2)
    _plain(axes)
    axes.set_title("The device's peaks, and what the programs reach", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if len(measured) <= MOST_ANNOTATED:
        _annotate(figure, axes, measured)
    return figure


def _annotate(figure: Figure, axes: Axes, measured: Sequence[Measured]) -> None:
    """Writes batch sizes and numbers of models beside the points; none where it would cover a point or another text."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # gives the axes their place
    points = [(_intensity(one), one.result.flops_per_second / 1e9) for one in measured]
    spots = axes.transData.transform(points)
    marker = 4 * figure.dpi / 72
    taken = [Bbox.from_extents(*(spot - marker), *(spot + marker)) for spot in spots]
    for one, point in zip(measured, points, strict=True):
        name = f"{one.case.members} models" if one.case.what == "sweep" else f"batch {one.case.batch_size}"
        for offset, side in (((0, -13), "center"), ((0, 7), "center"), ((8, -3), "left"), ((-8, -3), "right")):
            label = axes.annotate(
                name, point, color=INK, xytext=offset, textcoords="offset points", ha=side, fontsize=7.5
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def batch_sizes(measured: Sequence[Measured]) -> Figure:
    """Plots the time of a step, and examples per second, against the batch size."""
    figure, ((left, right),) = make_axes(1, 2, width=10, height=4.2)
    groups = {key: group for key, group in _groups(measured).items() if key[0] != "sweep" and len(group) > 1}
    for number, ((what, precision), group) in enumerate(groups.items()):
        color, marker = COLORS[number % 6], MARKERS[number % 6]
        sizes = [one.case.batch_size for one in group]
        seconds = [one.step.median for one in group]
        low, high = np.array([one.step.quartiles for one in group]).T
        left.plot(sizes, np.array(seconds) * 1e3, label=_label(what, precision), color=color, marker=marker, ms=4)
        left.fill_between(sizes, low * 1e3, high * 1e3, color=color, alpha=0.2, lw=0)
        right.plot(sizes, np.array(sizes) / seconds, color=color, marker=marker, ms=4)
    left.set(xlabel="batch size", ylabel="ms per step", xscale="log", yscale="log")
    right.set(xlabel="batch size", ylabel="examples per second", xscale="log", yscale="log")
    for axes in (left, right):
        _plain(axes)
        ticks = sorted({one.case.batch_size for one in measured})
        every = 1 if len(ticks) <= 7 else 2  # more labels would overlap
        axes.set_xticks(ticks, [f"{size}" if number % every == 0 else "" for number, size in enumerate(ticks)])
    left.set_title("time of a step, quartiles", loc="left", fontsize=11)
    right.set_title("throughput", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=9)
    return figure


def populations(measured: Sequence[Measured]) -> Figure:
    """Plots the time of each model's step against the number of models in a sweep, beside that of a single model."""
    figure, ((axes,),) = make_axes(1, 1, width=7, height=4.2)
    groups = {precision: group for (what, precision), group in _groups(measured).items() if what == "sweep"}
    longest = 0.0
    for number, (precision, group) in enumerate(groups.items()):
        color = COLORS[number % 6]
        members = np.array([one.case.members for one in group])
        seconds = np.array([one.step.median for one in group]) / members
        low, high = np.array([one.step.quartiles for one in group]).T / members
        axes.plot(members, seconds * 1e3, "o-", color=color, ms=5, label=f"sweep, {precision}")
        axes.fill_between(members, low * 1e3, high * 1e3, color=color, alpha=0.2, lw=0)
        if 1 in members:
            alone = float(seconds[members == 1][0]) * 1e3
            axes.axhline(alone, color=color, ls=(0, (4, 3)), lw=1.2, label=f"one after another, {precision}")
        longest = max(longest, *seconds)
    axes.set(xlabel="models in the sweep", ylabel="ms for each model's step", xscale="log")
    axes.set_ylim(0, 2e3 * longest)
    _plain(axes)
    axes.set_xticks(sorted({one.case.members for one in measured}))
    axes.set_title("Is a sweep faster than one run after another?", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    return figure


def layer_times(costs: Sequence[LayerCost]) -> Figure:
    """Plots the time of each layer's part alone, forward and backward."""
    names = list(dict.fromkeys(cost.layer for cost in costs if cost.timing))
    figure, ((axes,),) = make_axes(1, 1, width=7.5, height=1.4 + 0.42 * len(names))
    for backward, color, shift in ((False, COLORS[0], -0.2), (True, COLORS[1], 0.2)):
        rows, microseconds = [], []
        for cost in costs:
            if cost.timing and cost.backward == backward:
                rows.append(names.index(cost.layer) + shift)
                microseconds.append(cost.timing.median * 1e6)
        axes.barh(rows, microseconds, 0.38, color=color, label="backward" if backward else "forward")
        for row, time in zip(rows, microseconds, strict=True):
            axes.annotate(
                f"{time:.3g}", (time, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="µs, each part compiled and run alone")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _intensity(measured: Measured) -> float:
    """Operations per byte."""
    return measured.result.flops / max(measured.result.bytes, 1)


def _groups(measured: Sequence[Measured]) -> dict[tuple[str, str], list[Measured]]:
    """The measurements by program and precision, from small to large."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.case.what, one.case.precision), []).append(one)
    for group in groups.values():
        group.sort(key=lambda one: (one.case.batch_size, one.case.members))
    return groups


def _label(what: str, precision: str) -> str:
    return what if precision == "float32" else f"{what}, {precision}"


def _plain(axes: Axes) -> None:
    """Writes numbers on logarithmic axes without exponents: 0.1, 10, 1000."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, place: f"{value:g}")
        axis.set_minor_formatter(lambda value, place: "")


def title(measured: Measured) -> str:
    """What was measured, in words."""
    case = measured.case
    steps = f", {case.steps} steps per call" if case.steps > 1 else ""
    return f"{measured.result.name}, batch {case.batch_size}, {case.precision}{steps}"


def targets(several: Sequence[TargetCase]) -> str:
    """A row for each program that was compiled for a chip, with a lower bound of its time."""
    rows = [("program", "batch", "type", "compile", "memory", "step at least")]
    for case, report in several:
        rows.append(
            (
                report.name,
                str(case.batch_size),
                case.precision,
                in_seconds(report.stages["compile"]) if report.compiles else "fails",
                in_bytes(report.memory.peak) if report.memory else "",
                in_seconds(report.lower_bound / report.steps),
            )
        )
    return "\n".join([*aligned(rows), "The times of a step follow from published peaks. Nothing was measured."])


def times(measured: Sequence[Measured]) -> str:
    """A row for each program: its compile time, and the time of a step and of an example."""
    rows = [("program", "batch", "type", "compile", "a step (quartiles)", "an example")]
    for one in measured:
        compile_time = in_seconds(one.result.stages["compile"])
        rows.append((*_names(one), compile_time, one.step.describe(), in_seconds(one.seconds_per_example)))
    return "\n".join(aligned(rows))


def shares(measured: Sequence[Measured]) -> str:
    """A row for each program: its rates, its share of the roofline, and the bound that is nearest."""
    rows = [("program", "batch", "type", "operations", "bytes", "roofline", "nearest bound")]
    for one in measured:
        result = one.result
        share = result.shares[result.nearest_bound]
        rows.append(
            (
                *_names(one),
                f"{in_flops(result.flops_per_second)}/s",
                f"{in_bytes(result.bytes_per_second)}/s",
                f"{result.at_least}{result.roofline:.0%}",
                f"{result.nearest_bound} {share:.0%}" if share >= LEAST_SHOWN else "none",
            )
        )
    missing = {one.result.name: one.result.uncounted_text for one in measured if one.result.uncounted}
    return "\n".join([*aligned(rows), *(f"not counted in {name}: {text}" for name, text in missing.items())])


def comparisons(compared: Sequence[RecordComparison], without: Sequence[str] = ()) -> str:
    """The verdict, the ratios of new to old time and the differing settings of each program that was measured before.

    ``without`` describes the programs that were not.
    """
    lines = ["", "new time / old time (95% interval), and the same relative to a matrix product"]
    for one in compared:
        lines.append(f"{one.what}: {one.verdict}")
        lines.append(f"  {one.time}, relative {one.relative}, record of {one.date[:10]}")
        for difference in one.differences:
            lines += textwrap.wrap(difference, WIDTH, initial_indent="  other ", subsequent_indent="    ")
    lines += [f"{what}: no older record" for what in without]
    return "\n".join(map(escaped, lines))  # the older records come from a file


def _names(measured: Measured) -> tuple[str, str, str]:
    return measured.result.name, str(measured.case.batch_size), measured.case.precision
