"""Conversion and checks of values from files, by the types of the command's flags."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import click

from functional_nn.configuration.flag_types import FlagValue, Several
from functional_nn.core.errors import MOST_SHOWN, InputError, escaped, short_repr, shortened

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
                place = f"{escaped(str(path))}, {_place(path, number)}, {name}"
                hint = f"'{flags[name].opts[0]}'"
                raise click.BadParameter(f"{place}: {error.message}", param_hint=hint) from None
        return converted[key]

    return [
        {name: convert(number, name, value) for name, value in member.items()} for number, member in enumerate(members)
    ]


def _place(path: Path, number: int) -> str:
    """The place of a member in the file."""
    if path.suffix != ".csv":
        return f"member {number}"
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        lines = [reader.line_num for row in reader if row]  # blank lines are no members
    return f"line {lines[number + 1]}"  # the first of them has the names


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
