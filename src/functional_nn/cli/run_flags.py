"""The flags of one training run, which ``train`` takes and ``config.json`` is read by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from functional_nn.cli.options import (
    ACTIVATIONS,
    COUNT,
    GRADIENTS,
    MODELS,
    NON_FINITE,
    NOT_NEGATIVE,
    OPTIMIZERS,
    POSITIVE,
    PRECISIONS,
    SCHEDULES,
    SHARE,
    Named,
    Sizes,
)
from functional_nn.cli.recipes import RECIPE

RUN_FLAGS: tuple[Callable[..., Any], ...] = (
    click.option(
        "--dataset",
        default="mnist5k",
        metavar="NAME",
        help="mnist5k (in the package), mnist, fashion_mnist, kmnist, or any TFDS image set.",
    ),
    click.option("--data-dir", metavar="DIR", help="Folder of IDX files, or a prepared TFDS folder."),
    RECIPE,
    click.option("--model", type=Named(MODELS), default="mlp", help="The network."),
    click.option(
        "--hidden", type=Sizes(), metavar="SIZES", help="Hidden sizes, such as 128,64, or none.  [default: the model's]"
    ),
    click.option(
        "--activation",
        type=Named(ACTIVATIONS),
        metavar="NAME",
        help=f"One of: {', '.join(ACTIVATIONS)}.  [default: the model's]",
    ),
    click.option("--dropout", type=SHARE, default=0.0, help="Share of hidden outputs to drop in training."),
    click.option("--batch-norm", is_flag=True, help="Normalize each hidden layer over the batch."),
    click.option("--shift", type=click.IntRange(min=0), default=0, help="Places that training images move by at most."),
    click.option("--deform", type=SHARE, default=0.0, help="Largest stretch and slant of training images."),
    click.option("--l1", type=NOT_NEGATIVE, default=0.0, help="Rate of the penalty rate · Σ|w| on the weights."),
    click.option("--l2", type=NOT_NEGATIVE, default=0.0, help="Rate of the penalty rate/2 · Σw² on the weights."),
    click.option(
        "--optimizer", type=Named(OPTIMIZERS), default="adam", metavar="NAME", help=f"One of: {', '.join(OPTIMIZERS)}."
    ),
    click.option("--learning-rate", type=POSITIVE, default=1e-3, help="Learning rate; a schedule's largest."),
    click.option(
        "--weight-decay",
        type=NOT_NEGATIVE,
        help="Decay of the weights, for sgd, adamw and their like.  [default: the optimizer's]",
    ),
    click.option("--schedule", type=Named(SCHEDULES), default="constant", help="Learning rate over the run."),
    click.option("--epochs", type=COUNT, default=10, help="Passes over the training data."),
    click.option("--batch-size", type=COUNT, default=64, help="Examples a step."),
    click.option(
        "--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, help="For initial values, shuffling and noise."
    ),
    click.option("--precision", type=Named(PRECISIONS), default="float32", help="The type the network computes in."),
    click.option("--devices", type=COUNT, default=1, help="Devices that share each batch; on a CPU, as many cores."),
    click.option(
        "--gradient",
        type=Named(GRADIENTS),
        default="auto",
        help="jax: jax.grad; formula: the hand-derived backward pass; auto: the faster one for the model.",
    ),
    click.option("--clip-norm", type=POSITIVE, help="Largest norm of a step's gradient.  [default: none]"),
    click.option(
        "--non-finite",
        type=Named(NON_FINITE),
        default="stop",
        help="After a step that is not finite: stop; skip it; roll-back the epoch, with half the learning rate.",
    ),
)


def with_run_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the flags of a run."""
    for option in reversed(RUN_FLAGS):
        function = option(function)
    return function


def run_flag(name: str) -> click.Parameter:
    """The flag that sets a field of a configuration."""
    return _PARAMETERS[name]


_PARAMETERS = {parameter.name: parameter for parameter in click.command(with_run_flags(lambda **flags: None)).params}
