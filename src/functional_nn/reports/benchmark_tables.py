"""Benchmarks as text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functional_nn.bench.compare.regression import Comparison
from functional_nn.bench.measure.benchmark import in_flops
from functional_nn.bench.measure.execution_modes import Mode
from functional_nn.bench.measure.suite import NEAR_BEST, Measured, knee
from functional_nn.bench.measure.timing import in_seconds


def called(measured: Measured) -> str:
    """What was measured, in words."""
    return f"{measured.result.name}, batch {measured.batch_size}, {measured.precision}"


def programs(measured: Sequence[Measured]) -> str:
    """A row for each program: its times, rates, and shares of the peaks."""
    heads = ("program", "batch", "precision", "compile", "a call", "quartiles", "an example", "operations", "of peak")
    rows: list[tuple[str, ...]] = [(*heads, "bytes", "of peak", "nearest bound")]
    for one in measured:
        result, shares = one.result, one.result.shares
        low, high = (result.donated or result.steady).quartiles
        rows.append(
            (
                *(result.name, str(one.batch_size), one.precision, in_seconds(result.stages["compile"])),
                *(
                    in_seconds(result.seconds),
                    f"{in_seconds(low)} - {in_seconds(high)}",
                    in_seconds(one.seconds_per_example),
                ),
                *(f"{in_flops(result.flops_per_second)}/s", f"{shares['compute']:.0%}"),
                *(f"{result.bytes_per_second / 1e9:.3g} GB/s", f"{shares['memory']:.0%}"),
                f"{result.bound} {shares[result.bound]:.0%}",
            )
        )
    return _aligned(rows)


def knees(measured: Sequence[Measured]) -> str:
    """A line for each kind of program of several batch sizes: from which on more examples gain little."""
    groups: dict[tuple[str, str, int], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.what, one.precision, one.members), []).append(one)
    lines = []
    for (_, precision, _), group in groups.items():
        if len(group) > 1:
            size = knee([one.batch_size for one in group], [one.result.seconds for one in group])
            share = f"{NEAR_BEST:.0%} of the best throughput"
            lines.append(f"knee of {group[0].result.name}, {precision}: batch {size} has {share}")
    return "\n".join(lines)


def modes(several: Sequence[Mode], batch_size: int, precision: str) -> str:
    """A row for each mode."""
    quickest = min(mode.timing.median for mode in several)
    rows = [("mode", "first call", "a step", "quartiles", "× the quickest")]
    for mode in several:
        low, high = mode.timing.quartiles
        median = mode.timing.median
        spread = f"{in_seconds(low)} - {in_seconds(high)}"
        rows.append((mode.name, in_seconds(mode.compile), in_seconds(median), spread, f"{median / quickest:.2f}"))
    return f"\ntrain steps in four modes, batch {batch_size}, {precision}\n{_aligned(rows)}"


def comparisons(compared: Sequence[Comparison]) -> str:
    """A row for each program that was measured before."""
    rows = [("new time / old time", "ratio", "beside a product's", "", "old one's date")]
    rows += [(one.what, str(one.time), str(one.relative), one.verdict, one.date) for one in compared]
    return f"\n{_aligned(rows)}"


def _aligned(rows: Sequence[Sequence[Any]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
