"""An optimizer whose updates are multiplied by a share that can be lowered during a run."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.trees import PyTree
from functional_nn.training.optimizers.extra_arguments import update_with


class RateShare(NamedTuple):
    """The state of an optimizer whose updates are multiplied by ``share``, which ``fit`` lowers."""

    optimizer_state: PyTree
    share: jax.Array


# Cached, so that a second run with the same optimizer has an equal recipe and finds its compiled programs.
@lru_cache(maxsize=32)
def with_rate_share(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer with its updates multiplied by a share, which starts at 1.

    >>> rule = with_rate_share(optax.sgd(1.0))
    >>> state = rule.init(jnp.zeros(1))
    >>> print(rule.update(jnp.ones(1), state._replace(share=jnp.float32(0.5)))[0])
    [-0.5]
    """

    def init(params):
        return RateShare(optimizer.init(params), jnp.ones((), jnp.float32))

    def update(updates, state, params=None, **extra):
        updates, optimizer_state = update_with(optimizer, updates, state.optimizer_state, params, extra)
        scaled = jax.tree.map(lambda leaf: leaf * state.share.astype(leaf.dtype), updates)
        return scaled, RateShare(optimizer_state, state.share)

    return optax.GradientTransformationExtraArgs(init, update)
