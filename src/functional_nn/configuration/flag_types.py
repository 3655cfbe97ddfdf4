"""Types of command-line flags, each of which also reads a value of a file as the flag reads it."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import click

from functional_nn.core.errors import MOST_SHOWN, InputError, shown
from functional_nn.core.texts import suggest
from functional_nn.storage.files import device_at, kept_destination

LARGEST_SEED = 2**32 - 1
MOST_SIZES = 64
"""The largest number of hidden layers. More take long, even to compute shapes: 300 took 7 s, 1,500 took 50 s."""

FlagValue: TypeAlias = Any
"""The value of a flag as click converts it. What it is depends on the type of the flag."""


class Named(click.Choice):
    """A name from a list. For an unknown name, the error suggests the most similar one."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(f"{shown(value)} is not known. {suggest(str(value), map(str, self.choices))}", param, ctx)
        return value


class Read(click.ParamType):
    """A value that a function reads from a text.

    Args:
        name: of the type, for the help.
        expected: what the message of an error says.
        read: makes the value, or raises a ``ValueError``.
        holds: whether a value may be given.
    """

    def __init__(self, name: str, expected: str, read: Callable[[str], FlagValue], holds: Callable[[FlagValue], bool]):
        self.name, self.expected, self.read, self.holds = name, expected, read, holds

    def convert(self, value: FlagValue, param: click.Parameter | None, ctx: click.Context | None) -> FlagValue:
        with suppress(ValueError):
            found = self.read(value) if isinstance(value, str) else value
            if self.holds(found):
                return found
        return self.fail(f"expected {self.expected}, got {shown(value)}.", param, ctx)


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
        # A file is replaced by a new one in its folder, or lines are added to it. A device or a pipe is written to.
        file = Path(os.path.realpath(path))  # a link to itself stays one
        places = [path, file.parent] if path.is_file() else [path if path.exists() else file.parent]
        is_writable = all(os.access(place, os.W_OK) for place in places) and not file.is_symlink()
        if not is_writable or any(map(_is_of_another_in_shared_folder, (path, file))):
            self.fail(f"expected a file that can be written to, got {value}.", param, ctx)
        if ctx is None:
            return path
        path = file if path.is_symlink() and device_at(path) is None else path
        ctx.with_resource(kept_destination(path))  # whatever others put in its place meanwhile
        return path


def _is_of_another_in_shared_folder(file: Path) -> bool:
    """Whether a file, a pipe or a link is of another user in a folder such as ``/tmp``.

    There, only its owner, the owner of the folder and root can replace it. A link is followed only if this user or the
    owner of the folder made it.
    """
    folder = file.parent.stat()
    if not folder.st_mode & stat.S_ISVTX or not os.path.lexists(file):
        return False
    user, owner = os.geteuid(), file.lstat().st_uid
    return owner not in (user, folder.st_uid) if file.is_symlink() else user not in (0, folder.st_uid, owner)


def _sizes(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(map(int, text.split(",")))


def _part(text: str) -> tuple[int, int]:
    number, parts = map(int, text.split("/"))
    return number, parts


def _pair(text: str) -> tuple[str, str]:
    name, value = text.split("=", 1)
    return name, value


PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = Read("integer>=1", "a whole number, 1 or more", int, lambda value: value >= 1)
COUNT_OR_ZERO = Read("integer>=0", "a whole number, 0 or more", int, lambda value: value >= 0)
SEED = Read("integer>=0", f"a whole number, from 0 to {LARGEST_SEED}", int, lambda value: 0 <= value <= LARGEST_SEED)
POSITIVE = Read("number>0", "a number above 0", float, lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Read("number>=0", "a number not below 0", float, lambda value: 0 <= value < math.inf)
SHARE = Read("number<1", "a number in [0, 1)", float, lambda value: 0 <= value < 1)
SIZES = Read(
    "sizes",
    f"at most {MOST_SIZES} positive integers such as 128,64, or none (in a sweep, several networks: 128,64/256)",
    _sizes,
    lambda sizes: len(sizes) <= MOST_SIZES and min(sizes, default=1) >= 1,
)
IMAGE_SIZE = Read(
    "size",
    "a number of pixels such as 64, or height and width 48,64",
    _sizes,
    lambda sizes: len(sizes) in (1, 2) and min(sizes) >= 1,
)
PART = Read("part", "a part and the number of parts, such as 1/8 to 8/8", _part, lambda part: 1 <= part[0] <= part[1])
PAIRS = click.option(
    "--pair",
    "pairs",
    multiple=True,
    type=Read("ours=theirs", "the path of a layer, =, and the path of a module", _pair, all),
    help="A layer here and its module in the file of PyTorch, such as dense_2=fc3, if their order differs; repeatable.",
)
JSON_FILE = click.option("--json", "json_file", type=NewFile(), metavar="FILE", help="File for the result as JSON.")


def check_outside(json_file: Path | None, *places: Path | None) -> None:
    """Requires that the file of ``--json`` is none of these files, and outside of these folders.

    It could replace a file of the results, or one that the command reads.
    """
    file = None if json_file is None else Path(os.path.realpath(json_file))
    for place in places:
        if file is not None and place is not None and Path(os.path.realpath(place)) in (file, *file.parents):
            raise InputError("--json", f"a file outside of {place}, which it could change", json_file)


MEMBER = click.option(
    "--member", type=COUNT_OR_ZERO, metavar="N", help="For a sweep: the number of the model.  [default: the best one]"
)


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
