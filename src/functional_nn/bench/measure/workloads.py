"""What the command measures of a network: training, predicting, its gradient in two ways, and many networks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError, suggest
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape
from functional_nn.losses.loss import Loss
from functional_nn.training.optimizers.precision import as_precision, cast
from functional_nn.training.state import create_train_state
from functional_nn.training.step import forward, make_train_step

WHATS = ("train", "predict", "gradient", "hand", "sweep")


class Workload(NamedTuple):
    """A function with its arguments, and the numbers of those that it may be given for good."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...]


class Subject(NamedTuple):
    """What is measured: a network, its loss and optimizer, on examples of this shape in so many classes.

    ``trained`` is the network as ``fit`` is to be given it, by default ``net``: with ``with_hand_vjp`` around it where
    that is quicker.
    """

    net: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    in_shape: Shape
    classes: int
    trained: Layer | None = None


def workload(what: str, subject: Subject, batch_size: int, precision: str = "float32", members: int = 1) -> Workload:
    """One of ``WHATS`` for a batch of so many made-up examples.

    ``train`` is a step with its optimizer, ``predict`` the outputs in evaluation, ``gradient`` that of the loss by
    ``jax.grad``, ``hand`` the same by the hand-derived backward pass, and ``sweep`` a step of so many members, each
    with a state of its own, on one batch.

    Raises:
        InputError: for an unknown name or precision.
    """
    if what not in WHATS:
        raise InputError("what", "a known name", repr(what), suggest(what, WHATS))
    policy = as_precision(precision)
    net, loss = subject.net, subject.loss
    key_start, key_x, key_labels = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(key_x, (batch_size, *subject.in_shape), policy.parameters)
    labels = jax.random.randint(key_labels, (batch_size,), 0, subject.classes, jnp.int32)

    def start(key):
        return create_train_state(net, subject.optimizer, key, subject.in_shape, policy)

    def predict(params, state, x):
        return forward(net, policy, params, state, x, train=False)[0]

    def value(params, state, x, labels, key):
        return loss(forward(net, policy, params, state, x, train=True, key=key)[0], labels)

    def hand(params, state, x, labels, key):
        inner, x = cast(params, policy.compute), cast(x, policy.compute)
        y, _, pullback = net.vjp(inner, state, x, train=True, key=key)
        y_bar = loss.gradient(cast(y, policy.output), labels)
        return cast(pullback(cast(y_bar, y.dtype))[0], policy.parameters)

    if what == "sweep":
        step = make_train_step(subject.trained or net, loss, subject.optimizer, precision=policy, keep_finite=False)
        states = jax.jit(jax.vmap(start))(jax.random.split(key_start, members))
        return Workload(f"sweep of {members}", jax.vmap(step, in_axes=(0, None, None)), (states, x, labels), (0,))
    train_state = jax.jit(start)(key_start)
    params, state, key = train_state.params, train_state.state, train_state.key
    if what == "train":
        step = make_train_step(subject.trained or net, loss, subject.optimizer, precision=policy, keep_finite=False)
        return Workload(what, step, (train_state, x, labels), (0,))
    if what == "predict":
        return Workload(what, predict, (params, state, x), ())
    return Workload(what, hand if what == "hand" else jax.grad(value), (params, state, x, labels, key), ())
