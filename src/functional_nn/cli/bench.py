"""``functional-nn bench``: compile time, run time and share of the device's peak, for a network on this machine."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import importing
from functional_nn.configuration import flag_types
from functional_nn.core.display import clear_line, progress_bar
from functional_nn.core.errors import escaped
from functional_nn.core.signals import Signals
from functional_nn.core.texts import WIDTH, counted
from functional_nn.names import CHIPS, MODELS, PRECISIONS, PROGRAMS

if TYPE_CHECKING:
    from functional_nn.bench.network_programs import BenchmarkCase, Measured, MeasuredNetwork
    from functional_nn.bench.records import RecordComparison
    from functional_nn.bench.targets import Chip

MEASURED, MEASURED_MEMBERS = ("train", "predict", "gradient", "hand"), (1, 2, 4, 8)
TARGETED, TARGETED_MEMBERS = ("step", "train", "sweep"), (8,)
"""What is measured, and what is compiled for a chip, if the flags do not say it."""
NOT_FOR_TARGETS = {"details": "--details", "old_file": "--against", "seconds": "--seconds"}
"""Flags that need a measurement."""


@click.command(context_settings={"show_default": True})
@click.option(
    "--model", type=flag_types.Named(MODELS), default="mlp", help="The network, on images of 28 x 28 in 10 classes."
)
@click.option("--hidden", type=flag_types.SIZES, metavar="SIZES", help="Hidden sizes: 128,64.  [default: the model's]")
@click.option(
    "--batch-size",
    "batch_sizes",
    type=flag_types.Doubled(),
    default="128",
    metavar="SIZES",
    help="Such as 32,128, or 1..4096 for 1, 2, 4, 8, and so on up to 4096.",
)
@click.option(
    "--what",
    type=flag_types.Several(flag_types.Named(PROGRAMS)),
    metavar="NAMES",
    help=f"Some of: {', '.join(PROGRAMS)}.  [default: {','.join(MEASURED)}; with --target: {','.join(TARGETED)}]",
)
@click.option(
    "--precision",
    "precisions",
    type=flag_types.Several(flag_types.Named(PRECISIONS)),
    default="float32",
    metavar="NAMES",
    help=f"Some of: {', '.join(PRECISIONS)}.",
)
@click.option(
    "--members",
    type=flag_types.Doubled(),
    metavar="NUMBERS",
    help="Models that a sweep trains.  [default: 1..8, which is 1,2,4,8; with --target: 8]",
)
@click.option("--seconds", type=flag_types.POSITIVE, default=2.0, help="For each measurement; compiling comes on top.")
@click.option("--details", is_flag=True, help="Print all measurements, and the train step layer by layer.")
@flag_types.JSON_FILE
@click.option(
    "--against",
    "old_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Compare with a file that --json wrote. The exit status is 1 if a program is slower beyond the noise.",
)
@click.option(
    "--target",
    type=flag_types.Named(CHIPS),
    metavar="CHIP",
    help=f"Compile for a chip that is not there, and run nothing. One of: {', '.join(CHIPS)}.",
)
@click.pass_obj
def bench(
    signals: Signals,
    model: str,
    hidden: tuple[int, ...] | None,
    batch_sizes: tuple[int, ...],
    what: tuple[str, ...] | None,
    precisions: tuple[str, ...],
    members: tuple[int, ...] | None,
    seconds: float,
    details: bool,
    json_file: Path | None,
    old_file: Path | None,
    target: str | None,
) -> int:
    """Measure how fast a network compiles and runs, and how near that is to the device's peak.

    These programs can be measured:

    \b
    train     the train steps of fit, as fit compiles them
    step      one train step, called from Python
    predict   the outputs of the network
    gradient  the gradient by jax.grad
    hand      the gradient by the hand-derived formulas
    sweep     the train steps of a sweep of many models, as sweep runs them

    After Ctrl-C, or if memory is too small for a program, the table of what
    was measured so far is printed.

    A time ends when all outputs are ready. The device's peak is measured with
    matrix products and streams of bytes that take turns with the program.

    With --target, the programs are compiled for a chip that this machine does
    not have. The command prints whether they compile, their memory, and a
    lower bound of their time from published peaks. The exit status is 1 if a program does not compile or does not
    fit into the memory of the chip.
    """
    if target is not None and (
        given := [flag for name, flag in NOT_FOR_TARGETS.items() if flag_types.is_on_command_line(name)]
    ):
        raise click.UsageError(f"--target measures nothing: leave out {', '.join(given)}.")
    with importing():
        import jax

        from functional_nn.bench import records
        from functional_nn.bench.compiled_program import out_of_memory
        from functional_nn.bench.network_programs import cases_of, measure, named_network
        from functional_nn.bench.targets import device_of
        from functional_nn.reports import benchmark as tables

    if "float64" in precisions:
        jax.config.update("jax_enable_x64", True)

    about: dict[str, object] = {"model": model, "hidden": hidden}
    chip: Chip | None = None
    defaults = MEASURED, MEASURED_MEMBERS
    if target is not None:
        defaults, chip = (TARGETED, TARGETED_MEMBERS), CHIPS[target]
        about["target"] = target
        device_of(CHIPS[target])  # before JAX starts, so that the compiler does not warn that there is no such chip
    cases = cases_of(what or defaults[0], batch_sizes, precisions, members or defaults[1])

    def record(*entries: Mapping[str, object]) -> None:
        """Adds to the file of ``--json``, which is checked even if there is nothing to add."""
        if json_file is not None:
            records.add_records(json_file, [{**about, **entry} for entry in entries])

    # The files are checked before anything is measured.
    old = [] if old_file is None else records.read_records(old_file)
    if old_file is not None:
        records.check_matching(old_file, old, [about | case.to_dict() for case in cases])
    record()
    network = named_network(model, hidden)
    about |= records.environment()
    if chip is not None:
        return _bench_target(network, cases, chip, record)
    _print_wrapped(f"{model} on {about['device']} ({about['platform']}), {about['cores']} cores, jax {jax.__version__}")
    _print_wrapped(records.platform_note(about))
    click.echo()

    measured: list[Measured] = []
    failure: str | None = None
    try:
        with progress_bar("measuring", len(cases)) as advance, suppress(KeyboardInterrupt):
            for case in cases:
                one = measure(network, case, seconds=seconds, layers=details)
                measured.append(one)
                signals.defer("measurement")  # from now on, Ctrl-C lets a measurement end before the table is printed
                record(one.to_dict())
                if details:
                    click.echo(f"{clear_line()}{tables.title(one)}\n{one.result}\n")
                advance(f"{one.result.name}, batch {one.case.batch_size}")
                signals.check()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        failure = out_of_memory(error)
        if failure is None:
            raise
    if measured:
        click.echo(f"{tables.times(measured)}\n\n{tables.shares(measured)}")
        findings = (finding for one in measured for finding in one.result.findings.findings)
        for finding in dict.fromkeys(findings):
            _print_wrapped(f"warning: {finding}")
    compared: list[RecordComparison] = []
    if old_file is not None and measured:
        new = [about | one.to_dict() for one in measured]
        compared = records.compare_records(old_file, old, new)
        click.echo(tables.comparisons(compared, records.without_match(old, new)))
    done = len(measured)
    if done < len(cases):
        kept = "" if json_file is None else f" {escaped(str(json_file))} has what was measured."
        click.echo(f"Stopped after {done} of {counted(len(cases), 'measurement')}.{kept}", err=True)
        if failure is None:
            return signals.status
        failed = records.describe(about | cases[done].to_dict())
        click.echo(f"Error: {failed}: {failure}. Try a smaller batch.", err=True)
        return 2
    return 1 if any(one.verdict == "slower" for one in compared) else 0


def _bench_target(
    network: MeasuredNetwork, cases: Sequence[BenchmarkCase], chip: Chip, record: Callable[[Mapping[str, object]], None]
) -> int:
    """Compiles all cases, prints a report on each and a table of all; returns the exit status."""
    from functional_nn.bench.targets import target_case
    from functional_nn.reports import benchmark as tables

    reports = []
    with progress_bar("compiling", len(cases)) as advance:
        for case in cases:
            report = target_case(network, case, chip)
            reports.append(report)
            record(case.to_dict() | report.to_dict())
            click.echo(f"{clear_line()}{network.net.name}, batch {case.batch_size}, {case.precision}\n{report}\n")
            advance(report.name)
    click.echo(tables.targets(cases, reports))
    return 0 if all(report.fits for report in reports) else 1


def _print_wrapped(text: str) -> None:
    click.echo(textwrap.fill(text, WIDTH, subsequent_indent="  "))
