"""All members of a sweep: their programs, their chunks, and how each has fared."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import numpy as np

from functional_nn.core.errors import inside
from functional_nn.core.shapes import Shape
from functional_nn.data.dataset import Dataset, Split
from functional_nn.storage.checkpoint import forms
from functional_nn.storage.identity import GROUPS, PROGRAMS, SURROUNDINGS
from functional_nn.sweeps.execution import plan as plans
from functional_nn.sweeps.execution.halving import Halving
from functional_nn.sweeps.execution.member_batch import Chunk, Course
from functional_nn.sweeps.execution.plan import Plan
from functional_nn.sweeps.execution.static_groups import Group, keys, traced_values
from functional_nn.sweeps.execution.store import Store
from functional_nn.sweeps.execution.workers import Workers
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.sweeps.results.member import Member
from functional_nn.training.fit import prepared
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.programs.compile import Programs, compiled
from functional_nn.training.programs.devices import cores
from functional_nn.training.programs.fingerprint import surroundings
from functional_nn.training.programs.memory import check_memory, program_bytes

UNROLL = 2
"""Steps in the body of a loop: up to 6% quicker for small networks, and 7 to 30% longer to compile, once for all."""


class GroupPrograms:
    """A static group's compiled programs and its data, on every device that is asked for."""

    def __init__(
        self, group: Group, grid: Sequence[Hyperparameters], data: Mapping[str, Dataset | Split], policy: Precision
    ):
        self.group, self._policy = group, policy
        self._hyperparameters = traced_values(group, grid, group.members[0], policy.parameters)
        recipe = group.recipe_of({name: float(grid[group.members[0]][name]) for name in group.traced})
        self.loss = str(getattr(recipe.loss, "name", getattr(recipe.loss, "__name__", type(recipe.loss).__name__)))
        self.splits: dict[str, Split] = {}
        for name in dict.fromkeys(grid[number]["data"] for number in group.members):
            with inside(name) if name else nullcontext():
                self.splits[name] = prepared(recipe.net, recipe.loss, data[name])
        self.compilations, self.seconds = 0, 0.0
        self._programs: dict[Any, Programs] = {}
        self._data: dict[Any, Split] = {}
        self._sending = threading.Lock()

    def compile(self, devices: Sequence[Any], members: int | None, shared_order: bool) -> Programs:
        """The programs on each device, for so many members mapped together, or for one."""
        split = next(iter(self.splits.values()))
        for device in dict.fromkeys(devices):
            clock = time.perf_counter()
            arguments = (self.group.recipe_of, self._hyperparameters, self.group.batch_size, self._policy, split)
            with nullcontext() if device == jax.local_devices()[0] else jax.default_device(device):
                self._programs[device], compiled_now = compiled(*arguments, members, shared_order, UNROLL)
            self.compilations += compiled_now
            self.seconds += (time.perf_counter() - clock) * compiled_now
        return self._programs[devices[0]]

    def on(self, device: Any) -> Programs:
        """The programs on a device."""
        return self._programs[device]

    def data_on(self, device: Any, name: str) -> Split:
        """A data set on a device; it is sent there once."""
        with self._sending:
            if (device, name) not in self._data:
                self._data[device, name] = jax.device_put(self.splits[name], device)
            return self._data[device, name]


