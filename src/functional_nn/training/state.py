"""Everything that training changes, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import check_key
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import shown
from functional_nn.training.optimizers.loss_scale import LossScale
from functional_nn.training.optimizers.precision import Precision, as_precision, cast


class TrainState(NamedTuple):
    """Where a run stands.

    Args:
        step: updates done, int32; stays at its largest value.
        params: the network's parameters.
        state: the network's state (running statistics).
        optimizer_state: Optax's.
        key: the run's key, never changed: a step's and an epoch's keys are derived from it and their number.
        loss_scale: where the precision scales the loss (float16), its ``LossScale``.
    """

    step: jax.Array
    params: Params
    state: State
    optimizer_state: Any
    key: jax.Array
    loss_scale: LossScale | None = None


def create_train_state(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    in_shape: Shape,
    precision: str | Precision = "float32",
) -> TrainState:
    """A network at its start.

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


def check_gradient_transformation(optimizer: Any) -> None:
    """Refuses what is no Optax transformation."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        remedy = "Write optax.adam(1e-3), or functional_nn.optimizer('adam', 1e-3)."
        raise InputError("optimizer", "an Optax transformation", shown(optimizer), remedy)


KEY_USES = 16
"""Room for uses to come, so that a new one changes no stream of numbers."""


def derived_key(key: jax.Array, use: str, number: int | jax.Array = 0) -> jax.Array:
    """The run's key for one use: ``init``, ``shuffle`` with the epoch's number, or ``noise`` with the step's.

    >>> keys = [derived_key(jax.random.key(0), *use) for use in (("init",), ("shuffle", 0), ("noise", 0), ("noise", 1))]
    >>> len({str(jax.random.key_data(key)) for key in keys})
    4
    """
    return jax.random.fold_in(key, number * KEY_USES + ("init", "shuffle", "noise").index(use))
