"""Measurements of one network: several programs, batch sizes, precisions and numbers of models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from functional_nn.bench.benchmark import Benchmark, benchmark, measure_call
from functional_nn.bench.compiled_program import Timing
from functional_nn.bench.layer_times import LayerCost, layer_costs
from functional_nn.bench.network_programs import STEPS, MeasuredNetwork, fit_call, sweep_call, workload
from functional_nn.jaxprs.walk import trace

PROGRAMS = ("train", "step", "predict", "gradient", "hand", "sweep")
"""The programs that ``measure`` knows: those of ``fit`` and of ``sweep``, and the functions of ``workload``."""


class BenchmarkCase(NamedTuple):
    """A program to measure.

    Args:
        what: one of ``PROGRAMS``.
        batch_size: the number of examples in a batch.
        precision: its name.
        members: the number of models that a sweep trains; 1 for other programs.
    """

    what: str
    batch_size: int
    precision: str
    members: int = 1

    @property
    def steps(self) -> int:
        """The number of steps that one call runs."""
        return STEPS if self.what in ("train", "sweep") else 1

    def to_dict(self) -> dict[str, object]:
        """The case, ready for JSON."""
        return {**self._asdict(), "steps": self.steps}


class Measured(NamedTuple):
    """A case and its measurements."""

    case: BenchmarkCase
    result: Benchmark

    @property
    def step(self) -> Timing:
        """The timing of one step of all models. One call of ``fit``'s program runs several steps."""
        return self.result.timing.divided_by(self.case.steps)

    @property
    def seconds_per_example(self) -> float:
        """Seconds for one example of one model."""
        return self.step.median / self.case.batch_size / self.case.members

    def to_dict(self) -> dict[str, object]:
        """The case and the measurements, ready for JSON."""
        return {**self.case.to_dict(), **self.result.to_dict()}


def measure(
    network: MeasuredNetwork,
    cases: Sequence[BenchmarkCase],
    *,
    seconds: float = 2.0,
    layers: bool = False,
) -> Iterator[Measured]:
    """Measures every case, each for about ``seconds``, and yields each measurement when it is done.

    Args:
        network: the network and how it is trained.
        cases: what to measure.
        seconds: about how long to measure each.
        layers: whether to time a train step layer by layer as well.
    """
    for case in cases:
        yield Measured(case, _measure_one(network, case, seconds, layers))


def cases_of(
    what: Sequence[str], batch_sizes: Sequence[int], precisions: Sequence[str], members: Sequence[int] = (1,)
) -> list[BenchmarkCase]:
    """Makes the cases of all combinations. Only sweeps use ``members``."""
    return [
        BenchmarkCase(name, batch_size, precision, count)
        for precision in precisions
        for batch_size in batch_sizes
        for name in what
        for count in (members if name == "sweep" else (1,))
    ]


def _measure_one(network: MeasuredNetwork, case: BenchmarkCase, seconds: float, layers: bool) -> Benchmark:
    what, batch_size, precision, members = case
    if what == "train":
        call = fit_call(network, batch_size, precision)
        costs = _layers_of_a_step(network, batch_size, precision, seconds) if layers else ()
        return measure_call(what, call, seconds, costs)
    if what == "sweep":
        call = sweep_call(network, batch_size, precision, members)
        return measure_call(f"sweep of {members}", call, seconds, ())
    made = workload(what, network, batch_size, precision)
    return benchmark(made.function, *made.arguments, name=made.name, donate=made.donate, seconds=seconds)


def _layers_of_a_step(
    network: MeasuredNetwork, batch_size: int, precision: str, seconds: float
) -> tuple[LayerCost, ...]:
    """Measures the layers of a single step, because layers cannot be taken out of the loop over steps."""
    step = workload("step", network, batch_size, precision)
    return layer_costs(trace(step.function, *step.arguments), step.arguments, seconds / 2)
