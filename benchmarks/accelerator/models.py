"""`bench` and `explain` of named models: a step's time, its share of the roofline, and the first finding."""

from __future__ import annotations

from collections.abc import Iterator

import functional_nn as fnn
from benchmarks.accelerator.parts import Record, Settings
from functional_nn.bench.measure.suite import cases_of
from functional_nn.bench.measure.suite import measure as measured
from functional_nn.bench.measure.workloads import named_network, workload

MODELS, MODELS_SMALL = ("mlp", "cnn", "lstm", "transformer"), ("mlp",)
BATCH_SIZE, BATCH_SIZE_SMALL = 128, 32
SECONDS, SECONDS_SMALL = 1.0, 0.1


def measure(settings: Settings) -> Iterator[Record]:
    """Yields the programs of `fit` of each model, measured, and what `explain` finds in a single train step."""
    batch_size = BATCH_SIZE_SMALL if settings.small else BATCH_SIZE
    for model in MODELS_SMALL if settings.small else MODELS:
        if settings.left < 0:
            yield {"model": model, "problem": "left out: the time of this part is over"}
            continue
        network = named_network(model)
        seconds = SECONDS_SMALL if settings.small else SECONDS
        (one,) = measured(network, cases_of(["train"], [batch_size], ["float32"]), seconds=seconds)
        step = workload("step", network, batch_size)
        found = fnn.explain(step.function, *step.arguments, donate=step.donate)
        result = one.result
        findings = dict.fromkeys((*result.findings.findings, *found.findings))
        yield {
            "model": model,
            "batch_size": batch_size,
            "step_seconds": one.step.median,
            "compile_seconds": result.stages["compile"],
            "roofline": result.roofline,
            "verdict": result.verdict,
            "shares": result.shares,
            "findings": [str(finding) for finding in findings],
        }
