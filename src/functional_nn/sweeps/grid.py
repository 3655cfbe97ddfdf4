"""Grids of hyper-parameters: products, random draws, files, and folds of the data."""

from __future__ import annotations

import itertools
import math
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import jax
import numpy as np

from functional_nn.core.errors import DataError, InputError, check, check_no_gaps, reading, shortened, shown
from functional_nn.core.texts import is_count, suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_number, is_function, is_numeric
from functional_nn.data.dataset import Dataset, Split, as_split
from functional_nn.data.preparation import number_of_examples
from functional_nn.storage.files import regular_file
from functional_nn.training.argument_checks import LARGEST_SEED, check_seed

PlainValue: TypeAlias = Any
"""A number, a boolean, a string, None, or a tuple of these."""

Hyperparameters: TypeAlias = dict[str, PlainValue]
Distribution: TypeAlias = Callable[[np.random.Generator], object]
MOST_REPEATED = 1000
"""``draws`` ends with an error if it draws a known member this many times in a row."""

MOST_MEMBERS, MOST_VALUES = 50_000, 500_000
"""The most members of a grid, and the most values of all members together. A tuple counts as many values as it holds.
Without these limits a file of a hundred bytes could describe a grid that does not fit into memory."""


def grid(**axes: Iterable[object]) -> list[Hyperparameters]:
    """Every combination of the values of the axes, at most 50,000. The last axis changes first.

    >>> import functional_nn as fnn
    >>> fnn.grid(learning_rate=[0.1, 0.01], seed=range(2))[:3]
    [{'learning_rate': 0.1, 'seed': 0}, {'learning_rate': 0.1, 'seed': 1}, {'learning_rate': 0.01, 'seed': 0}]
    """
    values = [_values(name, given) for name, given in axes.items()]
    _check_product(values)
    return check_grid([dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*values)])


def zipped(**axes: Iterable[object]) -> list[Hyperparameters]:
    """The first values of all axes together, then the second values, and so on.

    Raises:
        InputError: if the axes have different lengths.

    >>> import functional_nn as fnn
    >>> fnn.sweeps.zipped(hidden=[32, 64], learning_rate=[1e-2, 1e-3])
    [{'hidden': 32, 'learning_rate': 0.01}, {'hidden': 64, 'learning_rate': 0.001}]
    """
    values = [_values(name, given) for name, given in axes.items()]
    lengths = {len(column) for column in values}
    if len(lengths) > 1:
        counts = ", ".join(f"{name} {len(column)}" for name, column in zip(axes, values, strict=True))
        raise InputError(
            "axes", "the same number of values for each", shortened(counts), "Use grid for every combination."
        )
    if not values:
        return [{}]
    return [dict(zip(axes, row, strict=True)) for row in zip(*values, strict=True)]


def crossed(*grids: Sequence[Mapping[str, object]]) -> list[Hyperparameters]:
    """Every member of the first grid with every member of the next, such as random settings with ten seeds each.

    >>> import functional_nn as fnn
    >>> len(fnn.sweeps.crossed(fnn.sweeps.zipped(hidden=[32, 64], depth=[2, 1]), fnn.grid(seed=range(10))))
    20
    """
    checked = [check_grid(grid, "grids", least=0) for grid in grids]
    counts = Counter(name for members in checked if members for name in members[0])
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise InputError("grids", "grids without a name in common", f"{shortened(', '.join(twice))} twice")
    _check_product([[tuple(member.values()) for member in members] for members in checked])
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*checked)]


