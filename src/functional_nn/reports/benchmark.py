"""Tables of benchmarks, as texts of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from functional_nn.bench.benchmark import LEAST_SHOWN
from functional_nn.bench.network_programs import BenchmarkCase, Measured
from functional_nn.bench.records import RecordComparison
from functional_nn.bench.targets import TargetReport
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.core.errors import escaped
from functional_nn.core.texts import WIDTH, aligned
from functional_nn.storage.arrays import listed


def title(measured: Measured) -> str:
    """What was measured, in words."""
    case = measured.case
    steps = f", {case.steps} steps per call" if case.steps > 1 else ""
    return f"{measured.result.name}, batch {case.batch_size}, {case.precision}{steps}"


def targets(cases: Sequence[BenchmarkCase], reports: Sequence[TargetReport]) -> str:
    """A row for each program that was compiled for a chip, with a lower bound of its time."""
    rows = [("program", "batch", "type", "compile", "memory", "step at least")]
    for case, report in zip(cases, reports, strict=True):
        compile_time = in_seconds(report.stages["compile"]) if report.compiles else "fails"
        memory = in_bytes(report.memory.peak) if report.memory else ""
        step = in_seconds(report.lower_bound / report.steps)
        rows.append((report.name, str(case.batch_size), case.precision, compile_time, memory, step))
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
        rates = f"{in_flops(result.flops_per_second)}/s", f"{in_bytes(result.bytes_per_second)}/s"
        bound = f"{result.nearest_bound} {share:.0%}" if share >= LEAST_SHOWN else "none"
        rows.append((*_names(one), *rates, f"{result.at_least}{result.roofline:.0%}", bound))
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
        lines += textwrap.wrap(listed(one.differences), WIDTH, initial_indent="  other ", subsequent_indent="    ")
    lines += [f"{what}: no older record" for what in without]
    return "\n".join(map(escaped, lines))  # the older records come from a file


def _names(measured: Measured) -> tuple[str, str, str]:
    return measured.result.name, str(measured.case.batch_size), measured.case.precision
