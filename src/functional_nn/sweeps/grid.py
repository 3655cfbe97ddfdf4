"""Which models a sweep trains: one dict of hyper-parameters a member, as a product, in step, by lot, or from a file."""

from __future__ import annotations

import csv
import itertools
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from functional_nn.checks import check_count, is_numeric
from functional_nn.errors import DataError, InputError, suggest

Hyperparameters: TypeAlias = dict[str, Any]
Distribution: TypeAlias = Callable[[np.random.Generator], Any]


MOST_MEMBERS, MOST_VALUES = 50_000, 500_000
"""So many members has a grid, and so many values all of them together: a file of a hundred bytes can describe more than
fit into memory."""


def grid(**axes: Iterable[Any]) -> list[Hyperparameters]:
    """Every combination of the axes' values, at most 50,000; the last axis changes first.

    >>> grid(learning_rate=[0.1, 0.01], seed=range(2))[:3]
    [{'learning_rate': 0.1, 'seed': 0}, {'learning_rate': 0.1, 'seed': 1}, {'learning_rate': 0.01, 'seed': 0}]
    """
    values = [_values(name, given) for name, given in axes.items()]
    _check_size(math.prod(map(len, values)), len(values))
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*values)]


def zipped(**axes: Iterable[Any]) -> list[Hyperparameters]:
    """The axes in step: the first values together, then the second ones.

    Raises:
        InputError: where the axes are not equally long.

    >>> zipped(hidden=[32, 64], learning_rate=[1e-2, 1e-3])
    [{'hidden': 32, 'learning_rate': 0.01}, {'hidden': 64, 'learning_rate': 0.001}]
    """
    values = [_values(name, given) for name, given in axes.items()]
    if len(lengths := {len(column) for column in values}) > 1:
        counts = ", ".join(f"{name} {len(column)}" for name, column in zip(axes, values, strict=True))
        raise InputError("axes", "equally many values of each", counts, "Use grid for every combination.")
    return [dict(zip(axes, row, strict=True)) for row in zip(*values, strict=True)] if lengths else [{}]


def crossed(*grids: Sequence[Mapping[str, Any]]) -> list[Hyperparameters]:
    """Every member of the first grid with every one of the next, such as drawn settings with ten seeds each.

    >>> len(crossed(zipped(hidden=[32, 64], depth=[2, 1]), grid(seed=range(10))))
    20
    """
    checked = [check_grid(grid, "grids", least=0) for grid in grids]
    _check_size(math.prod(map(len, checked)), sum(len(members[0]) for members in checked if members))
    members = []
    for parts in itertools.product(*checked):
        names = [name for part in parts for name in part]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError("grids", "grids without a name in common", f"{', '.join(twice)} twice")
        members.append({name: value for part in parts for name, value in part.items()})
    return members


def draws(number: int, *, seed: int = 0, **axes: Distribution) -> list[Hyperparameters]:
    """So many members by lot, each axis from its own distribution; the same seed draws the same.

    Args:
        number: how many.
        seed: of the draw; a member's own ``seed`` is an axis like any other, see ``crossed``.
        axes: ``uniform(low, high)``, ``log_uniform(low, high)``, ``choice(values)``, or a function of a generator.

    >>> [round(member["rate"], 4) for member in draws(3, rate=log_uniform(1e-4, 1e-1))]
    [0.0081, 0.0006, 0.0001]
    """
    number = check_count("number", number)
    _check_size(number, len(axes))
    check_count("seed", seed, least=0, most=2**32 - 1)
    for name, distribution in axes.items():
        if not callable(distribution):
            raise InputError(name, "a distribution", repr(distribution), "Write uniform, log_uniform or choice.")
    generator = np.random.default_rng(seed)
    return [{name: _plain(draw(generator)) for name, draw in axes.items()} for _ in range(number)]


def uniform(low: float, high: float) -> Distribution:
    """Numbers between two bounds, all as likely.

    >>> 2.0 <= draws(1, x=uniform(2, 3))[0]["x"] < 3.0
    True
    """
    _check_bounds(low, high, -math.inf)
    return lambda generator: float(generator.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Positive numbers between two bounds, every power of ten as likely: for learning rates and decays.

    >>> 1e-5 <= draws(1, x=log_uniform(1e-5, 1e-2))[0]["x"] < 1e-2
    True
    """
    _check_bounds(low, high, 0.0)
    return lambda generator: float(np.exp(generator.uniform(math.log(low), math.log(high))))


def choice(values: Iterable[Any]) -> Distribution:
    """One of several values, all as likely.

    >>> draws(1, hidden=choice([32, 64]))[0]["hidden"] in (32, 64)
    True
    """
    known = _values("values", values)
    return lambda generator: known[generator.integers(len(known))]


def read_grid(path: str | Path) -> list[Hyperparameters]:
    """The members that a TOML or CSV file describes.

    A CSV file has a column a hyper-parameter and a row a member. A TOML file has any of these tables, which are
    crossed: ``[grid]`` with lists, ``[zip]`` with lists of one length, ``[draws]`` with ``number``, ``seed`` and for
    each hyper-parameter ``{uniform = [low, high]}``, ``{log_uniform = [low, high]}`` or ``{choice = [values]}``; and
    ``[[members]]`` with one value of each.

    Raises:
        DataError: for a file that is missing or says something else, with the place in it.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", "the path of a .toml or a .csv file", repr(path))
    path = Path(path)
    readers = {".toml": _read_toml, ".csv": _read_csv}
    if path.suffix not in readers:
        raise DataError(str(path), "a .toml or a .csv file", repr(path.suffix))
    try:
        members = readers[path.suffix](path.read_text("utf-8"))
    except OSError as error:
        raise DataError(str(path), "a file to read", error.strerror) from None
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, InputError):
            raise DataError(str(path), "a grid", f"one where {error}") from None
        raise DataError(str(path), f"{path.suffix[1:].upper()} text", error) from None
    return check_grid(members, str(path))


