"""A whole epoch, and a whole run, as one pure function with the steps in a ``scan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.layer import Layer
from functional_nn.loss import Loss
from functional_nn.metrics import correct
from functional_nn.training.precision import PRECISIONS, Precision
from functional_nn.training.state import TrainState, derived_key
from functional_nn.training.step import LossFunction, TrainStep, forward


class Evaluation(NamedTuple):
    """Loss over a set, and accuracy where a label is the number of one of the outputs (NaN elsewhere)."""

    loss: jax.Array
    accuracy: jax.Array


class EpochResult(NamedTuple):
    """The mean loss of an epoch's examples, as each batch had it before its update, and the first bad step.

    ``bad_step`` counts within the epoch; it is -1 where every step was finite. The mean is over the finite steps.
    """

    loss: jax.Array
    bad_step: jax.Array


Epoch: TypeAlias = Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, EpochResult]]


def make_epoch(train_step: TrainStep, batch_size: int) -> Epoch:
    """A pure ``epoch(train_state, x, labels, number) -> (train_state, EpochResult)``: every example once.

    The order is drawn anew from the run's key and the epoch's number. All full batches run in one ``scan``; what is
    left over is one smaller batch of its own, so that nothing is padded, dropped or counted twice, and the mean loss is
    the batches', weighted by their number of examples. The data stay on the device as they came, bytes if they are, and
    are gathered per batch.
    """

    def epoch(train_state, x, labels, number):
        examples = x.shape[0]
        order = shuffled(derived_key(train_state.key, "shuffle", number), examples)
        batches, left = divmod(examples, batch_size)

        def step(train_state, rows):
            return train_step(train_state, x[rows], labels[rows])

        losses, sizes = [], []
        if batches:
            full = order[: batches * batch_size].reshape(batches, batch_size)
            train_state, batch_losses = lax.scan(step, train_state, full)
            losses.append(batch_losses)
            sizes.append(jnp.full(batches, batch_size, batch_losses.dtype))
        if left:
            train_state, loss = step(train_state, order[batches * batch_size :])
            losses.append(loss[None])
            sizes.append(jnp.full(1, left, loss.dtype))
        losses, sizes = jnp.concatenate(losses), jnp.concatenate(sizes)
        finite = jnp.isfinite(losses)
        mean = jnp.sum(jnp.where(finite, losses * sizes, 0)) / jnp.sum(jnp.where(finite, sizes, 0))
        bad_step = jnp.where(jnp.all(finite), -1, jnp.argmin(finite))
        return train_state, EpochResult(mean, bad_step.astype(jnp.int32))

    return epoch


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


def make_evaluate(
    net: Layer,
    loss: LossFunction,
    *,
    precision: Precision = PRECISIONS["float32"],
    batch_size: int = 1000,
) -> Callable[[TrainState, jax.Array, jax.Array], Evaluation]:
    """A pure ``evaluate(train_state, x, labels) -> Evaluation``, exact over uneven batches.

    What a ``Loss`` ignores counts neither in the loss nor in the accuracy. The value of any other function is taken for
    the mean over a batch's examples.
    """
    counted = loss.counted if isinstance(loss, Loss) else None

    def evaluate(train_state, x, labels):
        batches, left = divmod(x.shape[0], batch_size)

        def totals(_, batch):
            inputs, targets = batch
            y, _ = forward(net, precision, train_state.params, train_state.state, inputs, train=False)
            examples = jnp.asarray(targets.shape[0], y.dtype)
            loss_sum = loss.totals(y, targets) if isinstance(loss, Loss) else (loss(y, targets) * examples, examples)
            right = count = jnp.full((), jnp.nan, y.dtype)
            if jnp.issubdtype(targets.dtype, jnp.integer) and targets.shape == y.shape[:-1]:
                right = correct(y, targets).astype(y.dtype)
                count = jnp.sum((jnp.ones_like(targets) if counted is None else counted(targets)).astype(y.dtype))
            return None, jnp.stack([*loss_sum, right, count])

        sums = []
        if batches:
            split = batches * batch_size
            stacked = tuple(a[:split].reshape(batches, batch_size, *a.shape[1:]) for a in (x, labels))
            sums.append(jnp.sum(lax.scan(totals, None, stacked)[1], axis=0))
        if left:
            sums.append(totals(None, (x[-left:], labels[-left:]))[1])
        loss_sum, weight, right, count = jnp.sum(jnp.stack(sums), axis=0)
        return Evaluation(loss_sum / weight, right / count)

    return evaluate


def make_run(
    epoch: Epoch, evaluate: Callable[[TrainState, jax.Array, jax.Array], Evaluation], epochs: int
) -> Callable[..., tuple[TrainState, EpochResult, Evaluation]]:
    """A whole run as one pure function: ``run(train_state, x, labels, test_x, test_labels)``.

    It scans over the epochs and evaluates after each; the results have one row an epoch. Under ``vmap`` it trains a
    population. Nothing can stop it: after a step that is not finite it goes on from the state before it.
    """

    def run(train_state, x, labels, test_x, test_labels):
        def body(train_state, number):
            train_state, result = epoch(train_state, x, labels, number)
            return train_state, (result, evaluate(train_state, test_x, test_labels))

        train_state, (results, evaluations) = lax.scan(body, train_state, jnp.arange(epochs))
        return train_state, results, evaluations

    return run
