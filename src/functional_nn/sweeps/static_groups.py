"""Static groups, the members of a sweep that share a compiled program, and their programs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError, inside
from functional_nn.core.texts import suggest
from functional_nn.core.trees import flatten
from functional_nn.core.validation import check_count
from functional_nn.data.dataset import Split
from functional_nn.data.preparation import number_of_examples
from functional_nn.storage.arrays import form
from functional_nn.sweeps.grid import Hyperparameters, PlainValue
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.devices import Device, computing_on
from functional_nn.training.epoch_loop import RunData
from functional_nn.training.precision import Precision
from functional_nn.training.programs import Programs, ProgramSpec, shapes_of
from functional_nn.training.recipe import COUNTS, NOT_FOR_FUNCTIONS, STEPS, Recipe, RecipeMaker, WithStaticValues

StaticValues: TypeAlias = tuple[tuple[str, object, PlainValue], ...]
"""Names, types and values of static hyper-parameters."""

DataShapes: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class StaticGroup:
    """Members that run in the same compiled programs, with these programs and the data on each device that is used.

    Args:
        make_recipe: makes a member's recipe from its traced hyper-parameters.
        recipe: the recipe of the first member.
        traced: the names of the traced hyper-parameters.
        members: the numbers of the members in the grid.
        splits: the data sets of the members by name, as the network takes them.
        epochs, batch_size: those of each member.

    Attributes:
        programs: by device.
        compilations, seconds: how often the programs were compiled, and how long that took.
    """

    make_recipe: WithStaticValues
    recipe: Recipe
    traced: tuple[str, ...]
    members: tuple[int, ...]
    splits: Mapping[str, Split]
    epochs: int
    batch_size: int
    programs: dict[Device, Programs] = field(default_factory=dict, init=False)
    compilations: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _data: dict[tuple[Device, str], RunData] = field(default_factory=dict, init=False)
    _copying: threading.Lock = field(default_factory=threading.Lock, init=False)

    def spec(self, precision: Precision, workers: int = 1, members_at_once: int | None = None) -> ProgramSpec:
        """The specification of the programs that train one member, or several at once, in each of some threads."""
        scalar = jax.ShapeDtypeStruct((), np.dtype(precision.parameters))
        return ProgramSpec(
            self.make_recipe,
            self.batch_size,
            precision,
            data=shapes_of(next(iter(self.splits.values()))),
            hyperparameters=tuple((name, scalar) for name in self.traced),
            members=members_at_once,
            in_threads=workers > 1,
        )

    def compile(self, precision: Precision, devices: Sequence[Device], members_at_once: int | None) -> Programs:
        """Compiles the programs for the device of each worker; returns those on the first one."""
        spec = self.spec(precision, len(devices), members_at_once)
        for device in dict.fromkeys(devices):
            clock = time.perf_counter()
            with computing_on(device):
                programs = self.programs[device] = Programs(spec)
            if programs.compiled_now:
                self.compilations += 1
                self.seconds += time.perf_counter() - clock
        return self.programs[devices[0]]

    def data_on(self, device: Device, name: str) -> RunData:
        """A data set on a device, with the programs there; it is copied there once."""
        # Workers are threads: without the lock, two of them could copy the same data at the same time.
        with self._copying:
            if (device, name) not in self._data:
                self._data[device, name] = RunData(self.programs[device], jax.device_put(self.splits[name], device))
            return self._data[device, name]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics of the members, which are the same on each device."""
        return next(iter(self.programs.values())).metric_names


