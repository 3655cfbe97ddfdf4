"""Batches of members that one call of a program trains, epoch after epoch, and successive halving."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import check
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_counts, check_number
from functional_nn.data.preparation import number_of_examples
from functional_nn.storage.arrays import is_key
from functional_nn.sweeps.grid import Hyperparameters, PlainValue
from functional_nn.sweeps.results import Member
from functional_nn.sweeps.static_groups import StaticGroup, keys, traced_values
from functional_nn.training.devices import Device
from functional_nn.training.epoch_loop import status_after
from functional_nn.training.evaluate import default_metric, rank_of
from functional_nn.training.state import TrainState

MOST_RUNGS = 64
"""The largest number of comparisons in successive halving. To read a sweep takes time for each of them and each member.
If half of the members go on each time, 64 are enough for any sweep."""

RUNNING = "running"
Item = TypeVar("Item")


@dataclass
class MemberHistory:
    """The metrics of one member after each epoch, its status, and its train state while it waits for more epochs.

    The ``key`` of the train state is None: the seed of the member makes it again. ``kept`` are the parameters and the
    state of a member that has ended, if the sweep keeps them.
    """

    number: int
    status: str = RUNNING
    bad_step: int | None = None
    seconds: float = 0.0
    curves: dict[str, MutableSequence[float]] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    train_state: TrainState | None = None
    kept: tuple[Params | None, State | None] = (None, None)

    @property
    def running(self) -> bool:
        return self.status == RUNNING

    @property
    def epochs(self) -> int:
        """The number of epochs so far."""
        return len(next(iter(self.curves.values()), ()))

    def curve(self, metric: str) -> MutableSequence[float]:
        """A metric after each epoch."""
        return self.curves.setdefault(metric, [])

    def result(self, hyperparameters: Mapping[str, PlainValue]) -> Member:
        """The member with these metrics, as a result of the sweep has it."""
        return Member(
            number=self.number,
            hyperparameters=hyperparameters,
            status="not run" if self.running else self.status,
            bad_step=self.bad_step,
            seconds=self.seconds,
            params=self.kept[0],
            state=self.kept[1],
            curves={name: np.array(curve) for name, curve in self.curves.items()},
            test_metrics=self.test_metrics,
        )


class MemberBatch:
    """Members of one static group that one call of a program trains on one device.

    If fewer members are left than the program trains at once, the last member fills the empty places, so that all
    batches of a group use the same program.

    Args:
        group: the members' static group.
        grid: the hyper-parameters of all members of the sweep.
        histories: those of the members in this batch. Their members have the same data and the same number of epochs.
        patience: the number of epochs without a lower loss after which a member is stopped; None for no limit. It is
            the loss on the validation examples if there are any, otherwise on the test examples.
        rung: the epoch after which the members wait, in successive halving; None to train them to their ends.

    Attributes:
        done: whether the last epoch has been run, and the histories have everything that is saved.
    """

    def __init__(
        self,
        group: StaticGroup,
        grid: Sequence[Hyperparameters],
        histories: Sequence[MemberHistory],
        patience: int | None,
        rung: int | None,
    ):
        self.histories = tuple(histories)
        self.done = False
        self._group, self._grid, self._patience = group, grid, patience
        self._last_epoch = group.epochs if rung is None else rung
        self._epoch = histories[0].epochs
        self._train_state: PyTree = None

    def begin(self, device: Device) -> None:
        """Moves the members and their data to a device. They start, or continue from where they stopped."""
        numbers = [history.number for history in self.histories]
        data = self._group.data_on(device, self._grid[numbers[0]]["data"])
        programs = data.programs
        self._members = programs.spec.members
        own = numbers[0] if self._members is None else _filled(numbers, self._members)
        values = traced_values(self._group, self._grid, own, programs.spec.precision.parameters)
        h, key = jax.device_put((values, keys(self._grid, own)), device)
        self._data = replace(data, h=h)
        states = [history.train_state for history in self.histories]
        # Members wait with a state only after a rung of successive halving, and then all of them do.
        if states[0] is None:
            self._train_state = programs.start(key, h)
        else:
            state = states[0] if self._members is None else joined(_filled(states, self._members))
            self._train_state = jax.device_put(state, device)._replace(key=key)
        # The batch has the states now. Copies in the histories would only take memory. The test metrics after a rung of
        # halving are no longer those of the last epoch.
        for history in self.histories:
            history.train_state = None
            history.test_metrics = {}

    def run_epoch(self) -> None:
        """Trains all members for one epoch, and evaluates them.

        The train state of a member goes into its history when the member has ended, and after the last epoch.
        """
        running = [place for place, history in enumerate(self.histories) if history.running]
        is_running = np.isin(np.arange(self._members or 1), running).reshape(() if self._members is None else -1)
        outcome = self._data.epoch(self._train_state, self._epoch, is_running)
        bad_steps = np.atleast_1d(np.array(outcome.result.bad_step))
        self._train_state = outcome.train_state
        self._epoch += 1
        for place in running:
            for name, value in outcome.metrics[place].items():
                self.histories[place].curve(name).append(value)
            self.histories[place].seconds += outcome.seconds / len(running)
            self._update_status(self.histories[place], int(bad_steps[place]))
        is_last = self._epoch >= self._last_epoch or not any(history.running for history in self.histories)
        set_down = [place for place in running if is_last or not self.histories[place].running]
        if set_down:
            # Without their keys, which the seeds make again.
            state = self._train_state._replace(key=None)
            states = [state] if self._members is None else taken_apart(state, set_down)
            for place, of_member in zip(set_down, states, strict=True):
                self.histories[place].train_state = of_member
        # A member that waits at a rung of halving may be left out there. So it is tested, too.
        if set_down and self._data.part == "validation" and self._data.data.test_x is not None:
            tested = self._data.test_metrics(self._train_state)
            for place in set_down:
                self.histories[place].test_metrics = tested[place]
        if is_last:
            self._train_state = None  # the histories have the members' states now
            self.done = True

    def _update_status(self, history: MemberHistory, bad_step: int) -> None:
        losses = history.curve(f"{self._data.part or 'train'}_loss")
        if bad_step >= 0:
            steps_per_epoch = math.ceil(number_of_examples(self._data.data.train_x) / self._group.batch_size)
            history.status = "non-finite"
            history.bad_step = (self._epoch - 1) * steps_per_epoch + bad_step
        else:
            history.status = status_after(len(losses), self._group.epochs, losses, self._patience) or RUNNING


def taken_apart(states: PyTree, members: Sequence[int]) -> list[PyTree]:
    """The train states of some members, as arrays in the memory of the host; random keys on the first device.

    Args:
        states: those of all members of a batch, along the first axis.
        members: the places of the members in the batch.
    """

    # An index into an array of JAX is a program of its own. So whole arrays are copied to the host, and indexed there.
    def on_host(leaf: PyTree) -> PyTree:
        return jax.device_put(leaf, jax.local_devices()[0]) if is_key(leaf) else np.asarray(leaf)

    whole = jax.tree.map(on_host, states)

    def of_member(place: int) -> PyTree:
        # A copy, so that the arrays of the whole batch do not stay in memory.
        return jax.tree.map(lambda leaf: leaf[place] if is_key(leaf) else np.array(leaf[place]), whole)

    return [of_member(place) for place in members]


def joined(states: Sequence[PyTree]) -> PyTree:
    """The reverse of ``taken_apart``: the train states of members in one pytree, with members along the first axis."""
    return jax.tree.map(lambda *leaves: (jnp if is_key(leaves[0]) else np).stack(leaves), *states)


class Halving(NamedTuple):
    """Successive halving: after certain epochs, only the best members go on. Nothing is compiled again.

    They are compared by the accuracy if there is one, or else by the loss, on validation examples if there are any, or
    else on test examples.

    Args:
        epochs: the epochs after which the members are compared, in rising order; at most 64.
        keep: the share of the members that go on. At least one member goes on.

    >>> import functional_nn as fnn
    >>> fnn.sweeps.Halving((1, 3), keep=0.25).kept(64)
    16

    References:
        Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """

    epochs: tuple[int, ...]
    keep: float = 1 / 3

    def kept(self, members: int) -> int:
        """The number of members that go on."""
        # A product such as 0.07 * 100 is 7.000000000000001, which must not count as 8.
        return max(1, math.ceil(members * self.keep - 1e-9))

    def checked(self, shortest: int) -> Halving:
        """The same with plain numbers.

        Raises:
            InputError: unless the epochs rise and are few and early enough, and the share is valid.
        """
        epochs = check_counts("halving", self.epochs, "rising epochs from 1 on")
        keep = check_number("halving", self.keep, "a share to keep in (0, 1)", lambda keep: 0 < keep < 1)
        check("halving", epochs, "rising epochs from 1 on", epochs and list(epochs) == sorted(set(epochs)))
        check("halving", epochs, f"at most {MOST_RUNGS} epochs", len(epochs) <= MOST_RUNGS)
        check("halving", epochs, f"epochs before the last one, {shortest}", epochs[-1] < shortest)
        return Halving(epochs, float(keep))

    def leave_out(self, histories: Sequence[MemberHistory]) -> None:
        """Ends the running members that are not among the best, with status "halved". Of equals, the first go on."""
        running = [history for history in histories if history.running]
        if not running:
            return
        metric = default_metric(tuple(running[0].curves))
        ranked = sorted(running, key=lambda history: rank_of(metric, history.curves[metric][-1]))
        for history in ranked[self.kept(len(running)) :]:
            history.status = "halved"


def _filled(items: list[Item], count: int) -> list[Item]:
    """The items, with the last one repeated until there are ``count``."""
    return items + items[-1:] * (count - len(items))
