"""HTML page of benchmarks, with tables and pictures. It needs the extra ``[plots]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from functional_nn.bench.network_programs import Mode
from functional_nn.bench.records import Record, RecordComparison, platform_notes
from functional_nn.bench.suite import Measured
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.reports.pages.page import as_svg, check_libraries, write_template
from functional_nn.reports.plots import benchmark as plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(
    path: str | Path,
    about: Record,
    measured: Sequence[Measured],
    modes: Mapping[tuple[int, str], Sequence[Mode]],
    compared: Sequence[RecordComparison] = (),
) -> None:
    """Writes a page of what ``functional-nn bench`` measured.

    Args:
        path: the file, in a folder that exists.
        about: the environment of the measurements, and the model.
        measured: the programs.
        modes: the modes of a train step, by batch size and precision.
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
        "modes": modes,
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
        drawn["Roofline"] = plots.roofline(measured)
    if len({one.case.batch_size for one in measured if one.case.what != "sweep"}) > 1:
        drawn["Time against batch size"] = plots.batch_sizes(measured)
    if len({one.case.members for one in measured if one.case.what == "sweep"}) > 1:
        drawn["Time against the number of models"] = plots.populations(measured)
    for one in measured:
        if any(cost.timing for cost in one.result.layers):
            title = f"Layers of a train step, batch {one.case.batch_size}, {one.case.precision}"
            drawn[title] = plots.layer_times(one.result.layers)
    return drawn
