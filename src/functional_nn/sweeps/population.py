"""The population of a sweep: all members, their programs and batches, and the threads that train them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from queue import Queue
from typing import TypeAlias

import jax

from functional_nn.core.functions import settings_of_this_thread
from functional_nn.core.layer import Params, State
from functional_nn.core.shapes import Shapes, shape_of
from functional_nn.core.trees import PyTree
from functional_nn.storage.checkpoints import forms
from functional_nn.storage.identity import GROUPS, PROGRAMS, SURROUNDINGS
from functional_nn.sweeps import plan as plans
from functional_nn.sweeps.grid import Hyperparameters
from functional_nn.sweeps.member import Member
from functional_nn.sweeps.member_batch import Halving, MemberBatch, MemberHistory
from functional_nn.sweeps.plan import Plan
from functional_nn.sweeps.static_groups import StaticGroup
from functional_nn.sweeps.store import Store
from functional_nn.training.devices import Device
from functional_nn.training.memory import check_memory, program_bytes
from functional_nn.training.precision import Precision
from functional_nn.training.programs import surroundings
from functional_nn.training.state import TrainState


class Population:
    """The members of a sweep while they are trained.

    Args:
        groups: the static groups of the grid.
        grid: the hyper-parameters of the members.
        numbers: the numbers of the members to train: all of them, or those of a part of the sweep.
        precision: that of all members.
        plan: how many members are trained at a time. It is reduced if memory has no room for so many.
        keep: whether the parameters and state of the members are kept.
        patience: see ``sweep``.

    Attributes:
        histories: those of all members of the sweep.
        ended_here: as ``ended_so_far``, without the members that an earlier call trained.
    """

    def __init__(
        self,
        groups: Sequence[StaticGroup],
        grid: Sequence[Hyperparameters],
        numbers: Sequence[int],
        precision: Precision,
        plan: Plan,
        *,
        keep: bool,
        patience: int | None = None,
    ):
        self.histories = [MemberHistory(number) for number in range(len(grid))]
        self.plan = plan
        self._numbers = frozenset(numbers)
        self._grid = grid
        self._keep = keep
        self._groups = groups
        self._precision = precision
        self._kept: dict[int, tuple[Params, State]] = {}
        self._trained: set[int] = set()
        # Members are counted when the epoch of their batch arrives in ``train``. To count them anew after each epoch
        # would be slow for thousands of members.
        self._counted: set[int] = set()
        self.ended_here = 0
        self._patience = patience
        self._compile()

    def _compile(self) -> None:
        """Compiles every group for the plan, and again for fewer members at once if memory has no room."""
        limit = plans.memory_limit()
        # Only a compiled program says how much memory it needs. So each try with fewer members at once is compiled.
        while True:
            compiled = [group.compile(self._precision, self.devices, self._members_at_once) for group in self._groups]
            self._batch_bytes = max(map(program_bytes, compiled))
            fitting = plans.fitting(self.plan, self._batch_bytes, limit)
            is_done = fitting.members == self.plan.members
            self.plan = fitting
            if is_done:
                break
        for group, programs in zip(self._groups, compiled, strict=True):
            check_memory(programs, tuple(group.splits.values()))

    @property
    def devices(self) -> list[Device]:
        """The device of each worker; the devices take turns."""
        devices = jax.local_devices()
        return [devices[worker % len(devices)] for worker in range(self.plan.workers)]

    @property
    def _members_at_once(self) -> int | None:
        return self.plan.members if self.plan.members > 1 else None

    def train(self, rung: int | None, store: Store | None) -> Generator[None, None, None]:
        """Trains the running members up to epoch ``rung``, or to their ends; yields after each epoch of a batch.

        Close the generator to stop early: it waits for the workers, and saves the batches that end meanwhile.
        """
        # Batches that the store has are taken from there; the others are trained.
        batches: list[MemberBatch] = []
        unsaved: dict[MemberBatch, str] = {}
        for place, group in enumerate(self._groups):
            for numbers in self._batches(group):
                name = f"{place}-{numbers[0]}-{'end' if rung is None else rung}"
                if store is None or not self._restore(store, name, numbers, group, whole=rung is not None):
                    histories = [self.histories[number] for number in numbers]
                    batch = MemberBatch(group, self._grid, histories, self._patience, rung)
                    batches.append(batch)
                    self._trained.update(numbers)
                    unsaved[batch] = name

        def save(batch: MemberBatch) -> None:
            if store is not None:
                self._save(store, unsaved[batch], batch, whole=rung is not None)
            del unsaved[batch]
            self._set_down_ended(batch.histories)

        steps = Workers(self.devices).run(batches)
        hidden_errors: tuple[type[Exception], ...] = ()
        try:
            for batch, done in steps:
                if done:
                    save(batch)
                self._count_ended(batch.histories)
                yield
        except Exception:
            hidden_errors = (Exception,)  # this error must reach the caller, not one of saving after it
            raise
        finally:
            # Closing the generator stops the workers and waits for them, however the caller has left the loop.
            steps.close()
            # Some batches may have ended meanwhile, or their steps may still be in the queue.
            for batch in [batch for batch in unsaved if batch.done]:
                with suppress(*hidden_errors):
                    save(batch)
            self._set_down_ended(self.histories)

    def _batches(self, group: StaticGroup) -> list[list[int]]:
        """The numbers of the running members of a group, in batches of the plan's size with the same data."""
        by_data: dict[str, list[int]] = {}
        for number in group.members:
            if number in self._numbers and self.histories[number].running:
                by_data.setdefault(self._grid[number]["data"], []).append(number)
        size = self.plan.members
        return [numbers[i : i + size] for numbers in by_data.values() for i in range(0, len(numbers), size)]

    def identity(self) -> dict[str, object]:
        """What distinguishes this sweep from others with the same grid: shapes and types, and programs."""
        groups: dict[str, object] = {}
        fingerprints: dict[str, str] = {}
        for place, group in enumerate(self._groups):
            programs = group.programs[self.devices[0]]
            name = f"group {place}" if len(self._groups) > 1 else ""
            groups[name] = {
                "loss": group.loss_name,
                "parameters": forms(programs.member_state.params),
                "optimizer state": forms(programs.member_state.optimizer_state),
            }
            for part, text in programs.fingerprints.items():
                fingerprints[f"{part} of {name}" if name else part] = text
        return {GROUPS: groups, PROGRAMS: fingerprints, SURROUNDINGS: surroundings()}

    # Members in memory and on disk

    def _stored_part(self, train_state: TrainState, whole: bool) -> PyTree:
        """The part of a member that is stored: all that training needs to continue, or what the result contains."""
        if whole:
            return train_state._replace(key=None)  # as in the histories: the member's seed makes it again
        return (train_state.params, train_state.state) if self._keep else ()

    def _save(self, store: Store, name: str, batch: MemberBatch, *, whole: bool) -> None:
        parts = []
        for history in batch.histories:
            assert history.train_state is not None  # a batch that is done has put its states there
            parts.append(self._stored_part(history.train_state, whole))
        store.save(name, batch.histories, parts)

    def _restore(self, store: Store, name: str, numbers: Sequence[int], group: StaticGroup, *, whole: bool) -> bool:
        """Takes a batch from the store; returns whether the store has it."""
        stored_part = partial(self._stored_part, whole=whole)
        found = store.load(name, numbers, jax.eval_shape(stored_part, group.programs[self.devices[0]].member_state))
        if found is None:
            return False
        for history, tree in zip(*found, strict=True):
            self.histories[history.number] = history
            if whole:
                history.train_state = tree
            elif self._keep:
                self._kept[history.number] = tree
        self._count_ended(found[0])
        self._set_down_ended(found[0])
        return True

    def _set_down_ended(self, histories: Sequence[MemberHistory]) -> None:
        """Moves the parameters and state of ended members to NumPy arrays, and frees their train states."""
        for history in histories:
            if not history.running and history.train_state is not None:
                if self._keep:
                    result = history.train_state.params, history.train_state.state
                    self._kept[history.number] = jax.device_get(result)
                history.train_state = None

    def _count_ended(self, histories: Sequence[MemberHistory]) -> None:
        """Counts the members that have ended, each once. Those that are not trained here were restored."""
        new = {history.number for history in histories if not history.running} - self._counted
        self._counted |= new
        self.ended_here += len(new & self._trained)

    def leave_out(self, halving: Halving) -> None:
        """Ends the members that successive halving leaves out."""
        halving.leave_out(self.histories)
        self._count_ended(self.histories)
        self._set_down_ended(self.histories)

    # Reports

    @property
    def ended(self) -> int:
        """The number of members that have ended."""
        return sum(not history.running for history in self.histories)

    @property
    def ended_so_far(self) -> int:
        """The number of members that had ended when ``train`` last yielded, quicker to ask for than ``ended``."""
        return len(self._counted)

    @property
    def restored(self) -> tuple[int, ...]:
        """The numbers of the members that an earlier call trained to their end."""
        ended = (history.number for history in self.histories if not history.running)
        return tuple(number for number in ended if number not in self._trained)

    @property
    def batch_epochs(self) -> int:
        """The number of epochs of all batches, if all members run to their end."""
        return sum(len(self._batches(group)) * group.epochs for group in self._groups)

    @property
    def compilations(self) -> int:
        """The number of times that a group was compiled for a device."""
        return sum(group.compilations for group in self._groups)

    @property
    def compile_seconds(self) -> float:
        return sum(group.seconds for group in self._groups)

    @property
    def metric_names(self) -> set[str]:
        """The names of the metrics of all members."""
        return {name for group in self._groups for name in group.programs[self.devices[0]].metric_names}

    @property
    def in_shape(self) -> Shapes:
        """The shape of one example, as the network of the first group takes it."""
        return shape_of(next(iter(self._groups[0].splits.values())).train_x)

    def member(self, number: int, shown: Sequence[str]) -> Member:
        """The result of a member, with the hyper-parameters named in ``shown``."""
        params, state = self._kept.get(number, (None, None))
        return self.histories[number].result({name: self._grid[number][name] for name in shown}, params, state)

    def described(self) -> dict[str, str | int]:
        """The plan, and the number of static groups."""
        return {
            "name": str(self.plan),
            "workers": self.plan.workers,
            "members_at_once": self.plan.members,
            "groups": len(self._groups),
        }


