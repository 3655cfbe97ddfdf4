"""A few members of one static group under way: they start, run epoch after epoch, and end each in its own way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.data.dataset import Split
from functional_nn.sweeps.execution.static_groups import Group, keys, traced_values
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.training.fit import nearest_share
from functional_nn.training.programs.compile import Programs
from functional_nn.training.resilience.non_finite import stays_finite_on_host
from functional_nn.training.state import TrainState

RUNNING = "running"


@dataclass
class Course:
    """How one member has fared: a number an epoch of each metric, and what it ended with."""

    number: int
    status: str = RUNNING
    bad_step: int | None = None
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    reached: TrainState | None = None

    @property
    def running(self) -> bool:
        return self.status == RUNNING


class Chunk:
    """Members that are trained by one call of a program, on one device.

    Where there is one member the program is its own. Where a chunk of a mapped program has too few members the last one
    stands in for those that are missing, so that all chunks of a group use the same program.
    """

    def __init__(
        self,
        group: Group,
        programs_on: Callable[[Any], Programs],
        grid: Sequence[Hyperparameters],
        courses: Sequence[Course],
        width: int | None,
        dtype: Any,
        patience: int | None = None,
        order_key: jax.Array | None = None,
    ):
        self.group, self.courses = group, tuple(courses)
        self._programs_on, self._patience, self._order_key = programs_on, patience, order_key
        numbers = [course.number for course in courses]
        self._mapped, self._width = width is not None, width or 1
        self._numbers: Any = numbers + numbers[-1:] * (self._width - len(numbers)) if self._mapped else numbers[0]
        self._hyperparameters = traced_values(group, grid, self._numbers, dtype)
        self._keys = keys(grid, self._numbers)
        self._train_state: Any = None
        self._epoch = 0
        self._device: Any = None

    def begin(self, device: Any, data: Split) -> None:
        """Takes the members to a device on which the data are: at their start, or where they stood."""
        self._device, self._data, self._programs = device, data, self._programs_on(device)
        own = self._hyperparameters, self._keys, self._order_key
        self._hyperparameters, self._keys, self._order_key = jax.device_put(own, device)
        reached = [course.reached for course in self.courses]
        if reached[0] is None:
            self._train_state = self._programs.start(self._hyperparameters, self._keys)
        elif self._mapped:
            padded = reached + reached[-1:] * (self._width - len(reached))
            self._train_state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *jax.device_put(padded, device))
        else:
            self._train_state = jax.device_put(reached[0], device)
        self._epoch = len(self.courses[0].test_loss)
        for course in self.courses:
            course.reached = None

    @property
    def begun(self) -> bool:
        """Whether it is on a device."""
        return self._device is not None

    def goes_on(self, until: int) -> bool:
        """Whether any member is still to be trained, before epoch ``until``."""
        return self._epoch < until and any(course.running for course in self.courses)

    def run_epoch(self, until: int) -> float:
        """One epoch of all members and its evaluation, in seconds. Who runs is set down after epoch ``until``."""
        clock = time.perf_counter()
        before, h = self._train_state, self._hyperparameters
        number = jax.device_put(np.int32(self._epoch), self._device)
        train = (self._data.train_x, self._data.train_labels, number, self._order_key)
        after, result = self._programs.epoch(h, before, *train)
        evaluation = self._programs.evaluate(h, after, self._data.test_x, self._data.test_labels)
        metrics = self._rows((result.loss, evaluation.loss, evaluation.accuracy))
        states = [after] * len(self.courses)
        bad_steps = self._rows(result.bad_step)
        bad = (bad_steps >= 0) | ~self._finite(before, after)
        if suspects := [i for i, course in enumerate(self.courses) if course.running and bad[i]]:
            careful, result = self._programs.careful_epoch(h, before, *train)
            evaluation = self._programs.evaluate(h, careful, self._data.test_x, self._data.test_labels)
            rows, steps = self._rows((result.loss, evaluation.loss, evaluation.accuracy)), self._rows(result.bad_step)
            for i in suspects:
                states[i], bad_steps[i] = careful, steps[i]
                for metric, row in zip(metrics, rows, strict=True):
                    metric[i] = row[i]
        self._train_state = after
        self._epoch += 1
        examples = self._data.test_labels.size
        for i, course in enumerate(self.courses):
            if course.running:
                train_loss, test_loss, test_accuracy = (float(metric[i]) for metric in metrics)
                course.train_loss.append(train_loss)
                course.test_loss.append(test_loss)
                course.test_accuracy.append(nearest_share(test_accuracy, examples))
                self._judge(course, int(bad_steps[i]))
                if not course.running or self._epoch >= until:
                    course.reached = self._member(i, states[i])
        if not self.goes_on(until):
            self._train_state = None  # what was reached is the courses' now
        return time.perf_counter() - clock

    def _judge(self, course: Course, bad_step: int) -> None:
        steps = -(-len(self._data.train_x) // self.group.batch_size)
        losses = course.test_loss
        if bad_step >= 0:
            course.status, course.bad_step = "non-finite", (self._epoch - 1) * steps + bad_step
        elif self._epoch >= self.group.epochs:
            course.status = "finished"
        elif self._patience is not None and len(losses) - 1 - int(np.argmin(losses)) >= self._patience:
            course.status = "stopped early"

    def _finite(self, before: TrainState, after: TrainState) -> np.ndarray:
        """Whether each member's numbers stay finite."""
        if not self._mapped:
            return np.array([stays_finite_on_host(before, after)])
        sides = jax.device_get([jax.tree.leaves(side._replace(key=None)) for side in (before, after)])
        finite = [np.isfinite(new) | ~np.isfinite(old) for old, new in zip(*sides, strict=True)]
        return np.all([rows.reshape(self._width, -1).all(axis=1) for rows in finite], axis=0)

    def _member(self, i: int, train_state: TrainState) -> TrainState:
        return jax.tree.map(lambda leaf: leaf[i], train_state) if self._mapped else train_state

    def _rows(self, values: Any) -> Any:
        """On the host, one number for each member."""
        return jax.tree.map(lambda value: np.atleast_1d(np.array(value)), jax.device_get(values))
