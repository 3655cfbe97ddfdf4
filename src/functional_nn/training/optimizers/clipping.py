"""Gradients cut to a largest norm, and a count of how often."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.validation import check_number
from functional_nn.training.state import check_gradient_transformation


class Clipping(NamedTuple):
    """The state of ``with_clipping``.

    Args:
        optimizer_state: the optimizer's own.
        clipped_steps: steps whose gradient was longer than the limit, int32.
        skipped_steps: steps whose gradient was not finite and changed nothing, int32.
    """

    optimizer_state: Any
    clipped_steps: jax.Array
    skipped_steps: jax.Array


def with_clipping(
    optimizer: optax.GradientTransformation, limit: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, given gradients no longer than a limit; it counts those that it cut and those it left out.

    Math:
        g ← g min(1, limit / ‖g‖), where ‖g‖ is the norm of all gradients together. It is computed as m √Σ(g / m)² with
        m = max |g|, so that squares neither overflow nor vanish; a gradient of 0 stays as it is. Where some number of
        the gradient is not finite the step changes nothing, not even the optimizer's state, and is counted.

    Counts are in the optimizer's state (``Clipping``); ``fit`` gives those of each epoch in ``EpochMetrics``.

    Args:
        optimizer: any Optax transformation.
        limit: the largest norm, above 0. May be a traced array.

    >>> rule = with_clipping(optax.sgd(1.0), 5.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = rule.update({"w": jnp.array([30.0, -40.0])}, rule.init(params), params)
    >>> print(updates["w"], state.clipped_steps)
    [-3.  4.] 1

    References:
        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    check_gradient_transformation(optimizer)
    check_number("limit", limit, "a number above 0", lambda limit: limit > 0)
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        return Clipping(inner.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        leaves = [leaf for leaf in jax.tree.leaves(updates) if leaf.size]
        dtype = jnp.result_type(jnp.float32, *leaves)
        largest = reduce(jnp.maximum, (jnp.max(jnp.abs(leaf)).astype(dtype) for leaf in leaves), jnp.zeros((), dtype))
        finite = jnp.isfinite(largest)
        unit = jnp.where(finite & (largest > 0), largest, 1)
        squares = (jnp.sum(jnp.square(leaf.astype(dtype) / unit)) for leaf in leaves)
        norm = jnp.sqrt(reduce(jnp.add, squares, jnp.zeros((), dtype)))
        clipped = finite & (norm > limit / unit)
        share = jnp.where(clipped, limit / unit / norm, 1)
        cut = jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), updates)
        moved, reached = inner.update(cut, state.optimizer_state, params, **extra)
        return jax.tree.map(lambda new: jnp.where(finite, new, jnp.zeros_like(new)), moved), Clipping(
            jax.tree.map(lambda new, old: jnp.where(finite, new, old), reached, state.optimizer_state),
            _counted(state.clipped_steps, clipped),
            _counted(state.skipped_steps, ~finite),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _counted(count: jax.Array, one_more: jax.Array) -> jax.Array:
    return jnp.where(one_more, optax.safe_increment(count), count)
