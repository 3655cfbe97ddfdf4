"""Training for one epoch as a pure function: the steps run in a ``scan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.validation import check_count, check_function, tree_in_native_order
from functional_nn.training.argument_checks import (
    check_batch,
    check_epoch_number,
    check_scalar,
    check_stepped,
    check_train_state,
)
from functional_nn.training.state import TrainState, derived_key
from functional_nn.training.step import TrainStep


class EpochResult(NamedTuple):
    """The mean loss of an epoch's examples, as each batch had it before its update, and which steps were bad.

    ``bad_step`` is the first that was not finite, counted within the epoch, or -1; ``bad_steps`` is how many were. The
    mean is over the finite steps.
    """

    loss: jax.Array
    bad_step: jax.Array
    bad_steps: jax.Array


Epoch: TypeAlias = Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, EpochResult]]


def make_epoch(train_step: TrainStep, batch_size: int) -> Epoch:
    """A pure ``epoch(train_state, x, labels, number) -> (train_state, EpochResult)``: every example once.

    The order is drawn anew from the run's key and the epoch's number. All full batches run in one ``scan``; what is
    left over is one smaller batch of its own, so that nothing is padded, dropped or counted twice, and the mean loss is
    the batches', weighted by their number of examples. The data stay on the device as they came, bytes if they are, and
    are gathered per batch. Inputs and labels may be pytrees, such as ``Masked`` sequences, with examples along axis 0.
    """

    check_function("train_step", train_step, "what make_train_step gives")
    check_count("batch_size", batch_size)

    def checked_step(train_state, x, labels):
        train_state, loss = check_stepped("train_step", train_step(train_state, x, labels), "loss")
        return train_state, check_scalar("train_step's loss", loss)

    full_batches, last_batch = make_epoch_parts(checked_step, batch_size)

    def epoch(train_state, x, labels, number):
        check_train_state(train_state)
        number, examples = check_epoch_number(number), check_batch(x, labels)
        x, labels = jax.tree.map(jnp.asarray, tree_in_native_order((x, labels)))
        full, left = drawn_batches(train_state.key, number, examples, batch_size)
        return last_batch(*full_batches(train_state, full, x, labels), left, x, labels)

    return epoch


def drawn_batches(
    key: jax.Array, number: int | jax.Array, examples: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """The rows of epoch ``number``, from the run's key: those of the full batches, one a row, and what is left over."""
    order = shuffled(derived_key(key, "shuffle", number), examples)
    batches = examples // batch_size
    return order[: batches * batch_size].reshape(batches, batch_size), order[batches * batch_size :]


def make_epoch_parts(
    train_step: TrainStep, batch_size: int, unroll: int = 1
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What ``make_epoch`` does with ``drawn_batches``, as two functions, for compiling them apart.

    ``full_batches(train_state, full, x, labels) -> (train_state, losses)``;
    ``last_batch(train_state, losses, left, x, labels) -> (train_state, EpochResult)``. ``unroll`` steps stand in the
    body of the loop, with the same bits.
    """

    def full_batches(train_state, full, x, labels):
        def step(train_state, rows):
            return train_step(train_state, *_rows(rows, x, labels))

        return lax.scan(step, train_state, full, unroll=unroll)

    def last_batch(train_state, losses, left, x, labels):
        sizes = jnp.full_like(losses, batch_size)
        if left.size:
            train_state, loss = train_step(train_state, *_rows(left, x, labels))
            losses = jnp.append(losses, loss)
            sizes = jnp.append(sizes, jnp.asarray(left.size, sizes.dtype))
        finite = jnp.isfinite(losses)
        sums = jnp.sum(jnp.stack([jnp.where(finite, losses * sizes, 0), jnp.where(finite, sizes, 0)]), axis=1)
        first_bad = jnp.argmin(finite)
        bad_step = jnp.where(finite[first_bad], -1, first_bad)
        bad_steps = jnp.sum(~finite, dtype=jnp.int32)
        return train_state, EpochResult(sums[0] / sums[1], bad_step.astype(jnp.int32), bad_steps)

    return full_batches, last_batch


def _rows(rows: jax.Array, *data: Any) -> Any:
    return jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), data)


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """The numbers from 0 to ``size`` - 1 in random order: sorted by a random number each.

    Up to 65,536 of them share 32 bits with at least 16 random ones, since a sort of one array is eight times as fast as
    one of pairs. Where random bits are equal the smaller number comes first: of two examples this one has a chance of
    ½ + 2⁻¹⁷ to come first, not ½. More numbers are sorted by 32 random bits. (``jax.random.permutation`` sorts pairs
    twice, to be rid of such ties.)

    >>> print(sorted(shuffled(jax.random.key(0), 5).tolist()))
    [0, 1, 2, 3, 4]
    """
    numbers = jnp.arange(size, dtype=jnp.uint32)
    random = jax.random.bits(key, (size,), jnp.uint32)
    if size > 2**16:
        return lax.sort((random, numbers), num_keys=1)[1].astype(jnp.int32)
    number_bits = jnp.uint32(2 ** (size - 1).bit_length() - 1)
    return (lax.sort((random & ~number_bits) | numbers) & number_bits).astype(jnp.int32)