def draws(number: int, *, seed: int = 0, **axes: Distribution) -> list[Hyperparameters]:
    """Random members: the value of each axis is drawn from its distribution. The same seed draws the same members.

    No two members are equal: a member that is drawn again is left out, and another one is drawn.

    Args:
        number: the number of members.
        seed: the seed of the drawing. To give the members a ``seed`` for training, use ``crossed``.
        axes: for each hyper-parameter ``uniform(low, high)``, ``log_uniform(low, high)``, ``choice(values)``, or a
            function of a NumPy generator.

    >>> import functional_nn as fnn
    >>> [round(member["rate"], 4) for member in fnn.sweeps.draws(3, rate=fnn.sweeps.log_uniform(1e-4, 1e-1))]
    [0.0081, 0.0006, 0.0001]
    """
    number = check_count("number", number)
    check_size(number, number * len(axes))
    check_count("seed", seed, least=0, most=2**32 - 1)
    for name, distribution in axes.items():
        check(name, distribution, "a distribution", is_function(distribution), "Use uniform, log_uniform or choice.")
    generator = np.random.default_rng(seed)
    members: dict[frozenset[object], Hyperparameters] = {}
    values = repeated = 0
    while len(members) < number:
        member = {name: _checked(name, draw(generator)) for name, draw in axes.items()}
        is_new = members.setdefault(frozenset(member.items()), member) is member
        repeated = 0 if is_new else repeated + 1
        expected = f"at most {len(members)}, because no other members were drawn"
        check("number", number, expected, repeated < MOST_REPEATED)
        if is_new:
            values += _count_values(tuple(member.values()))
            check_size(len(members), values)
    return list(members.values())


def uniform(low: float, high: float) -> Distribution:
    """Numbers between two bounds, uniformly distributed.

    >>> import functional_nn as fnn
    >>> 2.0 <= fnn.sweeps.draws(1, x=fnn.sweeps.uniform(2, 3))[0]["x"] < 3.0
    True
    """
    least, most = _checked_bounds(low, high, -math.inf)
    if not math.isfinite(most - least):
        raise InputError("bounds", "two numbers whose difference a float can hold", f"{least} and {most}")
    return lambda generator: float(generator.uniform(least, most))


def log_uniform(low: float, high: float) -> Distribution:
    """Positive numbers between two bounds, every power of ten as likely: for learning rates and decays.

    >>> import functional_nn as fnn
    >>> 1e-5 <= fnn.sweeps.draws(1, x=fnn.sweeps.log_uniform(1e-5, 1e-2))[0]["x"] < 1e-2
    True
    """
    least, most = _checked_bounds(low, high, 0.0)
    return lambda generator: float(np.exp(generator.uniform(math.log(least), math.log(most))))


def choice(values: Iterable[object]) -> Distribution:
    """One of several values, each with the same probability.

    >>> import functional_nn as fnn
    >>> fnn.sweeps.draws(1, hidden=fnn.sweeps.choice([32, 64]))[0]["hidden"] in (32, 64)
    True
    """
    known = _values("values", values)
    return lambda generator: known[generator.integers(len(known))]


def check_grid(members: object, argument: str = "grid", *, least: int = 1) -> list[Hyperparameters]:
    """Raises an InputError unless members are dicts with the same names; returns them with plain Python values."""
    if isinstance(members, Mapping) or not isinstance(members, Sequence | Iterator):
        remedy = "Write grid(learning_rate=[1e-3, 1e-2], seed=range(4))."
        raise InputError(argument, "one dict of hyper-parameters for each member", type(members).__name__, remedy)
    members = list(itertools.islice(members, MOST_MEMBERS + 1))
    check_size(len(members), 0)
    if len(members) < least:
        raise InputError(argument, "at least one member", "none")
    for number, member in enumerate(members):
        if not isinstance(member, Mapping) or not all(isinstance(name, str) for name in member):
            given = f"{shown(member)} for member {number}"
            raise InputError(argument, "a dict of values by name for each member", given)
        different = sorted(member.keys() ^ members[0].keys())
        if different:
            given = f"member {number} that differs from the first in {shortened(', '.join(different))}"
            raise InputError(argument, "the same hyper-parameters for all members", given)
    checked = [{name: _checked(name, value) for name, value in member.items()} for member in members]
    for name in checked[0] if checked else ():
        # True equals 1 in Python, so the two would be one setting.
        are_flags = {isinstance(member[name], bool) for member in checked if isinstance(member[name], int | float)}
        if len(are_flags) > 1:
            raise InputError(f"{argument}: {shortened(name)}", "only flags, or only numbers", "both")
    # Statistics over seeds would take equal models for independent ones, and an interval would be too narrow.
    known: set[frozenset[object]] = set()
    for number, member in enumerate(checked):
        values = frozenset(member.items())
        if values in known:
            raise InputError(argument, "different members", f"{shown(member)} again for member {number}")
        known.add(values)
    return checked


