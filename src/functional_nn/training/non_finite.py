"""Policies for values that are not finite in training (stop, skip), and the step that made the first one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from functional_nn import names
from functional_nn.core.errors import InputError
from functional_nn.core.masked import Value
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.training.devices import put_on_one
from functional_nn.training.epoch import EpochResult
from functional_nn.training.run_programs import Programs
from functional_nn.training.state import TrainState, derived_key
from functional_nn.training.step import numbers

STOP, SKIP = names.NON_FINITE
"""``stop`` ends the run; ``skip`` leaves out the bad steps."""


def check_policy(policy: object) -> None:
    """Raises an InputError unless the policy is one of the two."""
    if policy not in names.NON_FINITE:
        raise InputError("non_finite", "a known name", repr(policy), suggest(str(policy), names.NON_FINITE))


class BadStep(NamedTuple):
    """A step that ended a run.

    Args:
        before: the train state before the step.
        x, labels: its batch.
        rows: the indices of its examples in the training data; None for a batch of a stream.
    """

    before: TrainState
    x: Value
    labels: PyTree
    rows: jax.Array | None

    @property
    def arguments(self) -> dict[str, PyTree]:
        """The arguments of ``find_non_finite`` for this step, besides those that ``fit`` got."""
        key = derived_key(self.before.key, "noise", self.before.step)
        return {
            "params": self.before.params,
            "state": self.before.state,
            "x": self.x,
            "labels": self.labels,
            "key": key,
        }


def bad_step_of(
    programs: Programs, before: TrainState, x: Value, labels: PyTree, number: jax.Array, step: int
) -> BadStep:
    """The batch of a step, with the train state before it.

    Args:
        programs: the programs of the run.
        before: the train state before the step.
        x, labels: all training examples.
        number: the number of the epoch.
        step: the number of the step in the epoch.
    """
    order = programs.compiled.draw_order(before.key, number)
    (full, rest), before, data = put_on_one((order, before, (x, labels)), programs.compiled.sharding)
    rows = full[step] if step < len(full) else rest
    x, labels = jax.tree.map(lambda array: array[rows], data)
    return BadStep(before, x, labels, rows)


def finite_epoch(
    programs: Programs, x: Value, labels: PyTree, before: TrainState, number: jax.Array
) -> tuple[TrainState, EpochResult, BadStep | None]:
    """Runs an epoch with fast steps, which check nothing.

    If a value is not finite after it, the epoch is run again from its start, with steps that change nothing if a value
    would become non-finite.

    Returns:
        the train state after the epoch, its result, and the first bad step; None if there is none.
    """
    after, result = jax.block_until_ready(programs.epoch(before, x, labels, number))
    if _stayed_finite(before, after, result):
        return after, result, None
    after, result, before_bad_step = jax.block_until_ready(programs.careful_epoch(before, x, labels, number))
    step = int(result.bad_step)
    # This other program rounds differently, so at the edge of overflow it may find no bad step.
    if step < 0 or before_bad_step is None:
        return after, result, None
    return after, result, bad_step_of(programs, before_bad_step, x, labels, number, step)


def _stayed_finite(before: TrainState, after: TrainState, result: EpochResult) -> bool:
    # The losses alone are not enough: the last update of an epoch has no loss after it.
    return int(result.bad_step) < 0 and all(finite.all() for finite in where_finite(before, after))


def where_finite(before: TrainState, after: TrainState) -> list[np.ndarray]:
    """For each array of numbers in a train state, where it is finite after an epoch or was not finite before it.

    NumPy computes it, so nothing is compiled.
    The state before the epoch is copied to the host only if a number after it is not finite, which is rare.
    """
    finite = [np.isfinite(new) for new in jax.device_get(numbers(after))]
    if all(of_leaf.all() for of_leaf in finite):
        return finite
    return [of_leaf | ~np.isfinite(old) for of_leaf, old in zip(finite, jax.device_get(numbers(before)), strict=True)]
