"""One update: the gradient of the loss over a batch, through the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.validation import check_flag
from functional_nn.data.preparation import scale_bytes
from functional_nn.training.argument_checks import check_batch, check_functions, check_scalar, check_train_state
from functional_nn.training.optimizers.loss_scale import LossScale
from functional_nn.training.optimizers.precision import Precision, as_precision, cast
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
    precision: str | Precision = "float32",
    keep_finite: bool = True,
) -> TrainStep:
    """A pure ``train_step(train_state, x, labels) -> (train_state, loss)``.

    The gradient is ``jax.grad``'s, of loss plus penalty over the batch; the loss that comes back is without the
    penalty. With ``keep_finite`` a step whose loss is not finite, or that would put a number that is not into
    parameters, statistics or the optimizer's state, changes nothing, not even the step count, and its loss comes back
    as NaN: so a run that blows up keeps its last finite state. Line searches and the like get ``value``, ``grad`` and
    ``value_fn``.

    Where the precision scales the loss, it is differentiated times ``train_state.loss_scale``, and the gradient divided
    again. One that is not finite for a finite loss lowers the scale and changes nothing else; the step is counted
    there. Where the scale cannot be lowered any more the loss comes back as NaN.

    >>> import functional_nn as fnn
    >>> from functional_nn.training.state import create_train_state
    >>> net, optimizer = fnn.dense(2), optax.sgd(0.1)
    >>> train_step = jax.jit(make_train_step(net, fnn.cross_entropy, optimizer))
    >>> start = create_train_state(net, optimizer, jax.random.key(0), (3,))
    >>> after, loss = train_step(start, jnp.ones((4, 3)), jnp.array([0, 1, 1, 1]))
    >>> print(after.step)
    1
    """

    net, policy = as_layer(net), as_precision(precision)
    check_functions(loss, optimizer, penalty)
    check_flag("keep_finite", keep_finite)

    def objective(params, state, x, labels, key, scale):
        y, new_state = forward(net, policy, params, state, x, train=True, key=key)
        value = check_scalar("loss", loss(y, labels))
        total = value if penalty is None else value + check_scalar("penalty", penalty(params))
        return total if scale is None else total * scale.astype(total.dtype), (total, value, new_state)

    def train_step(train_state, x, labels):
        check_train_state(train_state)
        check_batch(x, labels)
        step, params, state, optimizer_state, key, loss_scale = train_state
        _check_loss_scale(policy, loss_scale)
        scale = None if loss_scale is None else loss_scale.scale
        key_step = derived_key(key, "noise", step)
        differentiate = jax.grad(objective, has_aux=True)
        gradient, (total, value, new_state) = differentiate(params, state, x, labels, key_step, scale)
        if scale is not None:
            gradient = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), gradient)
        updates, new_optimizer_state = optax.with_extra_args_support(optimizer).update(
            gradient,
            optimizer_state,
            params,
            value=total,
            grad=gradient,
            value_fn=lambda params: objective(params, state, x, labels, key_step, None)[0],
        )
        new_params: Any = optax.apply_updates(params, updates)  # pyright: ignore[reportArgumentType]
        old: Any = train_state._replace(key=None)
        new = old._replace(
            step=optax.safe_increment(step), params=new_params, state=new_state, optimizer_state=new_optimizer_state
        )
        if loss_scale is not None:
            fits = all_finite(gradient)
            value = jnp.where(~fits & loss_scale.exhausted, jnp.nan, value)
            new = where(fits, new, old)._replace(loss_scale=loss_scale.after(fits))
        if keep_finite:
            finite = stays_finite((0.0, old), (total, new))
            value = jnp.where(finite, value, jnp.nan)
            new = where(finite, new, old)
        return new._replace(key=key), value

    return train_step


def _check_loss_scale(policy: Precision, loss_scale: LossScale | None) -> None:
    if policy.scales_loss != (loss_scale is not None):
        given = "one without" if loss_scale is None else "one with a loss scale"
        remedy = "Give create_train_state the precision that make_train_step has."
        raise InputError("train_state", f"one for computing in {policy.compute}", given, remedy)


def forward(
    net: Layer,
    precision: Precision,
    params: Params,
    state: State,
    x: Any,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[Any, State]:
    """The network's output in ``precision.output``, computed in ``precision.compute``; bytes become x / 255."""
    x = scale_bytes(x, precision.compute)
    y, state = net.apply(cast(params, precision.compute), state, cast(x, precision.compute), train=train, key=key)
    return cast(y, precision.output), state


def where(condition: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where the condition holds, ``old`` else; pytrees of one structure."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    return reduce(jnp.logical_and, (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)), jnp.bool_(True))


def stays_finite(before: Any, after: Any) -> jax.Array:
    """Whether every number that was finite before is finite after; some optimizers start with an infinity."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) for old, new in pairs]))
