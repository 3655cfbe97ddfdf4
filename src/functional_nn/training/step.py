"""Train steps: one update of the parameters, from the gradient of the loss over a batch and the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_flag
from functional_nn.data.preparation import scale_bytes
from functional_nn.training.argument_checks import check_batch, check_functions, check_scalar, check_train_state
from functional_nn.training.optimizers.loss_scale import LossScale
from functional_nn.training.optimizers.precision import Precision, as_precision, cast
from functional_nn.training.random_keys import derived_key
from functional_nn.training.state import TrainState

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
    """Makes a pure function ``train_step(train_state, x, labels) -> (train_state, loss)``.

    The gradient of loss plus penalty over the batch is computed by ``jax.grad``. The returned loss is without the
    penalty. Optimizers that search along a line get ``value``, ``grad`` and ``value_fn``.

    With ``keep_finite``, a step changes nothing, not even the step count, if its loss is not finite, or if a number in
    the parameters, the network's state or the optimizer's state would become non-finite. Its loss is returned as NaN.
    So a run that diverges keeps its last finite state.

    If the precision scales the loss, the scaled loss is differentiated, and the gradient is divided by the scale
    (``train_state.loss_scale``). If a gradient is not finite, only the scale changes: it is lowered, and the step is
    counted as skipped. If the scale cannot be lowered any more, the loss is returned as NaN.

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
        scaled = total if scale is None else total * scale.astype(total.dtype)
        return scaled, (total, value, new_state)

    def train_step(train_state, x, labels):
        check_train_state(train_state)
        check_batch(x, labels)
        params, state, loss_scale = train_state.params, train_state.state, train_state.loss_scale
        _check_loss_scale(policy, loss_scale)

        # The gradient of the (scaled) loss.
        scale = None if loss_scale is None else loss_scale.scale
        key_step = derived_key(train_state.key, "noise", train_state.step)
        differentiate = jax.grad(objective, has_aux=True)
        gradient, (total, value, new_state) = differentiate(params, state, x, labels, key_step, scale)
        if scale is not None:
            gradient = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), gradient)

        # The optimizer's update.
        updates, new_optimizer_state = optax.with_extra_args_support(optimizer).update(
            gradient,
            train_state.optimizer_state,
            params,
            value=total,
            grad=gradient,
            value_fn=lambda params: objective(params, state, x, labels, key_step, None)[0],
        )
        new_params: PyTree = optax.apply_updates(params, updates)  # pyright: ignore[reportArgumentType]
        # The key never changes, and it is no number to compare, so it is put back at the end.
        old: PyTree = train_state._replace(key=None)
        new = old._replace(
            step=optax.safe_increment(train_state.step),
            params=new_params,
            state=new_state,
            optimizer_state=new_optimizer_state,
        )

        # With a scaled loss, a gradient that overflowed changes nothing but the scale.
        if loss_scale is not None:
            fits = all_finite(gradient)
            value = jnp.where(~fits & loss_scale.exhausted, jnp.nan, value)
            new = where(fits, new, old)._replace(loss_scale=loss_scale.after(fits))

        # A step that would make a number non-finite changes nothing.
        if keep_finite:
            finite = stays_finite((0.0, old), (total, new))
            value = jnp.where(finite, value, jnp.nan)
            new = where(finite, new, old)
        return new._replace(key=train_state.key), value

    return train_step


def _check_loss_scale(policy: Precision, loss_scale: LossScale | None) -> None:
    if policy.scales_loss != (loss_scale is not None):
        expected = f"a loss scale for computing in {policy.compute}" if policy.scales_loss else "no loss scale"
        given = "none" if loss_scale is None else "one"
        remedy = "Give create_train_state the precision that make_train_step has."
        raise InputError("train_state", expected, given, remedy)


def forward(
    net: Layer,
    precision: Precision,
    params: Params,
    state: State,
    x: Value,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> tuple[Value, State]:
    """The network's output in ``precision.output``, computed in ``precision.compute``. Bytes are divided by 255."""
    x = scale_bytes(x, precision.compute)
    y, state = net.apply(cast(params, precision.compute), state, cast(x, precision.compute), train=train, key=key)
    return cast(y, precision.output), state


def where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Returns ``new`` if the condition holds, otherwise ``old``. Both are pytrees of the same structure."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a pytree is finite."""
    return reduce(jnp.logical_and, (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)), jnp.bool_(True))


def stays_finite(before: PyTree, after: PyTree) -> jax.Array:
    """Whether every number that is finite in ``before`` is finite in ``after``.

    Not all numbers have to be finite, because the states of some optimizers contain infinity from the start.
    """
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) for old, new in pairs]))
