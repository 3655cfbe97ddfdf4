"""Types of command-line flags, each of which also reads a value of a file as the flag reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import click

from functional_nn.core.errors import MOST_SHOWN, shown
from functional_nn.core.texts import suggest

LARGEST_SEED = 2**32 - 1
MOST_SIZES = 200
"""The largest number of hidden layers. More take long, even to compute shapes: 300 took 7 s, 1,500 took 50 s."""

FlagValue: TypeAlias = Any
"""The value of a flag as click converts it. What it is depends on the type of the flag."""


class Named(click.Choice):
    """A name from a list. For an unknown name, the error suggests the most similar one."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(f"{shown(value)} is not known. {suggest(str(value), map(str, self.choices))}", param, ctx)
        return value


class WholeNumber(click.IntRange):
    """A whole number in a range, such as ``WholeNumber("1 or more", min=1)``. The help shows the range."""

    def __init__(self, expected: str, min: int, max: int | None = None):
        super().__init__(min, max)
        self.expected = expected

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number, {self.expected}, got {shown(value)}.", param, ctx)


class Read(click.ParamType):
    """A value that a function reads from a text.

    Args:
        name: of the type, for the help.
        expected: what the message of an error says.
        read: makes the value, or raises a ``ValueError``.
    """

    def __init__(self, name: str, expected: str, read: Callable[[str], FlagValue]):
        self.name, self.expected, self.read = name, expected, read

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> FlagValue:
        try:
            return self.read(value) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"expected {self.expected}, got {shown(value)}.", param, ctx)


class Several(click.ParamType):
    """Values of one type.

    Args:
        kind: the type of each value.
        separator: the text between two values.
    """

    name = "values"

    def __init__(self, kind: click.ParamType, separator: str = ","):
        self.kind, self.separator = kind, separator

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> FlagValue:
        if not isinstance(value, str):
            return value
        return tuple(self.kind.convert(part, param, ctx) for part in value.split(self.separator))


class Doubled(Several):
    """Counts separated by commas. ``1..4096`` stands for 1, 2, 4, … up to 4096."""

    def __init__(self):
        super().__init__(COUNT)

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> FlagValue:
        if not isinstance(value, str) or ".." not in value:
            return super().convert(value, param, ctx)
        first, _, last = value.partition("..")
        low, high = self.kind.convert(first, param, ctx), self.kind.convert(last, param, ctx)
        if low > high:
            self.fail(f"expected two numbers, the smaller number first, got {value!r}.", param, ctx)
        # low 2ⁿ is at most high for n = 0, …, ⌊log₂(high / low)⌋, and the bit length is this bound plus 1.
        return tuple(low * 2**n for n in range((high // low).bit_length()))


class NewFile(click.Path):
    """A file to write, in a folder that exists. Devices and pipes are written to, and links are followed."""

    def __init__(self):
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not value or "\0" in str(value):
            self.fail(f"expected the path of a file, got {shown(value)}.", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"expected a file in a folder that exists, got {value}. Make the folder first.", param, ctx)
        # A file is replaced by a new one in its folder. A device or a pipe is written to.
        is_replaced = path.is_file() or not path.exists()
        if not os.access(path.resolve().parent if is_replaced else path, os.W_OK):
            self.fail(f"expected a file that can be written to, got {value}.", param, ctx)
        return path


def number(expected: str, holds: Callable[[float], bool]) -> Read:
    """The type of numbers that meet a condition."""

    def read(text: str) -> float:
        if not holds(value := float(text)):
            raise ValueError
        return value

    return Read("number", expected, read)


def _sizes(text: str, most: int = MOST_SIZES) -> tuple[int, ...]:
    sizes = () if text == "none" else tuple(int(part) for part in text.split(","))
    if any(size < 1 for size in sizes) or len(sizes) > most:
        raise ValueError
    return sizes


def _image_size(text: str) -> tuple[int, ...]:
    if text == "none":
        raise ValueError
    return _sizes(text, 2)


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError
    return int(number), int(parts)


def _name_and_value(text: str) -> tuple[str, int | float | str]:
    name, _, value = text.partition("=")
    if not (name.isidentifier() and value):
        raise ValueError
    for number in (int, float):
        with suppress(ValueError):
            return name, number(value)
    return name, value


TEXT = click.STRING
COUNT = WholeNumber("1 or more", min=1)
COUNT_OR_ZERO = WholeNumber("0 or more", min=0)
SEED = WholeNumber(f"from 0 to {LARGEST_SEED}", min=0, max=LARGEST_SEED)
POSITIVE = number("a number above 0", lambda value: 0 < value < float("inf"))
NOT_NEGATIVE = number("a number not below 0", lambda value: 0 <= value < float("inf"))
SHARE = number("a number in [0, 1)", lambda value: 0 <= value < 1)
SIZES = Read("sizes", f"at most {MOST_SIZES} positive integers such as 128,64, or none", _sizes)
IMAGE_SIZE = Read("size", "a number of pixels such as 64, or height and width 48,64", _image_size)
PART = Read("part", "a part and the number of parts, such as 1/8 to 8/8", _part)
NAME_AND_VALUE = Read("name=value", "a name and a value such as timeout_min=60", _name_and_value)
JSON_FILE = click.option("--json", "json_file", type=NewFile(), metavar="FILE", help="File for the result as JSON.")


def is_on_command_line(name: str) -> bool:
    """Whether a flag of the running command is on the command line. A recipe's value is not."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def from_value(flag: str, kind: click.ParamType, value: object) -> FlagValue:
    """Converts a value as the flag does for a value on the command line.

    Raises:
        click.BadParameter: for a value that the flag refuses, with the flag's own message.
    """
    text = as_written(value)
    try:
        return kind.convert(text, None, None)
    except click.BadParameter:
        if len(text) <= MOST_SHOWN:
            raise
        # The flag's message repeats the value, and a value from a file can be of any length.
        raise click.BadParameter(f"expected a value that {flag} takes, got {shown(text)}.") from None


def as_written(value: object) -> str:
    """The text of a value on the command line: ``true``, ``0.1``, ``adam``, ``128,64``, or ``none``."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        if isinstance(value, tuple | list):
            return ",".join(map(str, value)) or "none"
        return str(value)
    except (ValueError, RecursionError):  # an integer with more digits than Python converts, or a nested list
        return shown(value)
