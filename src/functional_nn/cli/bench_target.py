"""``functional-nn bench --target``: the programs of a network, compiled for a chip that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.core.display import clear_line, progress_bar

if TYPE_CHECKING:
    from functional_nn.bench.network_programs import MeasuredNetwork
    from functional_nn.bench.suite import BenchmarkCase


def bench_target(
    chip_name: str,
    network: MeasuredNetwork,
    about: Mapping[str, object],
    cases: Sequence[BenchmarkCase],
    json_file: Path | None,
) -> int:
    """Compiles all cases, prints a report on each and a table of all; returns the exit status."""
    from functional_nn.bench import records
    from functional_nn.bench.chips import chip_named, device_of
    from functional_nn.bench.targets import TargetCase, targets
    from functional_nn.reports import benchmark as tables

    chip = chip_named(chip_name)
    device_of(chip)  # before JAX starts, so that the compiler does not warn that there is no such chip
    about = {**about, "target": chip.name, **records.environment()}
    if json_file is not None:
        records.add_records(json_file, [])
    done: list[TargetCase] = []
    with progress_bar("compiling", len(cases)) as advance:
        for one in targets(network, cases, chip):
            done.append(one)
            if json_file is not None:
                records.add_records(json_file, [{**about, **one.to_dict()}])
            click.echo(
                f"{clear_line()}{about['model']}, batch {one.case.batch_size}, {one.case.precision}\n{one.report}\n"
            )
            advance(one.report.name)
    click.echo(tables.targets(done))
    return 0 if all(one.report.fits for one in done) else 1
