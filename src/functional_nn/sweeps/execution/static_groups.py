"""Which members share a compiled program: those whose hyper-parameters differ in traced numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from functional_nn.core.errors import InputError, inside, suggest
from functional_nn.data.dataset import Dataset, Split
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.training.argument_checks import check_counts, check_functions
from functional_nn.training.programs.recipe import COUNTS, OF_THE_RUN, RecipeOf


@dataclass(frozen=True)
class Group:
    """Members that run in the same compiled program.

    Args:
        recipe_of: makes their recipe from the traced hyper-parameters.
        traced: the names of these.
        members: their numbers in the grid, those with the same data side by side.
        epochs, batch_size: of each.
    """

    recipe_of: RecipeOf
    traced: tuple[str, ...]
    members: tuple[int, ...]
    epochs: int
    batch_size: int


def static_groups(
    recipe_of: RecipeOf,
    grid: Sequence[Hyperparameters],
    data: Mapping[str, Dataset | Split],
    *,
    epochs: int,
    batch_size: int,
    static: Sequence[str] = (),
) -> list[Group]:
    """The groups, in the order of their first members.

    A number with a decimal point, in any member, is traced for all of them, unless ``static`` names it. Integers,
    strings, booleans and tuples are static: they are taken for what changes shapes or programs.

    Raises:
        InputError: where nothing reads a hyper-parameter, or a member's make no recipe; it names the member.
    """
    names = [name for name in grid[0] if name not in OF_THE_RUN]
    if unknown := [name for name in static if name not in names]:
        raise InputError("static", "names in the grid", ", ".join(unknown), suggest(unknown[0], names))
    traced = traced_names(grid, static)
    groups: dict[Any, list[int]] = {}
    for number, member in enumerate(grid):
        arrays = _arrays(data[member["data"]])
        counts = {"epochs": epochs, "batch_size": batch_size} | {n: member[n] for n in COUNTS[:2] if n in member}
        with inside(f"member {number}"):
            check_counts(**counts)
        steps = counts["epochs"] * math.ceil(len(arrays[0]) / counts["batch_size"])
        fixed = {name: member[name] for name in names if name not in traced} | counts | {"steps": steps}
        shapes = tuple((array.shape, array.dtype.name) for array in arrays)
        groups.setdefault((tuple(sorted(fixed.items())), shapes), []).append(number)

    made = []
    for (fixed, _), members in groups.items():
        of_group = RecipeOf(recipe_of.model, recipe_of.optimizer, recipe_of.loss, recipe_of.penalty, fixed)
        read: set[str] = set()
        for number in members:
            with inside(f"member {number}"):
                recipe, read = of_group.read({name: float(grid[number][name]) for name in traced})
                check_functions(recipe.loss, recipe.optimizer, recipe.penalty)
        if unread := [name for name in names if name not in read and name not in COUNTS]:
            expected = "a name that the model, the optimizer, the loss or the penalty reads"
            raise InputError("grid", expected, ", ".join(unread), f"They read: {', '.join(sorted(read)) or 'nothing'}.")
        by_data = sorted(members, key=lambda number: list(data).index(grid[number]["data"]))
        counts = dict(fixed)
        made.append(Group(of_group, traced, tuple(by_data), counts["epochs"], counts["batch_size"]))
    return made


def traced_names(grid: Sequence[Mapping[str, Any]], static: Sequence[str] = ()) -> tuple[str, ...]:
    """The hyper-parameters that are numbers, in any member with a decimal point, but for the static ones."""

    def is_traced(name: str) -> bool:
        values = [member[name] for member in grid]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return numbers and any(isinstance(value, float) for value in values)

    return tuple(name for name in grid[0] if name not in (*OF_THE_RUN, *COUNTS, *static) and is_traced(name))


def traced_values(group: Group, grid: Sequence[Hyperparameters], members: Sequence[int] | int, dtype: Any) -> Any:
    """The traced hyper-parameters of one member, as scalars, or of several, as vectors."""
    if isinstance(members, int):
        return {name: np.asarray(grid[members][name], dtype) for name in group.traced}
    return {name: np.asarray([grid[number][name] for number in members], dtype) for name in group.traced}


def keys(grid: Sequence[Hyperparameters], members: Sequence[int] | int) -> jax.Array:
    """The key of one member, or of several."""
    if isinstance(members, int):
        return jax.random.key(grid[members]["seed"])
    return jax.numpy.stack([jax.random.key(grid[number]["seed"]) for number in members])


def _arrays(data: Dataset | Split) -> tuple[Any, Any, Any, Any]:
    if isinstance(data, Dataset):
        return data.train_images, data.train_labels, data.test_images, data.test_labels
    return data
