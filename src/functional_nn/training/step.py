"""One update: the gradient of the loss over a batch, through the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from functional_nn.layer import Layer, Params, State
from functional_nn.training.precision import PRECISIONS, Precision, cast
from functional_nn.training.state import TrainState, derived_key

LossFunction: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
PenaltyFunction: TypeAlias = Callable[[Params], jax.Array]
TrainStep: TypeAlias = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array]]


def make_train_step(
    net: Layer,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    penalty: PenaltyFunction | None = None,
    precision: Precision = PRECISIONS["float32"],
    keep_finite: bool = True,
) -> TrainStep:
    """A pure ``train_step(train_state, x, labels) -> (train_state, loss)``.

    The gradient is ``jax.grad``'s, of loss plus penalty over the batch; the loss that comes back is without the
    penalty. With ``keep_finite`` a step whose loss is not finite, or that would put a number that is not into
    parameters, statistics or the optimizer's state, changes nothing, not even the step count, and its loss comes back
    as NaN: so a run that blows up keeps its last finite state. Line searches and the like get ``value``, ``grad`` and
    ``value_fn``.

    >>> import functional_nn as fnn
    >>> from functional_nn.training.state import create_train_state
    >>> net, optimizer = fnn.dense(2), optax.sgd(0.1)
    >>> train_step = jax.jit(make_train_step(net, fnn.cross_entropy, optimizer))
    >>> start = create_train_state(net, optimizer, jax.random.key(0), (3,))
    >>> after, loss = train_step(start, jnp.ones((4, 3)), jnp.array([0, 1, 1, 1]))
    >>> print(after.step)
    1
    """

    def objective(params, state, x, labels, key):
        y, new_state = forward(net, precision, params, state, x, train=True, key=key)
        value = loss(y, labels)
        return value if penalty is None else value + penalty(params), (value, new_state)

    def train_step(train_state, x, labels):
        step, params, state, optimizer_state, key = train_state
        key_step = derived_key(key, "noise", step)
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (total, (value, new_state)), gradient = differentiate(params, state, x, labels, key_step)
        updates, new_optimizer_state = optax.with_extra_args_support(optimizer).update(
            gradient,
            optimizer_state,
            params,
            value=total,
            grad=gradient,
            value_fn=lambda params: objective(params, state, x, labels, key_step)[0],
        )
        new_params: Any = optax.apply_updates(params, updates)  # pyright: ignore[reportArgumentType]
        new: Any = (optax.safe_increment(step), new_params, new_state, new_optimizer_state)
        if keep_finite:
            finite = stays_finite((0.0, train_state[:-1]), (total, new))
            value = jnp.where(finite, value, jnp.nan)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, tuple(train_state[:-1]))
        step, params, state, optimizer_state = new
        return TrainState(step, params, state, optimizer_state, key), value

    return train_step


def forward(
    net: Layer,
    precision: Precision,
    params: Params,
    state: State,
    x: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """The network's output in the parameters' type, computed in ``precision.compute``; bytes become x / 255."""
    if x.dtype == jnp.uint8:
        x = x.astype(precision.compute) / 255
    y, state = net.apply(cast(params, precision.compute), state, cast(x, precision.compute), train=train, key=key)
    return y.astype(precision.parameters), state


def stays_finite(before: Any, after: Any) -> jax.Array:
    """Whether every number that was finite before is finite after; some optimizers start with an infinity."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) for old, new in pairs]))
