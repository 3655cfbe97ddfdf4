"""The train state, everything that training changes as one pytree, and the random keys derived from it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import check_key
from functional_nn.core.shapes import Shape
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.training.optimizers.loss_scale import LossScale
from functional_nn.training.optimizers.precision import Precision, as_precision, cast
from functional_nn.training.random_keys import derived_key


class TrainState(NamedTuple):
    """Everything that training changes.

    Args:
        step: the number of updates so far, int32. At the largest int32 it stays there.
        params: the network's parameters.
        state: the network's state (running statistics).
        optimizer_state: the state of the Optax transformation.
        key: the run's key, which never changes. The keys of steps and epochs are derived from it and their numbers.
        loss_scale: the ``LossScale`` if the precision scales the loss (float16); otherwise None.
    """

    step: jax.Array
    params: Params
    state: State
    optimizer_state: PyTree
    key: jax.Array
    loss_scale: LossScale | None = None


def create_train_state(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    in_shape: Shape,
    precision: str | Precision = "float32",
) -> TrainState:
    """Initializes a network and its optimizer.

    >>> import functional_nn as fnn
    >>> start = create_train_state(fnn.dense(2), optax.adam(1e-3), jax.random.key(0), (3,))
    >>> print(start.step, start.params["weight"].shape)
    0 (3, 2)
    """
    net, policy = as_layer(net), as_precision(precision)
    check_key(key)
    check_gradient_transformation(optimizer)
    params, state = cast(net.init(derived_key(key, "init"), in_shape), policy.parameters)
    loss_scale = LossScale.first() if policy.scales_loss else None
    return TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params), key, loss_scale)


def check_gradient_transformation(optimizer: object) -> None:
    """Raises an InputError unless this is an Optax transformation."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        remedy = "Write optax.adam(1e-3), or functional_nn.optimizer('adam', 1e-3)."
        raise InputError("optimizer", "an Optax transformation", shown(optimizer), remedy)
