"""`verify --quick` on this device, with products in full precision: as many names as the time allows."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator

import functional_nn as fnn
from benchmarks.accelerator.parts import Record, Settings
from benchmarks.peers import available_cores
from functional_nn.gradients.verify import quick_subjects

GROUPS = 6
"""The names are compared in this number of groups, so that the time is checked between them."""
SMALL = ("relu", "mean_squared_error")
MOST_JOBS = 8
SLOWER = 1.5
"""A group may take so many times as long as the slowest one before."""


def measure(settings: Settings) -> Iterator[Record]:
    """Yields how many names there are, and then the verdicts of each group."""
    names = list(SMALL) if settings.small else quick_subjects()
    # A TPU belongs to one process.
    jobs = 1 if settings.small or settings.platform == "tpu" else min(MOST_JOBS, available_cores())
    groups = [group for group in (names[number::GROUPS] for number in range(GROUPS)) if group]
    precision = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION")
    yield {"names": len(names), "jobs": jobs, "matmul_precision": precision}
    slowest = 0.0
    for group in groups:
        if settings.left < SLOWER * slowest:
            return
        clock = time.monotonic()
        report = fnn.verify(group, quick=True, jobs=jobs, progress=False)
        seconds = time.monotonic() - clock
        slowest = max(slowest, seconds)
        yield {
            "group": group,
            "seconds": seconds,
            "passed": report.passed,
            "verdicts": dict(Counter(verdict.outcome for verdict in report.verdicts)),
            "planted": report.mutants,
            "not_found": len(report.unexplained),
            "failures": [
                {
                    "name": verdict.subject,
                    "of": verdict.leaf,
                    "kind": verdict.kind,
                    "dtype": verdict.dtype,
                    "outcome": verdict.outcome,
                    "error": f"{verdict.error:.3g}",  # as text, because JSON has no infinity
                    "tolerance": f"{verdict.tolerance:.3g}",
                    "unit": verdict.unit,
                }
                for verdict in report.failures
            ],
        }
