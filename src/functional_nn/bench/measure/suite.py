"""A table of measurements: one network in several ways, batch sizes, precisions and numbers of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from functional_nn.bench.measure.benchmark import Benchmark, benchmark
from functional_nn.bench.measure.workloads import Subject, workload

NEAR_BEST = 0.8
"""The knee: the smallest batch or population whose throughput is this share of the best."""


class Measured(NamedTuple):
    """What was measured of what; ``members`` is how many models one call trains."""

    what: str
    batch_size: int
    precision: str
    members: int
    result: Benchmark

    @property
    def seconds_per_example(self) -> float:
        """Of one model and one example."""
        return self.result.seconds / self.batch_size / self.members

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        about = {"what": self.what, "batch_size": self.batch_size, "precision": self.precision}
        return {**about, "members": self.members, **self.result.to_dict()}


def measure(
    subject: Subject,
    what: Sequence[str],
    batch_sizes: Sequence[int],
    precisions: Sequence[str] = ("float32",),
    members: Sequence[int] = (1,),
    *,
    seconds: float = 2.0,
    layers: bool = False,
    done: Callable[[Measured], None] = lambda measured: None,
) -> list[Measured]:
    """Measures everything in every way; ``done`` is called with each as soon as it is there.

    ``members`` are for ``sweep``. With ``layers`` the train step is taken apart, layer by layer.
    """
    results = []
    for way in ways(what, batch_sizes, precisions, members):
        made = workload(way["what"], subject, way["batch_size"], way["precision"], way["members"])
        result = benchmark(
            *(made.function, *made.arguments),
            name=made.name,
            donate=made.donate,
            seconds=seconds,
            layers=layers and way["what"] == "train",
        )
        results.append(Measured(**way, result=result))
        done(results[-1])
    return results


def ways(
    what: Sequence[str], batch_sizes: Sequence[int], precisions: Sequence[str], members: Sequence[int]
) -> list[dict[str, Any]]:
    """All that is to be measured, by the names that records have."""
    return [
        {"what": name, "batch_size": batch_size, "precision": precision, "members": count}
        for precision in precisions
        for batch_size in batch_sizes
        for name in what
        for count in (members if name == "sweep" else (1,))
    ]


def knee(sizes: Sequence[int], seconds: Sequence[float]) -> int:
    """The smallest size whose throughput, size / seconds, is four fifths of the best: less is waste, more is waiting.

    >>> knee([1, 8, 64, 512], [1.0, 1.0, 2.0, 15.0])
    64
    """
    rates = {size: size / time for size, time in zip(sizes, seconds, strict=True)}
    return min(size for size, rate in rates.items() if rate >= NEAR_BEST * max(rates.values()))
