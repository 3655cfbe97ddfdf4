"""The population of a sweep: all members, their batches, and their states in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import jax

from functional_nn.core.trees import PyTree
from functional_nn.storage.checkpoints import forms
from functional_nn.storage.identity import GROUPS, PROGRAMS, SURROUNDINGS
from functional_nn.sweeps.grid import Hyperparameters
from functional_nn.sweeps.member_batch import Halving, MemberBatch, MemberHistory
from functional_nn.sweeps.plan import Plan, fitting, in_threads
from functional_nn.sweeps.static_groups import StaticGroup
from functional_nn.sweeps.store import MOST_ARRAYS, Store
from functional_nn.training.devices import Device, memory_limit
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
        plan: how many members are trained at a time. It is reduced if memory, or the file of a batch, has no room for
            so many.
        keep: whether the parameters and state of the members are kept.
        patience: see ``sweep``.

    Attributes:
        histories: those of all members of the sweep.
        ended: the number of members that had ended when ``train`` last yielded.
        ended_before: how many of them an earlier call trained.
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
        self.ended = self.ended_before = 0
        self._numbers = frozenset(numbers)
        self._grid, self._groups = grid, groups
        self._keep, self._patience = keep, patience
        self._trained: set[int] = set()
        # Members are counted when the epoch of their batch arrives in ``train``. To count them anew after each epoch
        # would be slow for thousands of members.
        self._counted: set[int] = set()
        # Only a compiled program says how much memory it needs. So each try with fewer members at once is compiled.
        limit = memory_limit()
        while True:
            members = self.plan.members
            compiled = [group.compile(precision, self.devices, members if members > 1 else None) for group in groups]
            self.plan = fitting(self.plan, max(programs.bytes_needed for programs in compiled), limit)
            arrays = max(len(jax.tree.leaves(made.train_state)) + 2 * len(made.metric_names) for made in compiled)
            self.plan = replace(self.plan, members=min(self.plan.members, max(1, MOST_ARRAYS // arrays)))
            if self.plan.members == members:
                break
        for group, programs in zip(groups, compiled, strict=True):
            programs.check_memory(tuple(group.splits.values()))

    @property
    def devices(self) -> list[Device]:
        """The device of each worker; the devices take turns."""
        devices = jax.local_devices()
        return [devices[worker % len(devices)] for worker in range(self.plan.workers)]

    def train(self, rung: int | None, store: Store | None) -> Generator[None, None, None]:
        """Trains the running members up to epoch ``rung``, or to their ends; yields after each epoch of a batch.

        Close the generator to stop early: it waits for the workers, and saves the batches that end meanwhile.
        """
        stored_part = partial(self._stored_part, whole=rung is not None)
        # Batches that the store has are taken from there; the others are trained.
        unsaved: dict[MemberBatch, str] = {}
        for place, group in enumerate(self._groups):
            for numbers in self._batches(group):
                name = f"{place}-{numbers[0]}-{'end' if rung is None else rung}"
                if store is None or not self._restore(store, name, numbers, group, stored_part):
                    histories = [self.histories[number] for number in numbers]
                    unsaved[MemberBatch(group, self._grid, histories, self._patience, rung)] = name
                    self._trained.update(numbers)

        def save(batch: MemberBatch) -> None:
            if store is not None:
                parts = [stored_part(history.train_state) for history in batch.histories]
                store.save(unsaved[batch], batch.histories, parts)
            del unsaved[batch]
            self._set_down(batch.histories)

        steps = in_threads(self.devices, list(unsaved))
        hidden_errors: tuple[type[Exception], ...] = ()
        try:
            for batch, done in steps:
                if done:
                    save(batch)
                self._count(batch.histories)
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
            self._set_down(self.histories)

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
            loss = group.recipe.loss
            groups[name] = {
                "loss": str(getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))),
                "parameters": forms(programs.member_state.params),
                "optimizer state": forms(programs.member_state.optimizer_state),
            }
            for part, text in programs.fingerprints.items():
                fingerprints[f"{part} of {name}" if name else part] = text
        return {GROUPS: groups, PROGRAMS: fingerprints, SURROUNDINGS: surroundings()}

    def _stored_part(self, train_state: TrainState | None, *, whole: bool) -> PyTree:
        """The part of a member that is stored: all that training needs to continue, or what the result contains."""
        assert train_state is not None  # a batch that is done has put its states into the histories
        if whole:
            return train_state._replace(key=None)  # as in the histories: the member's seed makes it again
        return (train_state.params, train_state.state) if self._keep else ()

    def _restore(
        self, store: Store, name: str, numbers: Sequence[int], group: StaticGroup, stored_part: Callable[..., PyTree]
    ) -> bool:
        """Takes a batch from the store; returns whether the store has it."""
        found = store.load(name, numbers, jax.eval_shape(stored_part, group.programs[self.devices[0]].member_state))
        if found is None:
            return False
        for history, tree in zip(*found, strict=True):
            self.histories[history.number] = history
            if isinstance(tree, TrainState):
                history.train_state = tree
            elif self._keep:
                history.kept = tree
        before = self.ended
        self._set_down(found[0])
        self.ended_before += self.ended - before
        return True

    def _set_down(self, histories: Sequence[MemberHistory]) -> None:
        """Counts the members that have ended, moves their parameters to NumPy arrays, and frees their train states."""
        self._count(histories)
        for history in histories:
            if not history.running and history.train_state is not None:
                if self._keep:
                    history.kept = jax.device_get((history.train_state.params, history.train_state.state))
                history.train_state = None

    def _count(self, histories: Sequence[MemberHistory]) -> None:
        """Counts the members that have ended, each once."""
        self._counted.update(history.number for history in histories if not history.running)
        self.ended = len(self._counted)

    def leave_out(self, halving: Halving) -> None:
        """Ends the members that successive halving leaves out."""
        halving.leave_out(self.histories)
        self._set_down(self.histories)

    @property
    def restored(self) -> tuple[int, ...]:
        """The numbers of the members that an earlier call trained to their end."""
        ended = (history.number for history in self.histories if not history.running)
        return tuple(number for number in ended if number not in self._trained)

    @property
    def batch_epochs(self) -> int:
        """The number of epochs of all batches, if all members run to their end."""
        return sum(len(self._batches(group)) * group.epochs for group in self._groups)
