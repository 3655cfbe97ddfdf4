"""Benchmarks in a notebook: times, shares of the device's peak, the bound, layers, and causes of slowness."""

from __future__ import annotations

from functional_nn.bench.diagnose.findings import Explanation, Finding
from functional_nn.bench.measure.result import Benchmark
from functional_nn.bench.targets.report import TargetReport
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.core.texts import words
from functional_nn.reports.notebook.markup import Html, badge, code, facts, faint, fold, joined, table, tag, title, view


def benchmark_html(result: Benchmark) -> str:
    """The time first, then what limits it, the rates, and the layers."""
    shares = result.shares
    compute = f"{result.at_least}{shares['compute']:.0%} of {in_flops(result.peaks.flops_per_second)}/s"
    moved = f"{shares['memory']:.0%} of {in_bytes(result.peaks.bytes_per_second)}/s"
    stages = ", ".join(f"{words(name)} {in_seconds(seconds)}" for name, seconds in result.stages.items())
    pairs = [
        ("bound", result.verdict),
        ("roofline", f"{result.at_least}{result.roofline:.0%} of what the peaks allow"),
        ("operations", f"{in_flops(result.flops)}, {in_flops(result.flops_per_second)}/s, {compute}"),
        ("bytes", f"{in_bytes(result.bytes)}, {in_bytes(result.bytes_per_second)}/s, {moved}"),
        ("memory", str(result.memory) if result.memory else "not reported by this platform"),
        ("before it runs", stages),
    ]
    if result.uncounted:
        pairs.append(("not counted", result.uncounted_text))
    parts = [title(result.name, tag("strong", in_seconds(result.seconds)), faint(f"a call: {result.timing}"))]
    parts.append(facts(pairs))
    timed = [(cost, cost.timing.median) for cost in result.layers if cost.timing]
    if timed:
        heads = ("layer alone", "time", "operations", "bytes")
        rows = [
            (
                code(f"{cost.layer} backward" if cost.backward else cost.layer),
                in_seconds(seconds),
                in_flops(cost.flops),
                in_bytes(cost.bytes),
            )
            for cost, seconds in timed
        ]
        parts.append(fold("layers", table(heads, rows, numbers=(1, 2, 3), label="layers"), is_open=len(rows) <= 12))
    return view(*parts, *map(_warning, result.findings.findings))


def target_html(report: TargetReport) -> str:
    """Whether the program compiles, its lower bound, and all facts."""
    verdict = badge("✓ compiles", "good") if report.compiles else badge("✗ does not compile", "bad")
    bound = faint(f"at least {in_seconds(report.lower_bound)} a call; nothing was run")
    return view(title(f"{report.name} for {report.chip.name}", verdict, bound), facts(list(report.facts())))


def explanation_html(explanation: Explanation) -> str:
    """Each cause of slowness with its remedy, or that there is none."""
    found = explanation.findings
    if not found:
        return view(title("Nothing to warn of", badge("✓", "good")))
    count = "One cause of slowness" if len(found) == 1 else f"{len(found)} causes of slowness"
    return view(title(count), *map(_warning, found))


def finding_html(finding: Finding) -> str:
    """One cause of slowness with its remedy."""
    return view(_warning(finding))


def _warning(finding: Finding) -> Html:
    where = joined((" in ", code(finding.layer))) if finding.layer else Html("")
    return tag("p", badge(f"! {finding.kind}", "open"), where, f": {finding.message} ", tag("strong", finding.remedy))
