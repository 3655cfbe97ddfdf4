"""``functional-nn bench``: how fast a network compiles and runs here, and what the device could do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from functional_nn.cli.options import JSON_FILE, MODELS, POSITIVE, PRECISIONS, Doubled, Named, NewFile, Several, Sizes
from functional_nn.cli.startup import importing

if TYPE_CHECKING:
    from functional_nn.bench.compare.regression import Comparison
    from functional_nn.bench.measure.execution_modes import Mode
    from functional_nn.bench.measure.suite import Measured

WHATS = ("train", "predict", "gradient", "hand", "sweep", "modes")


@click.command(context_settings={"show_default": True})
@click.option("--model", type=Named(MODELS), default="mlp", help="The network, on images of 28 x 28 in ten classes.")
@click.option("--hidden", type=Sizes(), metavar="SIZES", help="Hidden sizes: 128,64.  [default: the model's]")
@click.option(
    "--batch-size", "batch_sizes", type=Doubled(), default="128", metavar="SIZES", help="Such as 32,128, or 1..4096."
)
@click.option(
    "--what",
    type=Several(Named(WHATS)),
    default="train,predict,gradient,hand",
    metavar="NAMES",
    help=f"Some of: {', '.join(WHATS)}.",
)
@click.option(
    "--precision",
    "precisions",
    type=Several(Named(PRECISIONS)),
    default="float32",
    metavar="NAMES",
    help=f"Some of: {', '.join(PRECISIONS)}.",
)
@click.option("--members", type=Doubled(), default="1,2,4,8", metavar="NUMBERS", help="Models at once, in sweep.")
@click.option("--seconds", type=POSITIVE, default=2.0, help="For each measurement, beside compiling.")
@click.option("--details", is_flag=True, help="All that was measured of each, and the train step layer by layer.")
@JSON_FILE
@click.option("--html", "html_file", type=NewFile(), metavar="FILE", help="Write a page with tables and pictures.")
@click.option(
    "--against",
    "old_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Compare with what an earlier --json wrote; the exit status is 1 where something is slower beyond the noise.",
)
def bench(
    model: str,
    hidden: tuple[int, ...] | None,
    batch_sizes: list[int],
    what: list[str],
    precisions: list[str],
    members: list[int],
    seconds: float,
    details: bool,
    json_file: Path | None,
    html_file: Path | None,
    old_file: Path | None,
) -> int:
    """Measure how fast a network compiles and runs, and how near that is to what the device can do.

    Measured are a train step, predictions, the gradient by jax.grad and by the hand-derived formulas (hand), train
    steps of many models at once (sweep), and a train step from Python, compiled, in an epoch and in a whole run
    (modes). Every output is waited for. Products and streams of bytes take turns with the program, and say what the
    device can do.
    """
    with importing():
        import jax
        import optax

        from functional_nn.bench.compare import records
        from functional_nn.bench.compare import regression as comparison
        from functional_nn.bench.measure.execution_modes import modes
        from functional_nn.bench.measure.suite import measure, ways
        from functional_nn.bench.measure.workloads import Subject
        from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
        from functional_nn.losses.multiclass import cross_entropy
        from functional_nn.models.faster_by_formula import FASTER_BY_FORMULA
        from functional_nn.models.named_models import model as make
        from functional_nn.reports import benchmark_tables as tables

    if "float64" in precisions:
        jax.config.update("jax_enable_x64", True)

    programs = [name for name in what if name != "modes"]
    about: dict[str, Any] = {"model": model, "hidden": hidden}
    old = [] if old_file is None else records.read_records(old_file)
    if old_file is not None:
        comparison.pairs(old_file, old, [about | way for way in ways(programs, batch_sizes, precisions, members)])
    if json_file is not None:
        records.add_records(json_file, [])
    net = make(model, 10, **({} if hidden is None else {"hidden": hidden}))
    trained = with_hand_vjp(net) if model in FASTER_BY_FORMULA else net
    subject = Subject(net, cross_entropy, optax.adam(1e-3), (28, 28, 1), 10, trained)
    about |= records.circumstances()
    click.echo(f"{model} on {about['device']} ({about['platform']}), {about['cores']} cores, jax {jax.__version__}")
    click.echo("\n".join(records.platform_notes(about)) + "\n")

    def keep(one: dict[str, Any]) -> None:
        if json_file is not None:
            records.add_records(json_file, [about | one])

    def done(measured: Measured) -> None:
        keep(measured.to_dict())
        if details:
            click.echo(f"{tables.called(measured)}\n{measured.result}\n")

    measured = measure(
        *(subject, programs, batch_sizes, precisions, members),
        seconds=seconds,
        layers=details or html_file is not None,
        done=done,
    )
    compared: list[Comparison] = []
    in_modes: dict[tuple[int, str], tuple[Mode, ...]] = {}
    if measured:
        click.echo(tables.programs(measured))
        if knees := tables.knees(measured):
            click.echo(knees)
        for finding in {finding: None for one in measured for finding in one.result.findings.findings}:
            click.echo(f"warning: {finding}")
    if "modes" in what:
        for precision in precisions:
            for batch_size in batch_sizes:
                in_modes[batch_size, precision] = modes(subject, batch_size, precision, seconds=seconds)
                click.echo(tables.modes(in_modes[batch_size, precision], batch_size, precision))
                for mode in in_modes[batch_size, precision]:
                    keep({"what": "modes", "batch_size": batch_size, "precision": precision, **mode.to_dict()})
    if old_file is not None:
        compared = comparison.against(old_file, old, [about | one.to_dict() for one in measured])
        click.echo(tables.comparisons(compared))
    if html_file is not None:
        from functional_nn.reports.pages.benchmark import write_page

        write_page(html_file, about, measured, in_modes, compared)
    return 1 if any(one.verdict == "slower" for one in compared) else 0
