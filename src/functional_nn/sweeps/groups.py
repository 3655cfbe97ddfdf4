"""Which members share a compiled program: those whose hyper-parameters differ in traced numbers only."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from functional_nn.checks import check_function
from functional_nn.data.dataset import Dataset
from functional_nn.errors import InputError, inside, suggest
from functional_nn.layer import Layer, as_layer
from functional_nn.loss import Loss
from functional_nn.penalties import Penalty
from functional_nn.sweeps.grid import Hyperparameters
from functional_nn.training.arguments import check_counts, check_functions
from functional_nn.training.programs import Recipe, Split
from functional_nn.training.step import LossFunction, PenaltyFunction

Model: TypeAlias = Layer | Callable[[Mapping[str, Any]], Layer]
Optimizer: TypeAlias = optax.GradientTransformation | Callable[[Mapping[str, Any]], optax.GradientTransformation]
LossOf: TypeAlias = Loss | Callable[[Mapping[str, Any]], LossFunction]
PenaltyOf: TypeAlias = Penalty | Callable[[Mapping[str, Any]], PenaltyFunction | None] | None

OF_THE_RUN = ("seed", "data")
"""Hyper-parameters of the run itself: the key and the data set, which no function of them is given."""

COUNTS = ("epochs", "batch_size", "steps")
"""What every function of hyper-parameters is given besides them; ``steps`` are the updates of the whole run."""


class Given(Mapping):
    """Hyper-parameters as functions read them: an unknown name is answered with the nearest, and reading is noted."""

    def __init__(self, values: Mapping[str, Any]):
        self._values, self.read = dict(values), set()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            remedy = "The seed makes the run's key." if name == "seed" else suggest(str(name), self._values)
            raise InputError("hyper-parameter", "a name in the grid", repr(name), remedy)
        self.read.add(name)
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


@dataclass(frozen=True)
class RecipeOf:
    """Makes a member's recipe: the functions of a sweep, and what is the same for a static group."""

    model: Model
    optimizer: Optimizer
    loss: LossOf
    penalty: PenaltyOf
    static: tuple[tuple[str, Any], ...] = ()

    def __call__(self, traced: Mapping[str, Any]) -> Recipe:
        return self.read(traced)[0]

    def check(self) -> None:
        """Refuses what is neither part of a recipe nor a function that makes one."""
        if not isinstance(self.model, Layer) and not hasattr(self.model, "as_layer"):
            check_function("model", self.model, "a layer, or a function of the hyper-parameters that makes one")
        if not hasattr(self.optimizer, "update"):
            expected = "an Optax transformation, or a function of the hyper-parameters that makes one"
            check_function("optimizer", self.optimizer, expected)
        check_function("loss", self.loss, "a loss, such as cross_entropy, or a function")
        if self.penalty is not None:
            check_function("penalty", self.penalty, "a penalty, or a function of the hyper-parameters that makes one")

    def read(self, traced: Mapping[str, Any]) -> tuple[Recipe, set[str]]:
        """The recipe, and the names of the hyper-parameters that went into it."""
        h = Given(dict(self.static) | dict(traced))
        optimizer = self.optimizer if hasattr(self.optimizer, "update") else self.optimizer(h)  # pyright: ignore
        loss: Any = self.loss if isinstance(self.loss, Loss) or _takes_two(self.loss) else self.loss(h)
        penalty: Any = self.penalty if self.penalty is None or isinstance(self.penalty, Penalty) else self.penalty(h)
        return Recipe(self.network(h), loss, optimizer, penalty), h.read  # pyright: ignore[reportArgumentType]

    def network(self, hyperparameters: Mapping[str, Any]) -> Layer:
        """The network of these hyper-parameters."""
        if isinstance(self.model, Layer) or hasattr(self.model, "as_layer"):
            return as_layer(self.model)
        return as_layer(self.model(hyperparameters))  # pyright: ignore[reportCallIssue]


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


def _takes_two(function: Any) -> bool:
    """Whether a function is a loss, of outputs and labels, and not one of hyper-parameters that makes a loss."""
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return len(required) == 2
