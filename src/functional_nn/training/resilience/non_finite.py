"""Policies for losses, parameters and statistics that are not finite: stop, skip, or roll back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from functional_nn.core.errors import InputError, suggest
from functional_nn.training.epoch import EpochResult
from functional_nn.training.optimizers.clipping import Clipping
from functional_nn.training.programs.compile import Programs
from functional_nn.training.state import TrainState

STOP, SKIP, ROLL_BACK = POLICIES = ("stop", "skip", "roll-back")
"""End the run; go on without the bad steps; run the epoch again with half of the learning rate."""

SMALLEST_SHARE = 2.0**-10
"""The smallest part of the learning rate that is tried. If an epoch fails even then, the rate is not the reason."""


class RateShare(NamedTuple):
    """The state of an optimizer whose updates are multiplied by ``share``, which ``fit`` lowers."""

    optimizer_state: Any
    share: jax.Array


@lru_cache(maxsize=32)
def with_rate_share(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer with its updates multiplied by a share, which starts at 1.

    >>> rule = with_rate_share(optax.sgd(1.0))
    >>> state = rule.init(jnp.zeros(1))
    >>> print(rule.update(jnp.ones(1), state._replace(share=jnp.float32(0.5)))[0])
    [-0.5]
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        return RateShare(inner.init(params), jnp.ones((), jnp.float32))

    def update(updates, state, params=None, **extra):
        updates, optimizer_state = inner.update(updates, state.optimizer_state, params, **extra)
        scaled = jax.tree.map(lambda leaf: leaf * state.share.astype(leaf.dtype), updates)
        return scaled, RateShare(optimizer_state, state.share)

    return optax.GradientTransformationExtraArgs(init, update)


def check_policy(policy: Any) -> None:
    """Raises an ``InputError`` for an unknown policy."""
    if policy not in POLICIES:
        raise InputError("non_finite", "a known name", repr(policy), suggest(str(policy), POLICIES))


def finite_epoch(
    policy: str, programs: Programs, before: TrainState, x: Any, labels: Any, number: jax.Array
) -> tuple[TrainState, EpochResult]:
    """Runs an epoch by fast steps, which check nothing. If a value is not finite after it, runs it again by the policy.

    ``stop`` and ``skip`` run it again from its start, by steps that change nothing where a value would not be finite.
    ``roll-back`` runs it again with half of the learning rate, until all stays finite or the rate is too small.
    """
    after, result = jax.block_until_ready(programs.epoch(before, x, labels, number))
    while not _stayed_finite(before, after, result):
        if policy != ROLL_BACK or before.optimizer_state.share <= SMALLEST_SHARE:
            return jax.block_until_ready(programs.careful_epoch(before, x, labels, number))
        halved = before.optimizer_state._replace(share=before.optimizer_state.share / 2)
        before = before._replace(optimizer_state=halved)
        after, result = jax.block_until_ready(programs.epoch(before, x, labels, number))
    return after, result


def _stayed_finite(before: TrainState, after: TrainState, result: EpochResult) -> bool:
    return int(result.bad_step) < 0 and stays_finite_on_host(before, after)


def stays_finite_on_host(before: TrainState, after: TrainState) -> bool:
    """``stays_finite`` of everything but the keys, on the host, where it needs no compilation."""
    pairs = zip(*(jax.tree.leaves(side._replace(key=None)) for side in (before, after)), strict=True)
    return all((np.isfinite(new) | ~np.isfinite(old)).all() for old, new in jax.device_get(list(pairs)))


class Counts(NamedTuple):
    """How many steps of a run so far changed nothing, and how many were clipped."""

    skipped_steps: int
    clipped_steps: int


def counts(train_state: TrainState) -> Counts:
    """The counts in a train state, from ``with_clipping`` and from the loss scale; zeros if it has neither."""
    nodes = jax.tree.leaves(train_state.optimizer_state, is_leaf=lambda node: isinstance(node, Clipping))
    clippings = [node for node in nodes if isinstance(node, Clipping)]
    skipped = [clipping.skipped_steps for clipping in clippings]
    if train_state.loss_scale is not None:
        skipped.append(train_state.loss_scale.skipped_steps)
    return Counts(*(sum(map(int, steps)) for steps in (skipped, [clipping.clipped_steps for clipping in clippings])))


def rate_share(train_state: TrainState) -> float:
    """The part of the learning rate that roll-backs have left."""
    state = train_state.optimizer_state
    return float(state.share) if isinstance(state, RateShare) else 1.0
