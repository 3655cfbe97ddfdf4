"""Functions of a network to measure: a train step, predictions, and the gradient computed in two ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape
from functional_nn.core.texts import suggest
from functional_nn.layers.combinators.hand_vjp import with_hand_vjp
from functional_nn.losses.classification import cross_entropy
from functional_nn.losses.loss import Loss
from functional_nn.models import FASTER_BY_FORMULA
from functional_nn.models.named_models import model as make_model
from functional_nn.training.precision import as_precision, cast
from functional_nn.training.state import TrainState, create_train_state
from functional_nn.training.step import TrainStep, forward, make_train_step

FUNCTIONS = ("step", "predict", "gradient", "hand")


class Workload(NamedTuple):
    """A function, its arguments, and the numbers of the arguments that may be donated."""

    name: str
    function: Callable[..., object]
    arguments: tuple[object, ...]
    donate: tuple[int, ...]


class MeasuredNetwork(NamedTuple):
    """The network to measure, and how it is trained.

    Args:
        net: the network.
        loss: the loss.
        make_optimizer: makes the optimizer from a learning rate, which a sweep gives as a traced value.
        in_shape: the shape of one example.
        classes: the number of classes.
        trained: the network that ``fit`` and ``sweep`` train, such as ``with_hand_vjp(net)``; by default ``net``.
        learning_rate: the learning rate of all runs.
    """

    net: Layer
    loss: Loss
    make_optimizer: Callable[[float | jax.Array], optax.GradientTransformation]
    in_shape: Shape
    classes: int
    trained: Layer | None = None
    learning_rate: float = 1e-3

    @property
    def trained_net(self) -> Layer:
        """The network that ``fit`` and ``sweep`` train."""
        return self.trained or self.net

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with the learning rate of all runs."""
        return self.make_optimizer(self.learning_rate)


def named_network(model: str, hidden: tuple[int, ...] | None = None) -> MeasuredNetwork:
    """A named model on images of 28 × 28 in ten classes. It is trained by its formula if that is faster.

    Args:
        model: the name of the model.
        hidden: its hidden sizes; None for the model's own.

    Raises:
        InputError: for an unknown name, or sizes that the model does not take.
    """
    net = make_model(model, 10) if hidden is None else make_model(model, 10, hidden=hidden)
    trained = with_hand_vjp(net) if model in FASTER_BY_FORMULA else net
    return MeasuredNetwork(net, cross_entropy, optax.adam, (28, 28, 1), 10, trained)


def workload(what: str, network: MeasuredNetwork, batch_size: int, precision: str = "float32") -> Workload:
    """Makes one of ``FUNCTIONS`` with a batch of random examples.

    ``step`` is a train step with its optimizer, ``predict`` the outputs in evaluation, ``gradient`` the gradient of the
    loss by ``jax.grad``, and ``hand`` the same gradient by the hand-derived backward pass.

    Raises:
        InputError: for an unknown name or precision.
    """
    if what not in FUNCTIONS:
        raise InputError("what", "a known name", repr(what), suggest(what, FUNCTIONS))
    step, (train_state, x, labels) = step_and_arguments(network, batch_size, precision)
    if what == "step":
        return Workload(what, step, (train_state, x, labels), (0,))

    policy = as_precision(precision)
    net, loss = network.net, network.loss
    params, state, key = train_state.params, train_state.state, train_state.key

    def predict(params, state, x):
        return forward(net, policy, params, state, x, train=False)[0]

    def value(params, state, x, labels, key):
        return loss(forward(net, policy, params, state, x, train=True, key=key)[0], labels)

    def hand(params, state, x, labels, key):
        # The casts are those of forward and of its backward pass, so both gradients do the same work.
        compute_params, x = cast(params, policy.compute), cast(x, policy.compute)
        y, _, pullback = net.vjp(compute_params, state, x, train=True, key=key)
        y_bar = loss.gradient(cast(y, policy.output), labels)
        params_bar, _ = pullback(cast(y_bar, y.dtype))
        return cast(params_bar, policy.parameters)

    if what == "predict":
        return Workload(what, predict, (params, state, x), ())
    function = hand if what == "hand" else jax.grad(value)
    return Workload(what, function, (params, state, x, labels, key), ())


def step_and_arguments(
    network: MeasuredNetwork, batch_size: int, precision: str
) -> tuple[TrainStep, tuple[TrainState, jax.Array, jax.Array]]:
    """Makes a train step and its arguments: a train state, a batch and its labels."""
    policy = as_precision(precision)
    key_start, key_x, key_labels = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(key_x, (batch_size, *network.in_shape), policy.parameters)
    labels = jax.random.randint(key_labels, (batch_size,), 0, network.classes, jnp.int32)
    net, optimizer = network.trained_net, network.optimizer

    def start(key):
        return create_train_state(net, optimizer, key, network.in_shape, policy)

    step = make_train_step(net, network.loss, optimizer, precision=policy, keep_finite=False)
    return step, (jax.jit(start)(key_start), x, labels)