def check_size(members: int, values: int) -> None:
    """Raises an InputError if a grid has too many members, or too many values in all members together."""
    if members > MOST_MEMBERS or values > MOST_VALUES:
        expected = f"at most {MOST_MEMBERS:,} members with {MOST_VALUES:,} values together"
        raise InputError("grid", expected, "more", "Use draws for fewer members.")


MOST_BYTES = 2**20
"""The largest size of a file. TOML is parsed in Python, where a megabyte can take two seconds."""

# The possessive repetitions (++ and *+) give nothing back, so the search does not try one text in many ways.
_KEY = r'(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|' + r"'[^'\n]*+')"
LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_\\-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{100}}")
"""A dotted key of more than 100 parts, as in ``a.b.c = 1``. The time of Python's parser grows with the square
of this number."""


def read_grid(path: str | Path) -> list[Hyperparameters]:
    """The members that a TOML file describes.

    The file has one or several of these tables, which are combined by ``crossed``:

    - ``[grid]`` with a list of values for each hyper-parameter;
    - ``[zip]`` with lists of the same length;
    - ``[draws]`` with ``number``, ``seed``, and for each hyper-parameter ``{uniform = [low, high]}``,
      ``{log_uniform = [low, high]}`` or ``{choice = [values]}``;
    - ``[[members]]`` with one value for each hyper-parameter.

    Raises:
        DataError: if the file is missing, does not describe a grid, or describes too many members. The message names
            the place in the file.
    """
    check("path", path, "the path of a .toml file", isinstance(path, str | os.PathLike))
    path = Path(path)
    if path.suffix != ".toml":
        raise DataError(str(path), "a .toml file", shown(path.suffix))
    try:
        with reading(path, "a file of TOML text"):
            return check_grid(_read_toml(_text(path)), str(path))
    except DataError:  # it names the file already
        raise
    except InputError as error:
        raise DataError(str(path), "a grid", f"one where {str(error).removesuffix('.')}") from None


def folds(data: Dataset | Split, count: int, *, seed: int = 0) -> dict[str, Dataset | Split]:
    """Divides the training examples into ``count`` parts; each fold tests on one part and trains on the others.

    The test examples are not used, so they remain for the final test. Folds of equal size share a compiled program, so
    choose a count that divides the number of examples.

    Raises:
        InputError: for data with validation examples, which no fold would use; and for a count that does not fit.

    >>> import functional_nn as fnn
    >>> five = fnn.sweeps.folds(fnn.load_dataset("mnist5k"), 5)
    >>> list(five)[:2], five["fold_0"].train_images.shape[0], five["fold_0"].test_images.shape[0]
    (['fold_0', 'fold_1'], 3200, 800)
    """
    split = as_split(data)
    check_seed(seed)
    x, labels = split.part("train")
    if split.validation_x is not None:
        remedy = "Make folds of all training examples. Call with_validation of each fold if you need it."
        raise InputError("data", "data without validation examples", "data that have some", remedy)
    examples = number_of_examples(x)
    expected = f"an integer from 2 to {examples}, the number of training examples"
    check("count", count, expected, is_count(count, least=2, most=examples))
    parts = np.array_split(np.random.default_rng(seed).permutation(examples), count)

    def chosen(tree: PyTree, rows: np.ndarray) -> PyTree:
        return jax.tree.map(lambda array: array[rows], tree)

    def fold(number: int) -> Dataset | Split:
        train, test = np.concatenate([part for i, part in enumerate(parts) if i != number]), parts[number]
        arrays = (chosen(x, train), chosen(labels, train), chosen(x, test), chosen(labels, test))
        if isinstance(data, Dataset):
            return Dataset(f"{data.name}, fold {number} of {count}", *arrays, *data[5:])
        return Split(*arrays)

    return {f"fold_{number}": fold(number) for number in range(count)}


