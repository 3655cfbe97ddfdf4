"""``functional-nn export``: a trained network as a file for other programs, or as a folder for a hub of models."""

from __future__ import annotations

import math
from pathlib import Path

import click

from functional_nn import exchange
from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration.flag_types import MEMBER, PAIRS, PATH, Named
from functional_nn.core.errors import InputError, check, escaped
from functional_nn.storage.files import kept_open

MOST_TRIED = 64
"""A step for batches of any size is tried with at most this many examples."""
FORMATS = {
    "stablehlo": "a program that JAX runs on CPU, GPU and TPU",
    "onnx": "a program for ONNX Runtime, also in a browser",
    "onnx-training": "a folder with which ONNX Runtime trains the network",
    "torch": "a state dict of PyTorch, in a safetensors file",
    "hub": "a folder for a hub of models, with a model card",
}
"""The formats, and what each of them is."""


@click.command(epilog="Formats: " + "; ".join(f"{name}, {what}" for name, what in FORMATS.items()) + ".")
@click.argument("run", type=PATH, metavar="RUN")
@click.option(
    "--to", "kind", type=Named(FORMATS), required=True, metavar="FORMAT", help=f"One of: {', '.join(FORMATS)}."
)
@click.option("--out", type=PATH, required=True, metavar="PATH", help="The new file or folder.")
@click.option(
    "--what",
    type=Named(("evaluate", "train")),
    default="evaluate",
    help="For stablehlo: the network in evaluation, or a step of its training.",
)
@click.option("--gradient", is_flag=True, help="For stablehlo: also the program of the gradient.")
@click.option(
    "--like",
    type=PATH,
    metavar="FILE",
    help="For torch: a state dict with the names to write.  [default: the paths here]",
)
@PAIRS
@MEMBER
@COMPILATION_CACHE
def export(
    run: Path,
    kind: str,
    out: Path,
    what: str,
    gradient: bool,
    like: Path | None,
    pairs: tuple[tuple[str, str], ...],
    member: int | None,
) -> None:
    """Write the trained network of a run folder for other programs.

    RUN is what train --out, sweep --out or import wrote. Images enter the exported network as numbers from 0 to 1,
    (batch, height, width, channels), and rows of a table as (number - mean) / deviation, with those in config.json.
    """
    trains = what == "train"
    needs: dict[str, tuple[object, str]] = {
        "--what train": (trains, "stablehlo"),
        "--gradient": (gradient, "stablehlo"),
        "--like": (like, "torch"),
        "--pair": (pairs, "torch"),
    }
    for flag, (given, needed) in needs.items():
        if given and kind != needed:
            raise InputError(flag, f"the format {needed}", f"--to {kind}")
    if pairs and like is None:
        raise InputError("--pair", "a file with names, in --like", "none")
    check("--gradient", "--what train", "a network in evaluation", not (trains and gradient))
    if kind != "hub":
        if out.exists():
            raise InputError("--out", "a new file", f"{out}, which exists", "Files are never overwritten.")
        if not out.parent.is_dir():
            raise InputError("--out", "a file in a folder that exists", str(out), "Make the folder first.")
    # These folders stay the same, whatever others put in their places while JAX starts and the network is loaded.
    context = click.get_current_context()
    if run.is_dir():
        context.with_resource(kept_open(run))
    if out.parent.is_dir():
        context.with_resource(kept_open(out.parent, new_files_only=kind != "hub"))
    with importing():
        from functional_nn.cli.trained_run import named_member

    member = named_member(run, member)
    if kind == "hub":
        exchange.to_hub(run, out, member)
    else:
        network = exchange.load(run, member).without_augmentation()
        if trains or kind == "onnx-training":
            _write_training(network, kind, out)
        else:
            _write(network, kind, out, gradient, like, dict(pairs))
        if network.features is not None:
            features = escaped(f"fnn.exchange.load({str(run)!r}).features")
            click.echo(f"The network takes standardized rows: {features}.standardized(rows)")
    click.echo(f"{escaped(str(out))}: {FORMATS[kind]}")


def _write_training(network: exchange.SavedNetwork, kind: str, out: Path) -> None:
    """Writes the step that trains a network, for batches as in its run."""
    import numpy as np

    from functional_nn.training.devices import check_bytes

    net, params, state, in_shape, classes, _, configuration, *_ = network
    _, loss, optimizer, penalty, metrics, *_ = configuration.recipe(classes, None)
    named = None if metrics is None else dict(metrics)
    step = exchange.training_step(net, loss, optimizer, params, state, penalty=penalty, metrics=named)
    # The program of StableHLO takes batches of any size.
    size = configuration.batch_size if kind == "onnx-training" else min(configuration.batch_size, MOST_TRIED)
    # The size may be a stranger's, so it is compared before there is a batch, and the whole program with the batch.
    bytes_of_batch = size * math.prod(in_shape) * (np.dtype(np.float64).itemsize + np.dtype(np.float32).itemsize)
    check_bytes("batch_size", bytes_of_batch, f"batches of {size:,} examples")
    x = np.random.default_rng(0).uniform(size=(size, *in_shape)).astype(np.float32)
    write = exchange.to_onnx_training if kind == "onnx-training" else exchange.to_stablehlo_training
    write(step, x, np.arange(size, dtype=np.int32) % classes, out)


def _write(
    network: exchange.SavedNetwork, kind: str, out: Path, gradient: bool, like: Path | None, names: dict[str, str]
) -> None:
    """Writes a network to a file."""
    import jax

    from functional_nn.storage.arrays import packed
    from functional_nn.storage.files import write_whole

    net, params, state, in_shape, *_ = network
    with jax.enable_x64(network.configuration.precision == "float64"):
        if kind == "stablehlo":
            exchange.to_stablehlo(net, params, state, in_shape, out, gradient=gradient)
        elif kind == "onnx":
            exchange.to_onnx(net, params, state, in_shape, out)
        else:
            check("--out", out.name, "a file that ends in .safetensors", out.suffix == ".safetensors")
            # A file cannot be run, so its outputs cannot be compared. With --like, names and shapes must fit.
            state_dict = exchange.to_torch(net, params, state, in_shape, like, names=names, check=False)
            write_whole(out, packed(state_dict, {}))
