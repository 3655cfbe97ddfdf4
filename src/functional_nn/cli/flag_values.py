"""Values from files, converted and checked by the types of the command's own flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from functional_nn.cli.options import Several
from functional_nn.core.errors import MOST_SHOWN, InputError, escaped, short_repr, shortened

OF_ONE_VALUE = ("batch_norm", "gradient")
"""Flags that take one value on the command line, and may still differ from member to member in a grid file."""


def flag_value(flag: click.Parameter, value: Any) -> Any:
    """What the flag makes of a value, as if it had been written on the command line.

    Raises:
        click.BadParameter: for a value that the flag refuses, in the flag's words.
    """
    kind = flag.type.kind if isinstance(flag.type, Several) else flag.type
    text = _as_written(value)
    try:
        return kind.convert(text, flag, None)
    except click.BadParameter as error:
        if len(text) <= MOST_SHOWN:
            raise
        # The flag's message repeats the value, which from a file may be of any length.
        message = f"expected a value that {flag.opts[0]} takes, got {short_repr(text)}."
        raise click.BadParameter(message, error.ctx, flag) from None


def members_of_flags(
    members: Sequence[Mapping[str, Any]], path: Path, command: click.Command, several: Sequence[str]
) -> list[dict[str, Any]]:
    """The members of a grid file with each value converted by the flag that has its name.

    Args:
        members: as ``read_grid`` gives them.
        path: of the file, for errors.
        command: whose flags they are.
        several: names of the flags that take several values.

    Raises:
        InputError: for a name that no such flag has.
        click.BadParameter: for a value that the flag refuses; it names file, member and column.
    """
    known = (*several, "seed", *OF_ONE_VALUE)
    if unknown := sorted(members[0].keys() - set(known)):
        raise InputError("--grid", f"names of flags ({', '.join(known)})", shortened(", ".join(unknown)))
    flags = {parameter.name: parameter for parameter in command.params if parameter.name in known}
    # A grid repeats few values in many members. True and 1 are equal and not the same, so the type is in the key.
    converted: dict[tuple[str, type, Any], Any] = {}

    def convert(number: int, name: str, value: Any) -> Any:
        key = name, type(value), value
        if key not in converted:
            try:
                converted[key] = flag_value(flags[name], value)
            except click.BadParameter as error:
                place = f"{escaped(click.format_filename(path))}, {_place(path, number)}, {name}"
                hint = f"'{flags[name].opts[0]}'"
                raise click.BadParameter(f"{place}: {error.message}", param_hint=hint) from None
        return converted[key]

    return [
        {name: convert(number, name, value) for name, value in member.items()} for number, member in enumerate(members)
    ]


def _place(path: Path, number: int) -> str:
    """Where a member stands in the file. In CSV the first row has the names."""
    return f"row {number + 2}" if path.suffix == ".csv" else f"member {number}"


def _as_written(value: Any) -> str:
    """A value as it is written after its flag: ``true``, ``0.1``, ``adam``, ``128,64``, or ``none``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_as_written, value)) or "none"
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return short_repr(value)