def check_grid(members: Any, argument: str = "grid", *, least: int = 1) -> list[Hyperparameters]:
    """One dict of plain values a member, all with the same names."""
    if isinstance(members, Mapping) or not isinstance(members, Sequence | Iterator):
        remedy = "Write grid(learning_rate=[1e-3, 1e-2], seed=range(4))."
        raise InputError(argument, "one dict of hyper-parameters a member", type(members).__name__, remedy)
    members = list(members)
    if len(members) < least:
        raise InputError(argument, "at least one member", "none")
    for number, member in enumerate(members):
        if not isinstance(member, Mapping) or not all(isinstance(name, str) for name in member):
            raise InputError(argument, "a dict by names for each member", f"{member!r} for member {number}")
        if different := sorted(member.keys() ^ members[0].keys()):
            given = f"member {number} that differs from the first in {', '.join(different)}"
            raise InputError(argument, "the same hyper-parameters for all members", given)
    return [{name: _checked(name, value) for name, value in member.items()} for member in members]


def _read_toml(text: str) -> list[Hyperparameters]:
    tables = tomllib.loads(text)
    known = {
        "grid": lambda table: grid(**table),
        "zip": lambda table: zipped(**table),
        "draws": _drawn,
        "members": check_grid,
    }
    for name, table in tables.items():
        if name not in known:
            raise InputError("table", "a known one", repr(name), suggest(name, known))
        if not isinstance(table, list if name == "members" else dict):
            raise InputError(name, "a table", repr(table), "See the documentation of read_grid.")
    return crossed(*(known[name](table) for name, table in tables.items()))


def _drawn(table: dict[str, Any]) -> list[Hyperparameters]:
    bounded = {"uniform": uniform, "log_uniform": log_uniform}

    def distribution(name: str, given: Any) -> Distribution:
        if isinstance(given, dict) and len(given) == 1:
            ((kind, values),) = given.items()
            if kind == "choice":
                return choice(values)
            if kind in bounded and isinstance(values, list) and len(values) == 2:
                return bounded[kind](*values)
        raise InputError(name, "{uniform = [low, high]}, {log_uniform = [low, high]} or {choice = [values]}", given)

    axes = {name: distribution(name, given) for name, given in table.items() if name not in ("number", "seed")}
    return draws(table.get("number"), seed=table.get("seed", 0), **axes)  # pyright: ignore[reportArgumentType]


def _read_csv(text: str) -> list[Hyperparameters]:
    rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    if not rows:
        raise InputError("rows", "names and at least one member", "none")
    names, *members = rows
    if len(set(names)) < len(names) or not all(names):
        raise InputError("line 1", "a different name for each column", ", ".join(names))
    for number, member in enumerate(members, 2):
        if len(member) != len(names):
            raise InputError(f"row {number}", f"{len(names)} values, one a column", len(member))
    return [{name: _parsed(cell) for name, cell in zip(names, member, strict=True)} for member in members]


def _parsed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_size(members: int, names: int) -> None:
    if members > MOST_MEMBERS or members * names > MOST_VALUES:
        expected = f"at most {MOST_MEMBERS:,} members with {MOST_VALUES:,} values together"
        raise InputError("grid", expected, f"{members:,} with {names} each", "Draw fewer by draws.")


def _values(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(name, "several values", repr(given), f"Write {name}=[{given!r}] for a single one.")
    try:
        values = [_checked(name, value) for value in given]
    except TypeError:
        raise InputError(name, "several values", repr(given)) from None
    if not values:
        raise InputError(name, "at least one value", "none")
    return values


def _checked(name: str, value: Any) -> Any:
    value = _plain(value)
    if isinstance(value, tuple):
        return tuple(_checked(name, part) for part in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        remedy = "Give a name, and let the model or the optimizer make of it what it stands for."
        raise InputError(name, "numbers, booleans, strings, or tuples of them", repr(value), remedy)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(name, "finite numbers", value)
    return value


def _plain(value: Any) -> Any:
    """NumPy's and JAX's scalars as Python's, lists as tuples."""
    if isinstance(value, list):
        return tuple(value)
    return value.item() if isinstance(value, np.ndarray | np.generic | jax.Array) and _is_scalar(value) else value


def _is_scalar(array: Any) -> bool:
    return array.ndim == 0 and is_numeric(array)


def _check_bounds(low: Any, high: Any, above: float) -> None:
    numbers = all(isinstance(b, int | float) and not isinstance(b, bool) and abs(b) < math.inf for b in (low, high))
    if not numbers or not above < low <= high:
        least = "" if above == -math.inf else f" above {above:g}"
        raise InputError("bounds", f"two finite numbers{least}, the lower first", f"{low!r} and {high!r}")