class Population:
    """The members of a sweep under way.

    Args:
        groups: the static groups of the grid.
        grid: the members' hyper-parameters.
        data: data sets by name.
        policy: the precision.
        plan: as it was chosen; fewer at a time where memory has no room for it.
        measure: whether the number of workers is to be measured, or recalled.
        keep: whether members' parameters and state are kept.
        order_seed, patience: see ``sweep``.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        grid: Sequence[Hyperparameters],
        data: Mapping[str, Dataset | Split],
        policy: Precision,
        plan: Plan,
        *,
        measure: bool,
        keep: bool,
        order_seed: int | None = None,
        patience: int | None = None,
    ):
        self.courses = [Course(number) for number in range(len(grid))]
        self.plan, self._measure = plan, measure
        self._grid, self._policy, self._patience, self._keep = grid, policy, patience, keep
        self._order_key = None if order_seed is None else jax.random.key(order_seed)
        self._programs = [GroupPrograms(group, grid, data, policy) for group in groups]
        self._members: dict[int, tuple[Any, Any]] = {}
        self._compile()
        self._estimated_bytes = plans.used_bytes()[0] + self._needed_bytes()
        if measure and (workers := plans.recall(self._situation)) is not None:
            self.plan, self._measure = Plan(min(workers, self.plan.workers), self.plan.members), False

    def _compile(self) -> None:
        """Compiles every group for the plan, and once more for fewer members where memory has no room."""
        limit = plans.memory_limit()
        while True:
            made = [run.compile(self.devices, self._mapped, self._order_key is not None) for run in self._programs]
            self._chunk_bytes = max(map(program_bytes, made))
            room = plans.fitting(self.plan, self._chunk_bytes, limit)
            done = room.members == self.plan.members
            self.plan = room
            if done:
                break
        for run, programs in zip(self._programs, made, strict=True):
            check_memory(programs, tuple(run.splits.values()))

    def _needed_bytes(self) -> int:
        """What the sweep needs besides what is there: the data, a chunk for each worker, the members that are kept."""
        data = sum(array.nbytes for run in self._programs for split in run.splits.values() for array in split)
        members = 0
        for run in self._programs if self._keep else ():
            state = run.on(self.devices[0]).train_state
            one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.state)))
            members += len(run.group.members) * one // self.plan.members
        return data + self.plan.workers * self._chunk_bytes + members

    @property
    def devices(self) -> list[Any]:
        """One for each worker, the devices in turn."""
        devices = jax.local_devices()
        return [devices[worker % len(devices)] for worker in range(self.plan.workers)]

    @property
    def _mapped(self) -> int | None:
        return self.plan.members if self.plan.members > 1 else None

    @cached_property
    def _situation(self) -> str:
        """What the fastest number of workers depends on: the machine, and how much there is to compute."""
        group = self._programs[0].group
        sizes = [array.shape for array in jax.tree.leaves(self._programs[0].on(self.devices[0]).train_state.params)]
        machine = f"{jax.local_devices()[0].device_kind}, {cores()} cores, jax {jax.__version__}"
        return f"{machine}, batch {group.batch_size}, parameters {sizes}"

    def train(self, rung: int | None, store: Store | None) -> Iterator[None]:
        """Trains the members that go on up to an epoch, or to their ends; gives after each epoch of a chunk."""
        waiting = []
        for place, run in enumerate(self._programs):
            for numbers in self._chunks(run.group):
                name = f"{place}-{numbers[0]}-{'end' if rung is None else rung}"
                if store is None or not self._take(store, name, numbers, run, whole=rung is not None):
                    waiting.append((name, self._chunk(run, numbers)))
        names = {id(chunk): name for name, chunk in waiting}
        groups = {id(run.group): run for run in self._programs}

        def until(chunk: Chunk) -> int:
            return chunk.group.epochs if rung is None else rung

        def begin(chunk: Chunk, device: Any) -> None:
            data = self._grid[chunk.courses[0].number]["data"]
            chunk.begin(device, groups[id(chunk.group)].data_on(device, data))

        chunks = [chunk for _, chunk in waiting]
        workers = Workers(self.devices, begin)
        steps = self._run(workers, chunks, until)
        try:
            for chunk, done in steps:
                if done:
                    if store is not None:
                        self._save(store, names[id(chunk)], chunk, whole=rung is not None)
                    self._settle(chunk.courses)
                yield
        finally:
            steps.close()
            self._settle(self.courses)  # also who ended while the workers came to a stop

    def _run(self, workers: Workers, chunks: Sequence[Chunk], until: Any) -> Generator[tuple[Chunk, bool], None, None]:
        if self._measure and len(chunks) > 1 and self.plan.workers > 1:
            yield from workers.measure(chunks, until)
            if workers.measured:
                self._measure = False
                self.plan = Plan(len(workers.devices), self.plan.members)
                plans.remember(self._situation, len(workers.devices))
        yield from workers.run([chunk for chunk in chunks if chunk.goes_on(until(chunk))], until)

    def _chunks(self, group: Group) -> list[list[int]]:
        """The running members of a group in chunks of the plan's size, each with the same data."""
        by_data: dict[str, list[int]] = {}
        for number in group.members:
            if self.courses[number].running:
                by_data.setdefault(self._grid[number]["data"], []).append(number)
        size = self.plan.members
        return [numbers[i : i + size] for numbers in by_data.values() for i in range(0, len(numbers), size)]

    def _chunk(self, run: GroupPrograms, numbers: Sequence[int]) -> Chunk:
        courses = [self.courses[number] for number in numbers]
        own = {"patience": self._patience, "order_key": self._order_key}
        return Chunk(run.group, run.on, self._grid, courses, self._mapped, self._policy.parameters, **own)

    def identity(self) -> dict[str, Any]:
        """What tells this sweep from others with the same grid: what its programs are made of, and their text."""
        groups, texts = {}, {}
        for place, run in enumerate(self._programs):
            programs = run.on(self.devices[0])
            parts = {"parameters": programs.train_state.params, "optimizer state": programs.train_state.optimizer_state}
            name = f"group {place}" if len(self._programs) > 1 else ""
            groups[name] = {"loss": run.loss, **{part: forms(tree) for part, tree in parts.items()}}
            texts |= {f"{part} of {name}" if name else part: text for part, text in programs.fingerprints.items()}
        return {GROUPS: groups, PROGRAMS: texts, SURROUNDINGS: surroundings()}

    # What was reached, in memory and on disk

    def _kept(self, reached: Any, whole: bool) -> Any:
        """What is stored of a member: all that going on takes, or what the result has of it."""
        return reached._replace(key=None) if whole else (reached.params, reached.state) if self._keep else ()

    def _save(self, store: Store, name: str, chunk: Chunk, *, whole: bool) -> None:
        store.save(name, chunk.courses, [self._kept(course.reached, whole) for course in chunk.courses])

    def _take(self, store: Store, name: str, numbers: Sequence[int], run: GroupPrograms, *, whole: bool) -> bool:
        """Takes a chunk from the store; whether it was there."""
        like: Any = run.on(self.devices[0]).train_state
        found = store.load(name, numbers, self._kept(like, whole))
        if found is None:
            return False
        for course, tree in zip(*found, strict=True):
            self.courses[course.number] = course
            if whole:
                course.reached = tree._replace(key=keys(self._grid, course.number))
            elif self._keep:
                self._members[course.number] = tree
        self._settle([course for course in found[0] if course.reached is not None])
        return True

    def _settle(self, courses: Sequence[Course]) -> None:
        """Sets down members that have ended, as NumPy arrays."""
        for course in courses:
            if not course.running and course.reached is not None:
                if self._keep:
                    self._members[course.number] = jax.device_get((course.reached.params, course.reached.state))
                course.reached = None

    def leave_out(self, halving: Halving) -> None:
        """Ends the members that a rung leaves out."""
        halving.leave_out(self.courses)
        self._settle(self.courses)

    # What there is to say

    @property
    def ended(self) -> int:
        """How many members have ended."""
        return sum(not course.running for course in self.courses)

    @property
    def chunk_epochs(self) -> int:
        """How many epochs of chunks there are, if all go to their end."""
        return sum(len(self._chunks(run.group)) * run.group.epochs for run in self._programs)

    @property
    def compilations(self) -> int:
        """How many groups were compiled for a device."""
        return sum(run.compilations for run in self._programs)

    @property
    def compile_seconds(self) -> float:
        return sum(run.seconds for run in self._programs)

    @property
    def in_shape(self) -> Shape:
        """The shape of one example, as the first group's network takes it."""
        return next(iter(self._programs[0].splits.values())).train_x.shape[1:]

    def member(self, number: int, shown: Sequence[str]) -> Member:
        """What has become of a member, with the hyper-parameters that are to be shown."""
        course = self.courses[number]
        params, state = self._members.get(number, (None, None))
        curves = {name: np.asarray(getattr(course, name)) for name in ("train_loss", "test_loss", "test_accuracy")}
        return Member(
            number=number,
            hyperparameters={name: self._grid[number][name] for name in shown},
            status="not run" if course.running else course.status,
            bad_step=course.bad_step,
            params=params,
            state=state,
            **curves,
        )

    def described(self) -> dict[str, Any]:
        """The plan, what it was estimated to need, and the static groups."""
        return {
            "name": str(self.plan),
            "workers": self.plan.workers,
            "members_a_chunk": self.plan.members,
            "groups": len(self._programs),
            "estimated_bytes": self._estimated_bytes,
            "peak_bytes": plans.used_bytes()[1],
        }
