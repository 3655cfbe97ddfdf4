"""An epoch of training on a stream: batch by batch, with the next batch prepared while a step runs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.trees import PyTree
from functional_nn.data.stream import StreamReader
from functional_nn.training.epoch import EpochResult
from functional_nn.training.programs.compile import Programs
from functional_nn.training.resilience.non_finite import ROLL_BACK, SMALLEST_SHARE, BadStep
from functional_nn.training.state import TrainState


def streamed_epoch(
    policy: str,
    programs: Programs,
    reader: StreamReader,
    check_interruption: Callable[[], None],
    before: TrainState,
    number: jax.Array,
) -> tuple[TrainState, EpochResult, BadStep | None]:
    """Trains on all batches of an epoch. Steps that are not finite change nothing; the first of them is returned too.

    The policy ``roll-back`` reads the epoch again, with half of the learning rate, until all steps are finite or the
    rate is too small.

    Args:
        policy: for values that are not finite, as ``fit`` takes it.
        programs: the compiled programs, with ``keep_finite``, for one batch.
        reader: reads the batches.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every step.
        before: the train state before the epoch.
        number: the number of the epoch, from 0.
    """
    while True:
        after, result, bad_step = _all_batches(programs, reader, check_interruption, before, int(number) + 1)
        if policy != ROLL_BACK or not int(result.bad_steps) or before.optimizer_state.share <= SMALLEST_SHARE:
            return after, result, bad_step
        halved = before.optimizer_state._replace(share=before.optimizer_state.share / 2)
        before = before._replace(optimizer_state=halved)


def _all_batches(
    programs: Programs,
    reader: StreamReader,
    check_interruption: Callable[[], None],
    train_state: TrainState,
    epoch: int,
) -> tuple[TrainState, EpochResult, BadStep | None]:
    results: list[EpochResult] = []
    last, bad_step = None, None
    expected_shapes = programs.compiled.spec.data.part("train")
    for batch in reader.epoch(epoch):
        check_interruption()
        # Images may have to be flattened, as those of a data set.
        x, labels = jax.tree.map(lambda array, like: array.reshape(like.shape), tuple(batch), expected_shapes)
        x, labels = jax.device_put((x, labels), programs.compiled.sharding)
        # The previous step runs while this batch is read. Waiting for it keeps at most two batches in memory.
        if results and int(results[-1].bad_steps) and bad_step is None:
            bad_step = last
        # Kept until its result is read, after the next batch: the state before the step and the step's batch.
        last = BadStep(train_state, x, labels, None)
        train_state, result = programs.batch(train_state, x, labels)
        results.append(result)
    if bad_step is None and int(results[-1].bad_steps):
        bad_step = last
    return jax.block_until_ready(train_state), _summed_up(results), bad_step


def _summed_up(results: list[EpochResult]) -> EpochResult:
    """The result of an epoch, computed from the results of its batches. All batches have one size."""
    losses, _, bad, reports = jax.device_get(tuple(zip(*results, strict=True)))
    is_bad = np.array(bad) > 0

    def mean(values: tuple[PyTree, ...]) -> jax.Array:
        finite = np.array(values)[~is_bad]
        # The mean of no numbers is NaN, as for data in memory.
        return jnp.asarray(np.mean(finite) if len(finite) else np.float32(np.nan))

    means = {name: mean(tuple(report[name] for report in reports)) for name in reports[0]}
    first_bad = np.argmax(is_bad) if is_bad.any() else -1
    return EpochResult(mean(losses), jnp.int32(first_bad), jnp.int32(np.sum(is_bad)), means)
