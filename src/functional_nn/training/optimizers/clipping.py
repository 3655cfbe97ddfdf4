"""Gradient clipping by the norm of all gradients, with counts of clipped and skipped steps."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_number
from functional_nn.training.optimizers.wrapping import update_with
from functional_nn.training.state import check_gradient_transformation


class Clipping(NamedTuple):
    """The state of ``with_clipping``.

    Args:
        optimizer_state: the state of the optimizer inside.
        clipped_steps: the number of steps with a gradient longer than the limit, int32.
        skipped_steps: the number of steps that changed nothing because their gradient was not finite, int32.
    """

    optimizer_state: PyTree
    clipped_steps: jax.Array
    skipped_steps: jax.Array


def with_clipping(
    optimizer: optax.GradientTransformation, limit: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with clipped gradients. It counts the steps that were clipped, and those that were skipped.

    Math:
        g ← g min(1, limit / ‖g‖), where ‖g‖ is the norm of all gradients together. It is computed as m √Σ(g / m)² with
        m = max |g|, so that squares neither overflow nor vanish. A gradient of 0 stays as it is.

    If a number in the gradient is not finite, the step is skipped: it changes nothing, not even the optimizer's state.
    The counts are in the optimizer's state (``Clipping``). ``fit`` reports those of each epoch in ``EpochMetrics``.

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

    def init(params):
        return Clipping(optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        # m = max |g|, in at least float32. max passes NaN on, so m is finite only if every element is.
        leaves = [leaf for leaf in jax.tree.leaves(updates) if leaf.size]
        dtype = jnp.result_type(jnp.float32, *leaves)
        largest = reduce(jnp.maximum, (jnp.max(jnp.abs(leaf)).astype(dtype) for leaf in leaves), jnp.zeros((), dtype))
        finite = jnp.isfinite(largest)

        # ‖g / m‖, and the factor that makes the gradient as long as the limit. The product m ‖g / m‖ could overflow, so
        # the limit is divided by both.
        unit = jnp.where(finite & (largest > 0), largest, 1)
        squares = (jnp.sum(jnp.square(leaf.astype(dtype) / unit)) for leaf in leaves)
        norm = jnp.sqrt(reduce(jnp.add, squares, jnp.zeros((), dtype)))
        clipped = finite & (norm > limit / unit)
        share = jnp.where(clipped, limit / unit / norm, 1)
        cut = jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), updates)

        # A gradient that is not finite changes nothing.
        new_updates, new_state = update_with(optimizer, cut, state.optimizer_state, params, extra)
        new_updates = jax.tree.map(lambda new: jnp.where(finite, new, jnp.zeros_like(new)), new_updates)
        optimizer_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state.optimizer_state)
        clipped_steps = _incremented_if(clipped, state.clipped_steps)
        skipped_steps = _incremented_if(~finite, state.skipped_steps)
        return new_updates, Clipping(optimizer_state, clipped_steps, skipped_steps)

    return optax.GradientTransformationExtraArgs(init, update)


def _incremented_if(condition: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(condition, optax.safe_increment(count), count)
