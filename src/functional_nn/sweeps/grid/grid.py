"""Grids of settings for sweeps, one dict of hyper-parameters a member: Cartesian product, zipped, or random."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from functional_nn.core.errors import InputError, short_repr, shortened
from functional_nn.core.validation import check_count, is_function, is_numeric

Hyperparameters: TypeAlias = dict[str, Any]
Distribution: TypeAlias = Callable[[np.random.Generator], Any]

MOST_MEMBERS, MOST_VALUES = 50_000, 500_000
"""Members of a grid, and values of all of them together, where a tuple counts as many as it holds. Without a limit a
file of a hundred bytes could describe more than fits into memory."""


def grid(**axes: Iterable[Any]) -> list[Hyperparameters]:
    """Every combination of the axes' values, at most 50,000; the last axis changes first.

    >>> grid(learning_rate=[0.1, 0.01], seed=range(2))[:3]
    [{'learning_rate': 0.1, 'seed': 0}, {'learning_rate': 0.1, 'seed': 1}, {'learning_rate': 0.01, 'seed': 0}]
    """
    values = [_values(name, given) for name, given in axes.items()]
    _check_product(values)
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
        raise InputError("axes", "equally many values of each", shortened(counts), "Use grid for every combination.")
    return [dict(zip(axes, row, strict=True)) for row in zip(*values, strict=True)] if lengths else [{}]


def crossed(*grids: Sequence[Mapping[str, Any]]) -> list[Hyperparameters]:
    """Every member of the first grid with every one of the next, such as drawn settings with ten seeds each.

    >>> len(crossed(zipped(hidden=[32, 64], depth=[2, 1]), grid(seed=range(10))))
    20
    """
    checked = [check_grid(grid, "grids", least=0) for grid in grids]
    counts = Counter(name for members in checked if members for name in members[0])
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise InputError("grids", "grids without a name in common", f"{shortened(', '.join(twice))} twice")
    _check_product([[tuple(member.values()) for member in members] for members in checked])
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*checked)]


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
    check_size(number, number * len(axes))
    check_count("seed", seed, least=0, most=2**32 - 1)
    for name, distribution in axes.items():
        if not is_function(distribution):
            raise InputError(name, "a distribution", short_repr(distribution), "Write uniform, log_uniform or choice.")
    generator = np.random.default_rng(seed)
    members, values = [], 0
    for _ in range(number):
        member = {name: _plain(draw(generator)) for name, draw in axes.items()}
        members.append(member)
        values += _count_values(tuple(member.values()))
        check_size(len(members), values)
    return members


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
            given = f"{short_repr(member)} for member {number}"
            raise InputError(argument, "a dict by names for each member", given)
        if different := sorted(member.keys() ^ members[0].keys()):
            given = f"member {number} that differs from the first in {shortened(', '.join(different))}"
            raise InputError(argument, "the same hyper-parameters for all members", given)
    return [{name: _checked(name, value) for name, value in member.items()} for member in members]


def check_size(members: int, values: int) -> None:
    """Refuses a grid of too many members, or of too many values in all members together."""
    if members > MOST_MEMBERS or values > MOST_VALUES:
        expected = f"at most {MOST_MEMBERS:,} members with {MOST_VALUES:,} values together"
        raise InputError("grid", expected, "more", "Draw fewer by draws.")


def _check_product(axes: Sequence[Sequence[Any]]) -> None:
    """Refuses a product of axes that would be too large, before it is made."""
    members = 1
    for axis in axes:
        # The product of all lengths may have more digits than Python can write.
        members = min(members * len(axis), MOST_MEMBERS + 1)
    check_size(members, 0)
    # Each value of an axis stands in as many members as all other axes have combinations.
    check_size(members, sum(members // len(axis) * _count_values(tuple(axis)) for axis in axes if axis))


def _count_values(value: Any) -> int:
    """How many numbers or texts a value holds: 1, or for a tuple those of all its parts."""
    return max(1, sum(map(_count_values, value))) if isinstance(value, tuple) else 1


def _values(name: str, given: Any) -> list[Any]:
    label = shortened(name)
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        remedy = f"Write {label}=[{short_repr(given)}] for a single one."
        raise InputError(label, "several values", short_repr(given), remedy)
    try:
        # One more than there may be shows that there are too many, also where they would never end.
        values = [_checked(name, value) for value in itertools.islice(given, MOST_MEMBERS + 1)]
    except TypeError:
        raise InputError(label, "several values", short_repr(given)) from None
    if not values:
        raise InputError(label, "at least one value", "none")
    return values


def _checked(name: str, value: Any) -> Any:
    value = _plain(value)
    if isinstance(value, tuple):
        return tuple(_checked(name, part) for part in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        remedy = "Give a name, and let the model or the optimizer make of it what it stands for."
        raise InputError(shortened(name), "numbers, booleans, strings, or tuples of them", short_repr(value), remedy)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(shortened(name), "finite numbers", value)
    return value


def _plain(value: Any) -> Any:
    """NumPy's and JAX's scalars as Python's, lists as tuples."""
    if isinstance(value, list):
        return tuple(value)
    return value.item() if isinstance(value, np.ndarray | np.generic | jax.Array) and _is_scalar(value) else value


def _is_scalar(array: Any) -> bool:
    return array.ndim == 0 and is_numeric(array)


def _check_bounds(low: Any, high: Any, above: float) -> None:
    numbers = all(_is_finite(bound) for bound in (low, high))
    if not numbers or not above < low <= high:
        least = "" if above == -math.inf else f" above {above:g}"
        given = f"{short_repr(low)} and {short_repr(high)}"
        raise InputError("bounds", f"two finite numbers{least}, the lower first", given)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max