def static_groups(
    make_recipe: RecipeMaker,
    grid: Sequence[Hyperparameters],
    data: Mapping[str, Split],
    *,
    epochs: int,
    batch_size: int,
    static: Sequence[str] = (),
) -> list[StaticGroup]:
    """The groups of a grid, in the order of their first members.

    A hyper-parameter that has a decimal point for any member is traced for all members, unless ``static`` names it.
    Integers, strings, booleans and tuples are static: they may change shapes or programs.

    Raises:
        InputError: if no function of any member reads a hyper-parameter, or one has the name ``steps``, or the recipe
            of a member cannot be made. It names the member.
    """
    names = [name for name in grid[0] if name not in NOT_FOR_FUNCTIONS]
    if STEPS in names:
        remedy = "It is the number of updates of the whole run, which follows from epochs and batch_size. Rename yours."
        raise InputError("grid", "names that the sweep does not give a value itself", STEPS, remedy)
    unknown = [name for name in static if name not in names]
    if unknown:
        raise InputError("static", "names in the grid", ", ".join(unknown), suggest(unknown[0], names))
    traced = traced_names(grid, static)

    examples = {name: number_of_examples(split.train_x) for name, split in data.items()}
    data_shapes = {
        name: tuple((path, form(array)) for path, array in flatten(split._asdict()).items())
        for name, split in data.items()
    }

    # Members share programs if their static values and the shapes of their data are equal.
    members_of: dict[tuple[StaticValues, DataShapes], list[int]] = {}
    for number, member in enumerate(grid):
        counts = {"epochs": member.get("epochs", epochs), "batch_size": member.get("batch_size", batch_size)}
        with inside(f"member {number}"):
            for name, count in counts.items():
                check_count(name, count)
        counts[STEPS] = counts["epochs"] * math.ceil(examples[member["data"]] / counts["batch_size"])
        static_values = {name: member[name] for name in names if name not in traced} | counts
        key = with_types(static_values), data_shapes[member["data"]]
        members_of.setdefault(key, []).append(number)

    groups = []
    names_read: set[str] = set()
    for (static_values, _), members in members_of.items():
        with_static = WithStaticValues(make_recipe, static_values)
        # Each recipe is made once here, so that errors name the member. Members that differ only in what no function
        # reads, such as the seed, have the same one.
        first_with: dict[tuple[float, ...], int] = {}
        for number in members:
            first_with.setdefault(tuple(float(grid[number][name]) for name in traced), number)
        recipes = []
        for traced_now, number in first_with.items():
            with inside(f"member {number}"):
                recipe, read_by_member = with_static.read(dict(zip(traced, traced_now, strict=True)))
            recipes.append(recipe)
            names_read |= read_by_member
        values = {name: value for name, _, value in static_values}
        splits = {}
        for name in dict.fromkeys(grid[number]["data"] for number in members):
            with inside(name) if name else nullcontext():
                splits[name] = data_for_network(recipes[0].net, recipes[0].loss, data[name])
        groups.append(
            StaticGroup(
                with_static,
                recipes[0],
                traced,
                tuple(members),
                splits,
                epochs=values["epochs"],
                batch_size=values["batch_size"],
            )
        )
    _check_names_read(names, names_read)
    return groups


def with_types(values: Mapping[str, PlainValue]) -> StaticValues:
    """The names, types and values of static hyper-parameters, sorted by name.

    >>> with_types({"flag": True}) == with_types({"flag": 1})
    False
    """
    return tuple((name, _type_of(value), value) for name, value in sorted(values.items()))


def traced_names(grid: Sequence[Mapping[str, object]], static: Sequence[str] = ()) -> tuple[str, ...]:
    """The hyper-parameters to trace: numbers with a decimal point for any member, except those in ``static``."""

    def is_traced(name: str) -> bool:
        values = [member[name] for member in grid]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return numbers and any(isinstance(value, float) for value in values)

    excluded = {*NOT_FOR_FUNCTIONS, *COUNTS, *static}
    return tuple(name for name in grid[0] if name not in excluded and is_traced(name))


def traced_values(
    group: StaticGroup, grid: Sequence[Hyperparameters], members: Sequence[int] | int, dtype: DTypeLike
) -> dict[str, np.ndarray]:
    """The traced hyper-parameters of one member, as scalars, or of several members, as vectors."""
    if isinstance(members, int):
        return {name: np.asarray(grid[members][name], dtype) for name in group.traced}
    return {name: np.asarray([grid[number][name] for number in members], dtype) for name in group.traced}


def keys(grid: Sequence[Hyperparameters], members: Sequence[int] | int) -> jax.Array:
    """The random key of one member, or of several members."""
    if isinstance(members, int):
        return jax.random.key(grid[members]["seed"])
    # Keys that are made one by one, and then stacked, take more than linear time.
    return jax.vmap(jax.random.key)(np.array([grid[number]["seed"] for number in members], np.uint32))


def _type_of(value: PlainValue) -> object:
    """The type of a value; for a tuple, the types of its parts."""
    return tuple(map(_type_of, value)) if isinstance(value, tuple) else type(value)


def _check_names_read(names: Sequence[str], names_read: set[str]) -> None:
    """Raises an InputError if no member's functions read one of the hyper-parameters in ``names``."""
    unread = [name for name in names if name not in names_read and name not in COUNTS]
    if unread:
        expected = "a name that the model, the optimizer, the loss or the penalty reads"
        read = ", ".join(sorted(names_read)) or "nothing"
        remedy = f"They read: {read}. An inner function reads too late: write w = h['w'] before it."
        raise InputError("grid", expected, ", ".join(unread), remedy)
