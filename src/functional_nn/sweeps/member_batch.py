"""Batches of members that one call of a program trains, epoch after epoch, and successive halving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_counts, check_number, shown
from functional_nn.data.examples import number_of_examples
from functional_nn.jaxprs.evaluate import with_axes
from functional_nn.storage.arrays import is_key
from functional_nn.sweeps.grid import Hyperparameters, PlainValue
from functional_nn.sweeps.member import Member
from functional_nn.sweeps.static_groups import StaticGroup, keys, traced_values
from functional_nn.training.devices import Device
from functional_nn.training.epoch import EpochResult
from functional_nn.training.epoch_loop import epochs_since_best
from functional_nn.training.evaluate import (
    Evaluation,
    as_number,
    default_metric,
    evaluated_metrics,
    larger_is_better,
    named_metrics,
    number_of_labels,
)
from functional_nn.training.non_finite import where_finite
from functional_nn.training.state import TrainState

RUNNING = "running"
Item = TypeVar("Item")


@dataclass
class MemberHistory:
    """The metrics of one member after each epoch, its status, and its train state while it waits for more epochs.

    The ``key`` of the train state is None: the seed of the member makes it again.
    """

    number: int
    status: str = RUNNING
    bad_step: int | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    train_state: TrainState | None = None

    @property
    def running(self) -> bool:
        return self.status == RUNNING

    @property
    def epochs(self) -> int:
        """The number of epochs so far."""
        return len(next(iter(self.curves.values()), ()))

    def curve(self, metric: str) -> list[float]:
        """A metric after each epoch."""
        return self.curves.setdefault(metric, [])

    def result(
        self, hyperparameters: Mapping[str, PlainValue], params: Params | None = None, state: State | None = None
    ) -> Member:
        """The member with these metrics, as a result of the sweep has it."""
        return Member(
            number=self.number,
            hyperparameters=hyperparameters,
            status="not run" if self.running else self.status,
            bad_step=self.bad_step,
            params=params,
            state=state,
            curves={name: np.asarray(curve) for name, curve in self.curves.items()},
            test_metrics=self.test_metrics,
        )


@dataclass(frozen=True)
class MemberRules:
    """The rules that all members of a sweep share.

    Args:
        dtype: the type of traced hyper-parameters.
        members_at_once: the number of members that one program trains by ``vmap``; None if it trains one member.
        patience: the number of epochs without a lower loss after which a member is stopped; None for no limit. It
            is the loss on the validation examples if there are any, otherwise on the test examples.
    """

    dtype: DTypeLike
    members_at_once: int | None = None
    patience: int | None = None


class MemberBatch:
    """Members of one static group that one call of a program trains on one device.

    If fewer members are left than the program trains at once, the last member fills the empty places, so that all
    batches of a group use the same program.

    Args:
        group: the members' static group.
        grid: the hyper-parameters of all members of the sweep.
        histories: those of the members in this batch.
        rules: the rules that all members share.
        rung: the epoch after which the members wait, in successive halving; None to train them to their ends.
    """

    def __init__(
        self,
        group: StaticGroup,
        grid: Sequence[Hyperparameters],
        histories: Sequence[MemberHistory],
        rules: MemberRules,
        rung: int | None,
    ):
        self.group = group
        self.histories = tuple(histories)
        self._data_name = grid[histories[0].number]["data"]  # the members of a batch have the same data
        self._rules = rules
        self._last_epoch = self.group.epochs if rung is None else rung
        numbers: int | list[int]
        if rules.members_at_once is None:
            numbers = histories[0].number
        else:
            numbers = _filled([history.number for history in histories], rules.members_at_once)
        self._hyperparameters = traced_values(group, grid, numbers, rules.dtype)
        self._keys = keys(grid, numbers)
        self._train_state: PyTree = None
        self._epoch = 0
        self._device: Device = None
        # Set when the members are on a device.
        self.begun = False
        # Set when the last epoch has been run, and the histories have everything that is saved.
        self.done = False

    def begin(self, device: Device) -> None:
        """Moves the members and their data to a device. They start, or continue from where they stopped."""
        self._data = self.group.data_on(device, self._data_name)
        self._programs = self.group.programs[device]
        self._device = device
        self._hyperparameters, key = jax.device_put((self._hyperparameters, self._keys), device)
        train_states = [history.train_state for history in self.histories]
        # Members wait with a state only after a rung of successive halving, and then all of them do.
        if train_states[0] is None:
            self._train_state = self._programs.start(key, self._hyperparameters)
        elif self._rules.members_at_once is None:
            self._train_state = jax.device_put(train_states[0], device)._replace(key=key)
        else:
            filled = _filled(train_states, self._rules.members_at_once)
            self._train_state = jax.device_put(joined(filled), device)._replace(key=key)
        # All running members of a group have run the same number of epochs.
        self._epoch = self.histories[0].epochs
        # The batch has the states now. Copies in the histories would only take memory. The test metrics after a rung of
        # halving are no longer those of the last epoch.
        for history in self.histories:
            history.train_state = None
            history.test_metrics = {}
        self.begun = True

    @property
    def goes_on(self) -> bool:
        """Whether any member still has epochs to run."""
        return self._epoch < self._last_epoch and any(history.running for history in self.histories)

    def run_epoch(self) -> None:
        """Trains all members for one epoch, and evaluates them.

        The train state of a member goes into its history when the member has ended, and after the last epoch.
        """
        # The epoch with fast steps, and the evaluation.
        before = self._train_state
        arguments = (before, self._data.train_x, self._data.train_labels, np.int32(self._epoch))
        own = self._hyperparameters
        after, result = self._programs.epoch(*arguments, own)
        metrics = self._metrics(after, result)
        bad_steps = np.atleast_1d(np.array(result.bad_step))
        states = [after] * len(self.histories)

        # The fast steps check nothing. If a member did not stay finite, the epoch is run again with steps that do, and
        # that member's results are taken from there.
        bad = (bad_steps >= 0) | ~self._stay_finite(before, after)
        suspects = [i for i, history in enumerate(self.histories) if history.running and bad[i]]
        if suspects:
            careful, result, _ = self._programs.careful_epoch(*arguments, own)
            careful_metrics = self._metrics(careful, result)
            careful_bad_steps = np.atleast_1d(np.array(result.bad_step))
            for i in suspects:
                states[i], bad_steps[i] = careful, careful_bad_steps[i]
                for name in metrics:
                    metrics[name][i] = careful_metrics[name][i]
            # The careful program rounds differently, so at the edge of overflow it may find no bad step. Such a member
            # goes on from the careful state.
            after = self._with_members(after, careful, [i for i in suspects if bad_steps[i] < 0])

        # The results go into the histories of the members that are still running.
        self._train_state = after
        self._epoch += 1
        part = self._data.evaluated_part
        labels = number_of_labels(self._data.part(part)[1]) if part else 0
        set_down = []
        for i, history in enumerate(self.histories):
            if history.running:
                for name, values in metrics.items():
                    history.curve(name).append(as_number(name, values[i], labels))
                self._update_status(history, int(bad_steps[i]))
                if not history.running or self._epoch >= self._last_epoch:
                    set_down.append(i)
        self._set_down(set_down, states)
        # A member that waits at a rung of halving may be left out there. So it is tested, too.
        if set_down and part == "validation" and self._data.test_x is not None:
            self._evaluate_test(set_down, states)
        if not self.goes_on:
            self._train_state = None  # the histories have the members' states now
            self.done = True

    def _set_down(self, members: Sequence[int], states: Sequence[TrainState]) -> None:
        """Puts the states of some members into their histories, without their keys, which the seeds make again."""
        # Members of one program have their states in the same arrays, which are taken apart together.
        for whole in {id(states[i]): states[i] for i in members}.values():
            of_whole = [i for i in members if states[i] is whole]
            state = whole._replace(key=None)
            if self._rules.members_at_once is None:
                parts = [state]
            elif not self.goes_on:
                parts = taken_apart(state, of_whole)
            else:
                # Only a few members end early. The others go on, and are not copied.
                parts = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in of_whole]
            for i, part in zip(of_whole, parts, strict=True):
                self.histories[i].train_state = part

    def _evaluate_test(self, members: Sequence[int], states: Sequence[TrainState]) -> None:
        """Evaluates the test examples for members whose states go into their histories."""
        labels = number_of_labels(self._data.test_labels)
        # Members of one program have their states in the same arrays, which are evaluated together.
        evaluated: dict[int, dict[str, np.ndarray]] = {}
        for i in members:
            if id(states[i]) not in evaluated:
                evaluation = self._evaluation(states[i], "test")
                evaluated[id(states[i])] = self._per_member(evaluated_metrics("test", evaluation))
            metrics = evaluated[id(states[i])]
            self.histories[i].test_metrics = {
                name: as_number(name, values[i], labels) for name, values in metrics.items()
            }

    def _update_status(self, history: MemberHistory, bad_step: int) -> None:
        steps_per_epoch = math.ceil(number_of_examples(self._data.train_x) / self.group.batch_size)
        if bad_step >= 0:
            history.status = "non-finite"
            history.bad_step = (self._epoch - 1) * steps_per_epoch + bad_step
        elif self._epoch >= self.group.epochs:
            history.status = "finished"
        elif self._rules.patience is not None:
            losses = history.curve(f"{self._data.evaluated_part}_loss")
            if epochs_since_best(losses) >= self._rules.patience:
                history.status = "stopped early"

    def _stay_finite(self, before: TrainState, after: TrainState) -> np.ndarray:
        """For each member, whether the numbers that were finite before an epoch are finite after it."""
        members = self._rules.members_at_once or 1
        stayed = [of_leaf.reshape(members, -1).all(axis=1) for of_leaf in where_finite(before, after)]
        return np.all(stayed, axis=0)

    def _with_members(self, states: TrainState, others: TrainState, members: Sequence[int]) -> TrainState:
        """The states, with those of some members taken from ``others``."""
        if not members or self._rules.members_at_once is None:
            return others if members else states
        chosen = jnp.isin(jnp.arange(self._rules.members_at_once), jnp.array(members))
        mixed = jax.tree.map(lambda a, b: jnp.where(with_axes(chosen, a), b, a), states, others)
        return jax.device_put(mixed, self._device)

    def _metrics(self, train_state: TrainState, result: EpochResult) -> dict[str, np.ndarray]:
        """The metrics after an epoch by name, with one number for each member."""
        part = self._data.evaluated_part
        evaluation = self._evaluation(train_state, part) if part else None
        return self._per_member(named_metrics(part, result, evaluation))

    def _evaluation(self, train_state: TrainState, part: str) -> Evaluation:
        return self._programs.evaluate(train_state, *self._data.part(part), self._hyperparameters)

    def _per_member(self, named: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
        """Copies metrics to the host, in the same order, with one number per member."""
        values = jax.device_get(list(named.values()))
        return {name: np.atleast_1d(np.array(value)) for name, value in zip(named, values, strict=True)}


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
        epochs: the epochs after which the members are compared, in rising order.
        keep: the share of the members that go on. At least one member goes on.

    >>> Halving((1, 3), keep=0.25).kept(64)
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
            InputError: unless the epochs rise and are early enough, and the share is valid.
        """
        epochs = check_counts("halving", self.epochs, "rising epochs from 1 on")
        keep = check_number("halving", self.keep, "a share to keep in (0, 1)", lambda keep: 0 < keep < 1)
        if not epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 1:
            raise InputError("halving", "rising epochs from 1 on", shown(self.epochs))
        if self.epochs[-1] >= shortest:
            raise InputError("halving", f"epochs before the last one, {shortest}", shown(self.epochs))
        return Halving(epochs, float(keep))

    def leave_out(self, histories: Sequence[MemberHistory]) -> None:
        """Ends the running members that are not among the best, with status "halved". Of equals, the first go on."""
        running = [history for history in histories if history.running]
        if not running:
            return
        metric = default_metric(tuple(running[0].curves))
        # The best come first in rising order, and NaN comes last.
        sign = -1 if larger_is_better(metric) else 1
        values = np.nan_to_num([sign * history.curves[metric][-1] for history in running], nan=np.inf)
        for place in np.argsort(values, kind="stable")[self.kept(len(running)) :]:
            running[place].status = "halved"


def _filled(items: list[Item], count: int) -> list[Item]:
    """The items, with the last one repeated until there are ``count``."""
    return items + items[-1:] * (count - len(items))
