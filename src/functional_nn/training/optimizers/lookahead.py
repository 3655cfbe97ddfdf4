"""Optax's lookahead for plain parameters: the slow parameters are kept in the optimizer's state."""

from __future__ import annotations

from typing import NamedTuple

import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.training.optimizers.wrapping import update_with
from functional_nn.training.state import check_gradient_transformation


class SlowParams(NamedTuple):
    """The state of ``with_slow_params``.

    Args:
        optimizer_state: the state of Optax's lookahead.
        params: the slow parameters.
    """

    optimizer_state: PyTree
    params: PyTree


def with_slow_params(lookahead: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Optax's lookahead as an optimizer of plain parameters, which ``fit`` and ``sweep`` take.

    Math:
        The fast parameters θ follow the inner optimizer. After every k steps the slow ones φ move towards them, and the
        fast ones continue from there: φ ← φ + α (θ - φ), θ ← φ.

    Optax's lookahead takes parameters as a pair of fast and slow ones. Here the parameters are the fast ones, and the
    slow ones are in the state, where ``slow_params`` finds them. Do not use it with ``non_finite="roll-back"``, which
    would halve the updates of the fast ones only.

    Args:
        lookahead: what ``optax.lookahead`` returned.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> rule = with_slow_params(optax.lookahead(optax.sgd(1.0), sync_period=2, slow_step_size=0.5))
    >>> params = {"w": jnp.array(1.0)}
    >>> state = rule.init(params)
    >>> for _ in range(2):
    ...     updates, state = rule.update({"w": jnp.array(1.0)}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> print(params["w"], slow_params(state, params)["w"])
    0.0 0.0

    References:
        Zhang et al. 2019, "Lookahead optimizer: k steps forward, 1 step back", algorithm 1.
    """

    check_gradient_transformation(lookahead)

    def init(params: PyTree):
        pair = optax.LookaheadParams.init_synced(params)
        return SlowParams(lookahead.init(pair), pair.slow)

    def update(updates, state, params: PyTree = None, **extra):
        pair = optax.LookaheadParams(params, state.params)
        changes, optimizer_state = update_with(lookahead, updates, state.optimizer_state, pair, extra)
        return changes.fast, SlowParams(optimizer_state, optax.apply_updates(state.params, changes.slow))

    return optax.GradientTransformationExtraArgs(init, update)


def slow_params(optimizer_state: SlowParams, params: Params) -> Params:
    """The slow parameters, for ``fit(..., eval_params=slow_params)``.

    Raises:
        InputError: unless this is the state of an optimizer that ``with_slow_params`` made.
    """
    if not isinstance(optimizer_state, SlowParams):
        raise InputError("optimizer_state", "the state of with_slow_params", shown(optimizer_state))
    return optimizer_state.params