Step: TypeAlias = tuple[MemberBatch, bool]
"""A batch that has run an epoch, and whether it is done."""


class Workers:
    """Threads that train batches of members in parallel. XLA's programs release Python's lock while they run.

    Settings of JAX that hold in the caller's thread only, such as ``with jax.enable_x64(True)``, hold in these, too.

    Args:
        devices: the device of each worker; several workers may share one.
    """

    def __init__(self, devices: Sequence[Device]):
        self.devices = list(devices)

    def run(self, batches: Sequence[MemberBatch]) -> Generator[Step, None, None]:
        """Trains each batch up to its last epoch, and yields after each epoch of a batch.

        If the caller stops iterating, as after Ctrl-C, the workers end after their current epoch.
        """
        waiting = deque(batches)
        stop = threading.Event()
        # Each worker sends its steps, and None when it ends. If an error ends it, it sends the error first.
        events: Queue[Step | BaseException | None] = Queue()

        settings = settings_of_this_thread()

        def train(device: Device) -> None:
            while not stop.is_set():
                try:
                    batch = waiting.popleft()
                except IndexError:  # Another worker has taken the last one.
                    break
                batch.begin(device)
                while not batch.done and not stop.is_set():
                    batch.run_epoch()
                    events.put((batch, batch.done))

        def work(device: Device) -> None:
            try:
                with settings():
                    train(device)
            except BaseException as error:
                events.put(error)
            events.put(None)

        # Daemons do not keep a process alive that ends without joining them, as after a second Ctrl-C.
        threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in self.devices]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            stop.set()
            for thread in threads:
                thread.join()
