"""Which function makes the HTML of which class. Its module is imported when such an object is first shown."""

from __future__ import annotations

import importlib

MAKERS = {
    "functional_nn.bench.diagnose.findings.Explanation": "benchmarks.explanation_html",
    "functional_nn.bench.diagnose.findings.Finding": "benchmarks.finding_html",
    "functional_nn.bench.measure.result.Benchmark": "benchmarks.benchmark_html",
    "functional_nn.bench.targets.report.TargetReport": "benchmarks.target_html",
    "functional_nn.core.layer.Layer": "networks.layer_html",
    "functional_nn.core.progress.ProgressState": "runs.progress_html",
    "functional_nn.data.dataset.Dataset": "datasets.dataset_html",
    "functional_nn.data.dataset.Split": "datasets.split_html",
    "functional_nn.gradients.compare.report.Report": "gradients.report_html",
    "functional_nn.gradients.compare.verdict.Verdict": "gradients.verdict_html",
    "functional_nn.gradients.search.worst.Worst": "gradients.worst_html",
    "functional_nn.jaxprs.non_finite.report.NonFinite": "runs.non_finite_html",
    "functional_nn.reports.notebook.parameters.ParameterTable": "parameters.parameters_html",
    "functional_nn.reports.summary.Summary": "networks.summary_html",
    "functional_nn.sweeps.member.Member": "sweeps.member_html",
    "functional_nn.sweeps.results.SweepResult": "sweeps.sweep_html",
    "functional_nn.training.run.EpochHistory": "runs.history_html",
    "functional_nn.training.run.Run": "runs.run_html",
}
"""The full name of each class, and its function with the name of its module in this folder."""


def html_of(value: object) -> str:
    """The HTML of an object whose class, or a class above it, has a maker."""
    for kind in type(value).__mro__:
        maker = MAKERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if maker is not None:
            module, function = maker.split(".")
            return getattr(importlib.import_module(f"{__package__}.{module}"), function)(value)
    raise TypeError(f"{type(value).__name__} has no maker in {__name__}.MAKERS.")
