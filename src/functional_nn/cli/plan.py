"""``functional-nn plan``: what training on many devices, and a sweep of many models, would cost."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import click
from click.core import ParameterSource

from functional_nn.cli.startup import importing
from functional_nn.configuration.flag_types import (
    COUNT,
    JSON_FILE,
    MODELS,
    NETWORKS,
    POSITIVE,
    Doubled,
    Named,
    NewFile,
)
from functional_nn.core.counts import counted

WIDTH = 80
"""Printed lines have at most this number of characters."""


@click.command(context_settings={"show_default": True})
@click.argument("model", type=Named(MODELS), default="mlp", metavar="[MODEL]")
@click.option("--batch-size", type=COUNT, default=128, help="Examples in a step of all devices.")
@click.option(
    "--weak", is_flag=True, help="Let the batch grow with the devices: --batch-size is the share of each of them."
)
@click.option(
    "--devices",
    type=Doubled(),
    default="1..4096",
    metavar="NUMBERS",
    help="Such as 1,8,64. 1..4096 is 1, 2, 4, 8, and so on up to 4096.",
)
@click.option(
    "--cores", type=COUNT, help="Cores that all devices share, as on one CPU.  [default: each device has its own]"
)
@click.option(
    "--network",
    type=Named(NETWORKS),
    default="ethernet-10g",
    help=f"What is assumed between the devices: {', '.join(NETWORKS)}.",
)
@click.option("--network-latency", type=POSITIVE, metavar="SECONDS", help="In place of that of --network.")
@click.option("--network-bandwidth", type=POSITIVE, metavar="BYTES/S", help="In place of that of --network.")
@click.option("--algorithm", type=Named(("ring", "halving")), default="ring", help="Of an all-reduce: ring or halving.")
@click.option("--members", type=COUNT, default=1_000_000, help="Models of the sweep.")
@click.option(
    "--machines", type=Doubled(), default="1,10,100,1000", metavar="NUMBERS", help="Machines that share the sweep."
)
@click.option("--epochs", type=COUNT, default=10, help="Passes of each model of the sweep over the training data.")
@click.option("--examples", type=COUNT, default=60_000, help="Training examples.")
@click.option(
    "--rates",
    "rates_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Use rates that --save-rates wrote; nothing is measured. MODEL is then the one of the file.",
)
@click.option("--save-rates", type=NewFile(), metavar="FILE", help="Write the measured rates.")
@JSON_FILE
def plan(
    model: str,
    batch_size: int,
    weak: bool,
    devices: list[int],
    cores: int | None,
    network: str,
    network_latency: float | None,
    network_bandwidth: float | None,
    algorithm: str,
    members: int,
    machines: list[int],
    epochs: int,
    examples: int,
    rates_file: Path | None,
    save_rates: Path | None,
    json_file: Path | None,
) -> None:
    """Predict the cost of many devices, and of a sweep of many models.

    MODEL is mlp, which is the default, cnn, lenet, deep_cnn, resnet, rnn, lstm,
    gru or transformer.

    One device of this machine is measured: for some ten seconds, or minutes if
    the model or the batch is large. Its rates, and the latency and bandwidth of
    an assumed network, give the time of a train step on many devices that share
    each batch, and where more devices stop paying. The rates of a small sweep
    give the time and the files of a large one. All devices and machines are
    taken to be like the measured one.
    """
    with importing():
        from functional_nn.bench.scaling.measure import measure_rates
        from functional_nn.bench.scaling.rates import NETWORKS as networks
        from functional_nn.bench.scaling.rates import load_rates
        from functional_nn.bench.scaling.sweep_plan import sweep_plan
        from functional_nn.bench.scaling.training_plan import scaling_limits, training_plan
        from functional_nn.bench.units import in_bytes, in_seconds
        from functional_nn.reports import plan_tables as tables
        from functional_nn.storage.files import write_json

    named = networks[network]
    between = replace(
        named,
        latency=network_latency or named.latency,
        bandwidth=network_bandwidth or named.bandwidth,
        algorithm=algorithm,
    )
    if rates_file is None:
        sizes = sorted({2, 16, batch_size})
        click.echo(f"measuring {model}: steps of up to {sizes[-1]:,} examples, and a small sweep", err=True)
        rates = measure_rates(model, batch_sizes=sizes)
    else:
        rates = load_rates(rates_file)
        is_default = click.get_current_context().get_parameter_source("model") is ParameterSource.DEFAULT
        if not is_default and model != rates.model:
            raise click.UsageError(f"--rates: {rates_file} has the rates of {rates.model}. Leave out {model}.")
    if save_rates is not None:
        rates.save(save_rates)
    plans = [
        training_plan(rates, batch_size, count, between, weak=weak, examples=examples, cores=cores) for count in devices
    ]
    limits = None if weak else scaling_limits(rates, batch_size, between, cores=cores)
    swept = [
        sweep_plan(rates, members, count, epochs=epochs, examples=examples, cores=cores)
        for count in machines
        if rates.sweep is not None
    ]

    cores_of_one = "one core" if rates.cores == 1 else f"{rates.cores} cores"
    _print_wrapped(f"{rates.model} on {rates.device}, {cores_of_one}: measured")
    fixed, of_example = in_seconds(rates.fixed_seconds), in_seconds(rates.example_seconds)
    _print_wrapped(f"  a step takes {fixed}, and {of_example} more for each example")
    given = network_latency is None and network_bandwidth is None
    _print_wrapped(
        f"{network if given else 'a network'}, {in_seconds(between.latency)} a message and "
        f"{in_bytes(between.bandwidth)}/s, all-reduce by {between.algorithm}: assumed"
    )
    click.echo(f"\n{tables.training(plans)}")
    if limits is not None:
        _print_wrapped(tables.limits(limits))
    if swept:
        click.echo(f"\nsweep of {members:,} models, {counted(epochs, 'epoch')} of {examples:,} examples")
        click.echo(tables.sweeps(swept))
    if json_file is not None:
        result = {
            "rates": rates.to_dict(),
            "network": asdict(between),
            "plans": [one.to_dict() for one in plans],
            "limits": None if limits is None else limits._asdict(),
            "sweeps": [one.to_dict() for one in swept],
        }
        write_json(json_file, result)


def _print_wrapped(text: str) -> None:
    click.echo(textwrap.fill(text, WIDTH, subsequent_indent="  "))
