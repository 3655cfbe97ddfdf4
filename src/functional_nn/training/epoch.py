"""An epoch of training as a pure function, with its steps in a ``scan``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_count, check_function, tree_in_native_order
from functional_nn.training.argument_checks import (
    check_batch,
    check_epoch_number,
    check_loss,
    check_pair,
    check_train_state,
)
from functional_nn.training.recipe import LossResult
from functional_nn.training.state import TrainState, derived_key
from functional_nn.training.step import TrainStep

NO_REPORTS: Mapping[str, jax.Array] = {}
"""What a loss reports that returns one number."""


class EpochResult(NamedTuple):
    """The result of an epoch.

    Args:
        loss: the mean loss of the examples, each computed before the update of its batch. Steps whose loss is not
            finite are left out.
        bad_step: the first step whose loss was not finite, counted from 0 in the epoch; -1 if there is none.
        bad_steps: the number of such steps.
        reports: the means of what the loss reports in addition, by name, computed in the same way.
    """

    loss: jax.Array
    bad_step: jax.Array
    bad_steps: jax.Array
    reports: Mapping[str, jax.Array] = NO_REPORTS


Carried = TypeVar("Carried")
"""A train state, possibly with other values that are passed from step to step."""

Epoch: TypeAlias = Callable[[TrainState, Value, PyTree, jax.Array], tuple[TrainState, EpochResult]]


def make_epoch(train_step: TrainStep, batch_size: int) -> Epoch:
    """Makes a pure function ``epoch(train_state, x, labels, number) -> (train_state, EpochResult)``.

    An epoch uses every example once. Their order is drawn from the run's key and the epoch's number. All full batches
    run in one ``scan``. The remaining examples are one smaller batch, so nothing is padded, left out or counted twice.
    The mean loss is the mean over the batches, weighted by their numbers of examples. Each step gathers its batch from
    the data, which keep their type, such as bytes. Inputs and labels may be pytrees, such as ``Masked`` sequences,
    with examples along axis 0.
    """
    check_function("train_step", train_step, "what make_train_step returns")
    check_count("batch_size", batch_size)

    def checked_step(train_state, x, labels):
        train_state, loss = check_pair("train_step", train_step(train_state, x, labels), "loss")
        value, reports = check_loss(loss)
        return train_state, (value, reports) if reports else value

    def epoch(train_state, x, labels, number):
        check_train_state(train_state)
        number = check_epoch_number(number)
        examples = check_batch(x, labels)
        x, labels = jax.tree.map(jnp.asarray, tree_in_native_order((x, labels)))
        full, rest = drawn_batches(train_state.key, number, examples, batch_size)
        step = of_rows(checked_step, x, labels)
        train_state, losses = lax.scan(step, train_state, full)
        return with_last_batch(step, train_state, losses, rest, batch_size)

    return epoch


def drawn_batches(
    key: jax.Array, number: int | jax.Array, examples: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the order of the examples in epoch ``number`` from the run's key.

    Returns the numbers of the examples in the full batches, (batches, batch_size), and those of the remaining examples.
    """
    order = shuffled(derived_key(key, "shuffle", number), examples)
    batches = examples // batch_size
    in_full_batches = batches * batch_size
    return order[:in_full_batches].reshape(batches, batch_size), order[in_full_batches:]


def of_rows(
    train_step: Callable[[Carried, PyTree, PyTree], tuple[Carried, PyTree]], x: Value, labels: PyTree
) -> Callable[[Carried, jax.Array], tuple[Carried, PyTree]]:
    """The same step for the numbers of a batch's examples, to gather from all examples in the program.

    Steps may carry more than a train state.
    """

    def step(train_state, rows):
        # The rows are in bounds, since they are a permutation, so the program need not check them.
        batch = jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), (x, labels))
        return train_step(train_state, *batch)

    return step


def with_last_batch(
    step: Callable[[Carried, jax.Array], tuple[Carried, PyTree]],
    train_state: Carried,
    losses: PyTree,
    rest: jax.Array,
    batch_size: int,
) -> tuple[Carried, EpochResult]:
    """Trains on the smaller last batch, if there is one, and sums up the epoch.

    Args:
        step: what ``of_rows`` returns.
        train_state: after the full batches.
        losses: what the steps on the full batches returned, stacked.
        rest: the numbers of the remaining examples.
        batch_size: the number of examples in a full batch.
    """
    losses, reports = _loss_and_reports(losses)
    sizes = jnp.full_like(losses, batch_size)
    if rest.size:
        train_state, loss = step(train_state, rest)
        losses, reports = jax.tree.map(jnp.append, (losses, reports), _loss_and_reports(loss))
        sizes = jnp.append(sizes, jnp.asarray(rest.size, sizes.dtype))
    # The mean over the examples: each batch's mean counts as often as the batch has examples. Both sums are one
    # operation on stacked arrays.
    # If no loss is finite, the mean is 0 / 0 = NaN, by which the policy "skip" sees that no step was good.
    finite = jnp.isfinite(losses)
    sums = jnp.sum(jnp.stack([jnp.where(finite, losses * sizes, 0), jnp.where(finite, sizes, 0)]), axis=1)
    # argmin returns the first False. If all are finite it returns a finite place, and there is no bad step.
    first_bad = jnp.argmin(finite)
    bad_step = jnp.where(finite[first_bad], -1, first_bad)
    bad_steps = jnp.sum(~finite, dtype=jnp.int32)
    means = {name: jnp.sum(jnp.where(finite, reports[name] * sizes, 0)) / sums[1] for name in reports}
    return train_state, EpochResult(sums[0] / sums[1], bad_step.astype(jnp.int32), bad_steps, means)


def _loss_and_reports(loss: LossResult) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    return loss if isinstance(loss, tuple) else (loss, NO_REPORTS)


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """The numbers from 0 to ``size`` - 1 in random order: each gets random bits, by which they are sorted.

    Numbers and bits are packed into one integer each, because sorting one array is two to eight times as fast as
    sorting pairs. Up to 65,536 numbers are packed into 32 bits, together with at least 16 random bits each. If the
    random bits of two numbers are equal, the smaller number comes first. So of two numbers the smaller one comes first
    with probability ½ + 2⁻¹⁷ instead of ½. More numbers are packed into 64 bits, together with 32 random bits.
    (``jax.random.permutation`` sorts pairs twice, to avoid equal bits.)

    >>> print(sorted(shuffled(jax.random.key(0), 5).tolist()))
    [0, 1, 2, 3, 4]
    """
    numbers = jnp.arange(size, dtype=jnp.uint32)
    random = jax.random.bits(key, (size,), jnp.uint32)
    if size > 2**16:
        # 64-bit integers are allowed here, whatever JAX's setting, and do not leave this block.
        with jax.enable_x64(True):
            high = lax.convert_element_type(random, jnp.uint64) << jnp.uint64(32)
            packed = lax.sort(high | lax.convert_element_type(numbers, jnp.uint64))
            return lax.convert_element_type(packed & jnp.uint64(2**32 - 1), jnp.int32)
    # The low bits hold the number, the high bits are random, and a sort looks at the high bits first.
    low_bits = jnp.uint32(2 ** (size - 1).bit_length() - 1)
    return (lax.sort((random & ~low_bits) | numbers) & low_bits).astype(jnp.int32)
