"""Grid files: the members of a sweep read from TOML or CSV, with limits against malicious files."""

from __future__ import annotations

import csv
import io
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from functional_nn.core.errors import DataError, InputError, short_repr, shortened
from functional_nn.core.texts import suggest
from functional_nn.storage.files import regular_file
from functional_nn.sweeps.grid.grid import (
    MOST_MEMBERS,
    MOST_VALUES,
    Distribution,
    Hyperparameters,
    check_grid,
    check_size,
    choice,
    crossed,
    draws,
    grid,
    log_uniform,
    uniform,
    zipped,
)

MOST_BYTES = {".toml": 2**20, ".csv": 16 * 2**20}
"""The largest size of a file. TOML is parsed in Python, where a megabyte can take two seconds. Long grids are CSV."""

MOST_LINES = 2 * MOST_MEMBERS
"""The most lines of a CSV file, with blank lines."""

# The possessive repetitions (++ and *+) give nothing back, so the search does not try one text in many ways.
_KEY = r'(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|' + r"'[^'\n]*+')"
LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{100}}")
"""A dotted key of more than 100 parts, as in ``a.b.c = 1``. The time of Python's parser grows with the square
of this number."""


def read_grid(path: str | Path) -> list[Hyperparameters]:
    """The members that a TOML or CSV file describes.

    A CSV file has one column for each hyper-parameter, and one row for each member. A TOML file has one or several of
    these tables, which are combined by ``crossed``:

    - ``[grid]`` with a list of values for each hyper-parameter;
    - ``[zip]`` with lists of the same length;
    - ``[draws]`` with ``number``, ``seed``, and for each hyper-parameter ``{uniform = [low, high]}``,
      ``{log_uniform = [low, high]}`` or ``{choice = [values]}``;
    - ``[[members]]`` with one value for each hyper-parameter.

    Raises:
        DataError: if the file is missing, does not describe a grid, or describes too many members. The message names
            the place in the file.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", "the path of a .toml or a .csv file", short_repr(path))
    path = Path(path)
    readers = {".toml": _read_toml, ".csv": _read_csv}
    if path.suffix not in readers:
        raise DataError(str(path), "a .toml or a .csv file", short_repr(path.suffix))
    try:
        return check_grid(readers[path.suffix](_text(path)), str(path))
    except OSError as error:
        raise DataError(str(path), "a file to read", error.strerror) from None
    # A DataError is a ValueError, but it names the file already.
    except DataError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, InputError):
            raise DataError(str(path), "a grid", f"one where {error}") from None
        raise DataError(str(path), f"{path.suffix[1:].upper()} text", shortened(error)) from None


def _text(path: Path) -> str:
    """The text of a file. At most one byte more than allowed is read."""
    most = MOST_BYTES[path.suffix]
    with open(path, "rb", opener=regular_file) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DataError(str(path), f"a file of at most {most:,} bytes", "a larger one")
    return content.decode("utf-8-sig")  # a spreadsheet may write a byte order mark


def _read_toml(text: str) -> list[Hyperparameters]:
    if LONG_KEY.search(text):
        raise InputError("key", "one of at most 100 parts", "a longer one")
    tables = tomllib.loads(text)
    known: dict[str, Callable[..., list[Hyperparameters]]] = {
        "grid": lambda table: grid(**table),
        "zip": lambda table: zipped(**table),
        "draws": _drawn,
        "members": check_grid,
    }
    for name, table in tables.items():
        if name not in known:
            raise InputError("table", "a known one", short_repr(name), suggest(name, known))
        if not isinstance(table, list if name == "members" else dict):
            raise InputError(name, "a table", short_repr(table), "See the documentation of read_grid.")
    return crossed(*(known[name](table) for name, table in tables.items()))


def _drawn(table: Mapping[str, object]) -> list[Hyperparameters]:
    bounded = {"uniform": uniform, "log_uniform": log_uniform}

    def distribution(name: str, given: object) -> Distribution:
        if isinstance(given, dict) and len(given) == 1:
            ((kind, values),) = given.items()
            if kind == "choice":
                return choice(values)
            if kind in bounded and isinstance(values, list) and len(values) == 2:
                return bounded[kind](*values)
        expected = "{uniform = [low, high]}, {log_uniform = [low, high]} or {choice = [values]}"
        raise InputError(shortened(name), expected, short_repr(given))

    axes = {name: distribution(name, given) for name, given in table.items() if name not in ("number", "seed")}
    return draws(table.get("number"), seed=table.get("seed", 0), **axes)  # pyright: ignore[reportArgumentType]


def _read_csv(text: str) -> list[Hyperparameters]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    members: list[Hyperparameters] = []
    for row in reader:
        if reader.line_num > MOST_LINES:
            raise InputError("lines", f"at most {MOST_LINES:,}, for {MOST_MEMBERS:,} members", "more")
        if not row:
            continue
        if not names:
            names = _names(row)
            continue
        check_size(len(members) + 1, (len(members) + 1) * len(names))
        if len(row) != len(names):
            raise InputError(f"line {reader.line_num}", f"{len(names)} values, one for each column", len(row))
        members.append({name: _parsed(cell) for name, cell in zip(names, row, strict=True)})
    if not names:
        raise InputError("rows", "names and at least one member", "none")
    return members


def _names(row: list[str]) -> list[str]:
    if len(row) > MOST_VALUES:
        raise InputError("line 1", f"at most {MOST_VALUES:,} columns", f"{len(row):,}")
    if len(set(row)) < len(row) or not all(row):
        raise InputError("line 1", "a different name for each column", shortened(", ".join(row)))
    return row


def _parsed(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
