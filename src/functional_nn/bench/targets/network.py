"""Programs of a network for a chip: a train step, the programs of ``fit`` and of ``sweep``, and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr

from functional_nn.bench.measure.suite import BenchmarkCase
from functional_nn.bench.measure.training_programs import TRAIN_STATE, fit_spec, sweep_spec
from functional_nn.bench.measure.workloads import MeasuredNetwork, Workload, workload
from functional_nn.bench.targets.chips import Chip
from functional_nn.bench.targets.compiler import compile_for
from functional_nn.bench.targets.report import TargetReport
from functional_nn.bench.targets.target import report_on
from functional_nn.jaxprs.for_platform import for_platform
from functional_nn.jaxprs.xla_options import Options, step_options, sum_options
from functional_nn.training.programs import ProgramFunctions, ProgramSpec, argument_shapes


class TargetCase(NamedTuple):
    """A case, and the report on its program."""

    case: BenchmarkCase
    report: TargetReport

    def to_dict(self) -> dict[str, object]:
        """The case and the report, ready for JSON."""
        return {**self.case.to_dict(), **self.report.to_dict()}


def targets(network: MeasuredNetwork, cases: Sequence[BenchmarkCase], chip: Chip) -> Iterator[TargetCase]:
    """Compiles every case for a chip, and yields each report when it is done.

    ``train`` and ``sweep`` are the programs for the full batches of an epoch. A sweep trains all of its members by one
    program, as it does on one accelerator.
    """
    for case in cases:
        yield TargetCase(case, _report(network, case, chip))


def epoch_program(spec: ProgramSpec) -> Workload:
    """The function that ``fit`` or ``sweep`` compiles for the full batches of an epoch, with shapes as arguments."""
    functions, shapes = ProgramFunctions(spec, None), argument_shapes(spec)
    draw_order = functions.mapped(functions.draw_order, own=1, shared=1)
    start = functions.mapped(functions.start, own=2, shared=0)
    full_batches = functions.mapped(functions.full_batches, own=3, shared=2)
    order, _ = jax.eval_shape(draw_order, shapes.key, shapes.number)
    train_state = jax.eval_shape(start, shapes.hyperparameters, shapes.key)
    arguments = (shapes.hyperparameters, train_state, order, *spec.data.part("train"))
    return Workload("train", full_batches, arguments, (TRAIN_STATE,))


def _report(network: MeasuredNetwork, case: BenchmarkCase, chip: Chip) -> TargetReport:
    what, batch_size, precision, members = case
    if what == "train":
        return _epoch_report(what, fit_spec(network, batch_size, precision), case, chip)
    if what == "sweep":
        spec = sweep_spec(network, batch_size, precision, members if members > 1 else None)
        return _epoch_report(f"sweep of {members}", spec, case, chip)
    made = workload(what, network, batch_size, precision)
    program = compile_for(chip, made.function, made.arguments, made.donate)
    return report_on(made.name, chip, program, made.arguments, made.donate)


def _epoch_report(name: str, spec: ProgramSpec, case: BenchmarkCase, chip: Chip) -> TargetReport:
    def options(program: ClosedJaxpr) -> Options:
        """The options by which ``fit`` compiles an epoch. They depend on the loops in the program."""
        on_chip = for_platform(program, chip.platform)
        return step_options(on_chip) | sum_options(on_chip)

    made = epoch_program(spec)
    # ``fit`` and ``sweep`` keep the train state from before the epoch, so it is not donated.
    program = compile_for(chip, made.function, made.arguments, options=options)
    return report_on(name, chip, program, made.arguments, made.donate, steps=case.steps)
