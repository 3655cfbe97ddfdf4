"""The flags of a run, and values for flags from files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click

from functional_nn.configuration.flag_types import (
    ACTIVATIONS,
    COUNT,
    COUNT_OR_ZERO,
    GRADIENTS,
    IMAGE_COLOR,
    IMAGE_SIZE,
    MODELS,
    NON_FINITE,
    NOT_NEGATIVE,
    OPTIMIZERS,
    POSITIVE,
    PRECISIONS,
    RECIPE,
    SCHEDULES,
    SEED,
    SHARE,
    FlagValue,
    Named,
    Several,
    Sizes,
)
from functional_nn.core.errors import MOST_SHOWN, InputError, escaped, short_repr, shortened

Function = TypeVar("Function", bound=Callable[..., object])
Decorator = Callable[[Function], Function]


RUN_FLAGS: tuple[Decorator, ...] = (
    click.option(
        "--dataset",
        default="mnist5k",
        metavar="NAME",
        help="mnist5k (in the package), folder:PATH (a folder of images for each class), mnist, fashion_mnist, kmnist, "
        "or any TFDS image set.",
    ),
    click.option("--data-dir", metavar="DIR", help="Folder of IDX files, or a prepared TFDS folder."),
    IMAGE_SIZE,
    IMAGE_COLOR,
    click.option(
        "--validation",
        type=SHARE,
        default=0.0,
        help="Share of the training images that is kept to choose by. Test images are then used once, at the end.",
    ),
    RECIPE,
    click.option("--model", type=Named(MODELS), default="mlp", help="The network."),
    click.option(
        "--hidden",
        type=Sizes(),
        metavar="SIZES",
        help="Hidden sizes, such as 128,64, or none.  [default: the model's]",
    ),
    click.option(
        "--activation",
        type=Named(ACTIVATIONS),
        metavar="NAME",
        help=f"One of: {', '.join(ACTIVATIONS)}.  [default: the model's]",
    ),
    click.option("--dropout", type=SHARE, default=0.0, help="Share of hidden outputs to drop in training."),
    click.option("--batch-norm", is_flag=True, help="Normalize each hidden layer over the batch."),
    click.option(
        "--shift",
        type=COUNT_OR_ZERO,
        default=0,
        help="Places that training images move by at most.",
    ),
    click.option("--deform", type=SHARE, default=0.0, help="Largest stretch and slant of training images."),
    click.option("--l1", type=NOT_NEGATIVE, default=0.0, help="Rate of the penalty rate · Σ|w| on the weights."),
    click.option("--l2", type=NOT_NEGATIVE, default=0.0, help="Rate of the penalty rate/2 · Σw² on the weights."),
    click.option(
        "--optimizer",
        type=Named(OPTIMIZERS),
        default="adam",
        metavar="NAME",
        help=f"One of: {', '.join(OPTIMIZERS)}.",
    ),
    click.option("--learning-rate", type=POSITIVE, default=1e-3, help="Learning rate; a schedule's largest."),
    click.option(
        "--weight-decay",
        type=NOT_NEGATIVE,
        help="Decay of the weights, for sgd, adamw and their like.  [default: the optimizer's]",
    ),
    click.option("--schedule", type=Named(SCHEDULES), default="constant", help="Learning rate over the run."),
    click.option("--epochs", type=COUNT, default=10, help="Passes over the training data."),
    click.option("--batch-size", type=COUNT, default=64, help="Examples in a step."),
    click.option("--seed", type=SEED, default=0, help="For initial values, shuffling and noise."),
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
        "--freeze",
        metavar="PATTERNS",
        help="Parameters that keep their values, such as 'conv_*,dense_0/*'; see --from.  [default: none]",
    ),
    click.option(
        "--non-finite",
        type=Named(NON_FINITE),
        default="stop",
        help="After a step that is not finite: stop; or skip it.",
    ),
)


def with_run_flags(function: Function) -> Function:
    """Adds the flags of a run to a command."""
    for option in reversed(RUN_FLAGS):
        function = option(function)
    return function


def run_flag(name: str) -> click.Parameter:
    """The flag that sets a field of ``Configuration``."""
    return _PARAMETERS[name]


def default_flags() -> dict[str, FlagValue]:
    """The values of all flags if none of them is given."""
    return _COMMAND.make_context("train", []).params


_COMMAND = click.command(with_run_flags(lambda **flags: None))
_PARAMETERS = {parameter.name: parameter for parameter in _COMMAND.params}
SINGLE_VALUE_FLAGS = ("batch_norm", "gradient")
"""Flags that take one value on the command line. In a grid file they may differ from member to member."""


def flag_value(flag: click.Parameter, value: object) -> FlagValue:
    """Converts a value as the flag does for a value on the command line.

    Raises:
        click.BadParameter: for a value that the flag refuses, with the flag's own message.
    """
    kind = flag.type.kind if isinstance(flag.type, Several) else flag.type
    text = _as_written(value)
    try:
        return kind.convert(text, flag, None)
    except click.BadParameter as error:
        if len(text) <= MOST_SHOWN:
            raise
        # The flag's message repeats the value, and a value from a file can be of any length.
        message = f"expected a value that {flag.opts[0]} takes, got {short_repr(text)}."
        raise click.BadParameter(message, error.ctx, flag) from None


def members_of_flags(
    members: Sequence[Mapping[str, object]], path: Path, command: click.Command, several: Sequence[str]
) -> list[dict[str, FlagValue]]:
    """Converts each value of a grid file's members by the flag of the same name.

    Args:
        members: as ``read_grid`` gives them.
        path: of the file, for errors.
        command: the command that has the flags.
        several: names of the flags that take several values.

    Raises:
        InputError: for a name that is not one of these flags.
        click.BadParameter: for a value that the flag refuses. The error names the file, the member and the column.
    """
    known = (*several, "seed", *SINGLE_VALUE_FLAGS)
    if unknown := sorted(members[0].keys() - set(known)):
        raise InputError("--grid", f"names of flags ({', '.join(known)})", shortened(", ".join(unknown)))
    flags = {parameter.name: parameter for parameter in command.params if parameter.name in known}
    # Many members have the same values, so each value is converted once. The key has the type, since True == 1.
    converted: dict[tuple[str, type, Hashable], FlagValue] = {}

    def convert(number: int, name: str, value: Hashable) -> FlagValue:
        key = name, type(value), value
        if key not in converted:
            try:
                converted[key] = flag_value(flags[name], value)
            except click.BadParameter as error:
                place = f"{escaped(str(path))}, member {number}, {name}"
                hint = f"'{flags[name].opts[0]}'"
                raise click.BadParameter(f"{place}: {error.message}", param_hint=hint) from None
        return converted[key]

    return [
        {name: convert(number, name, value) for name, value in member.items()} for number, member in enumerate(members)
    ]


def _as_written(value: object) -> str:
    """The text of a value on the command line: ``true``, ``0.1``, ``adam``, ``128,64``, or ``none``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_as_written, value)) or "none"
    try:
        return str(value)
    except ValueError:  # an integer with more digits than Python converts to text
        return short_repr(value)
