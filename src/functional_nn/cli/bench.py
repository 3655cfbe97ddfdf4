"""``functional-nn bench``: how fast a network compiles and runs here, and what the device could do."""

from __future__ import annotations

from pathlib import Path

import click

from functional_nn.cli.options import COUNT, JSON_FILE, MODELS, POSITIVE, PRECISIONS, Named, Several, Sizes

WHATS = ("train", "predict", "gradient", "hand", "sweep")


@click.command(context_settings={"show_default": True})
@click.option("--model", type=Named(MODELS), default="mlp", help="The network, on images of 28 x 28 in ten classes.")
@click.option("--hidden", type=Sizes(), metavar="SIZES", help="Hidden sizes: 128,64.  [default: the model's]")
@click.option("--batch-size", "batch_sizes", type=Several(COUNT), default="128", metavar="SIZES", help="One or more.")
@click.option(
    "--what", type=Several(Named(WHATS)), default="train,predict,gradient,hand", help=f"Some of: {', '.join(WHATS)}."
)
@click.option("--precision", "precisions", type=Several(Named(PRECISIONS)), default="float32", help="One or more.")
@click.option("--members", type=Several(COUNT), default="1,8", metavar="NUMBERS", help="Models at once, in sweep.")
@click.option("--seconds", type=POSITIVE, default=2.0, help="For each measurement, beside compiling.")
@JSON_FILE
def bench(
    model: str,
    hidden: tuple[int, ...] | None,
    batch_sizes: list[int],
    what: list[str],
    precisions: list[str],
    members: list[int],
    seconds: float,
    json_file: Path | None,
) -> int:
    """Measure how fast a network compiles and runs, and how near that is to what the device can do.

    Compared are a train step, predictions, the gradient by jax.grad and by the hand-derived formulas, and steps of many
    models at once. Every output is waited for; products and streams of bytes, measured in turns with the program, say
    what the device can do.
    """
    import jax

    if "float64" in precisions:
        jax.config.update("jax_enable_x64", True)
    import optax

    from functional_nn.bench.benchmark import benchmark
    from functional_nn.bench.workloads import Subject, workload
    from functional_nn.losses import cross_entropy
    from functional_nn.models import model as make

    net = make(model, 10, **({} if hidden is None else {"hidden": hidden}))
    subject = Subject(net, cross_entropy, optax.adam(1e-3), (28, 28, 1), 10)
    for precision in precisions:
        for batch_size in batch_sizes:
            for name in what:
                for count in members if name == "sweep" else (1,):
                    made = workload(name, subject, batch_size, precision, count)
                    result = benchmark(
                        made.function, *made.arguments, name=made.name, donate=made.donate, seconds=seconds
                    )
                    click.echo(result)
    return 0