def _check_product(axes: Sequence[Sequence[object]]) -> None:
    """Raises an InputError if a product of axes would be too large, before it is made."""
    members = 1
    for axis in axes:
        # The product of all lengths may have more digits than Python can write.
        members = min(members * len(axis), MOST_MEMBERS + 1)
    check_size(members, 0)
    # Each value of an axis appears in one member for each combination of the other axes.
    check_size(members, sum(members // len(axis) * _count_values(tuple(axis)) for axis in axes if axis))


def _count_values(value: object) -> int:
    """The number of numbers or strings in a value: 1, or for a tuple those of all its parts."""
    if isinstance(value, tuple):
        return max(1, sum(map(_count_values, value)))
    return 1


def _values(name: str, given: object) -> list[PlainValue]:
    label = shortened(name)
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        remedy = f"Write {label}=[{shortened(repr(given))}] for a single one."
        raise InputError(label, "several values", shown(given), remedy)
    try:
        # At most one value more than allowed is read, because an iterable may be endless.
        values = [_checked(name, value) for value in itertools.islice(given, MOST_MEMBERS + 1)]
    except TypeError:
        raise InputError(label, "several values", shown(given)) from None
    if not values:
        raise InputError(label, "at least one value", "none")
    if len(values) > MOST_MEMBERS:
        raise InputError(label, f"at most {MOST_MEMBERS:,} values", "more")
    return values


def _checked(name: str, given: object) -> PlainValue:
    check_no_gaps(shortened(name), given)
    value = _plain(given)
    if isinstance(value, tuple):
        return tuple(_checked(name, part) for part in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        remedy = "Use a name, and let the model or the optimizer make the object from it."
        raise InputError(shortened(name), "numbers, booleans, strings, or tuples of them", shown(value), remedy)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(shortened(name), "finite numbers", value)
    # By default JAX has integers of 32 bits. A seed, which may be the largest of them, is checked as such.
    if name != "seed" and isinstance(value, int) and abs(value) > LARGEST_SEED:
        remedy = "Write a larger number with a decimal point."
        raise InputError(shortened(name), f"integers up to {LARGEST_SEED:,}", shown(value), remedy)
    return value


def _plain(value: object) -> PlainValue:
    """Scalars of NumPy and JAX as Python numbers, and lists as tuples; other values as they are."""
    if isinstance(value, list):
        return tuple(value)
    is_array = isinstance(value, np.ndarray | np.generic | jax.Array)
    return value.item() if is_array and value.ndim == 0 and is_numeric(cast(np.ndarray, value)) else value


def _checked_bounds(low: float, high: float, above: float) -> tuple[float, float]:
    """Two bounds as Python numbers; raises an InputError unless they are finite and in rising order."""
    limit = "" if above == -math.inf else f" above {above:g}"
    expected = f"two finite numbers{limit}, the lower first"
    least, most = (float(check_number("bounds", bound, expected)) for bound in (low, high))
    check("bounds", (least, most), expected, above < least <= most)
    return least, most


def _text(path: Path) -> str:
    """The text of a file. At most one byte more than allowed is read."""
    with open(path, "rb", opener=regular_file) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(str(path), f"a file of at most {MOST_BYTES:,} bytes", "a larger one")
    return content.decode("utf-8-sig")  # an editor may write a byte order mark


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
        check("table", name, "a known one", name in known, suggest(name, known))
        is_table = isinstance(table, list if name == "members" else dict)
        check(name, table, "a table", is_table, "See the documentation of read_grid.")
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
        raise InputError(shortened(name), expected, shown(given))

    axes = {name: distribution(name, given) for name, given in table.items() if name not in ("number", "seed")}
    return draws(table.get("number"), seed=table.get("seed", 0), **axes)  # pyright: ignore[reportArgumentType]
