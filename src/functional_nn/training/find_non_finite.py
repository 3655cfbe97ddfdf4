"""The function ``find_non_finite``: the origin of a NaN or an infinite number in a network's loss or gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import check_key, check_trees
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_flag, check_function, tree_in_native_order
from functional_nn.jaxprs.non_finite.find import find_origin
from functional_nn.jaxprs.non_finite.report import NonFinite
from functional_nn.training.argument_checks import check_batch, check_loss_function, check_penalty
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.step import (
    GradientFunction,
    LossFunction,
    PenaltyFunction,
    differentiated,
    make_objective,
)

NETWORK, LOSS, PENALTY = "network", "loss", "penalty"
"""Name scopes of the parts of the objective. The layers' scopes are inside that of the network."""


def find_non_finite(
    net: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    x: PyTree,
    labels: PyTree,
    *,
    penalty: PenaltyFunction | None = None,
    gradient: GradientFunction = jax.value_and_grad,
    precision: str | Precision = "float32",
    train: bool = True,
    key: jax.Array | None = None,
) -> NonFinite:
    """Finds where a NaN or an infinite number in the loss of a network, or in its gradient, comes from.

    The loss and its gradient are computed as in training, but operation by operation. The result names the first
    operation, in the forward or in the backward pass, that made a non-finite number on which the loss or the gradient
    depends. It has the layer, the source line, the numbers, the likely cause and a remedy. If a parameter or the data
    are not finite from the start, the result names the array and the element. See ``find_non_finite_in`` for other
    functions and for how the search works.

    Args:
        net: the network.
        loss: the loss, as ``fit`` takes it.
        params: the parameters.
        state: the network's state.
        x: the batch for which the loss or the gradient is not finite. Bytes are divided by 255, as in ``fit``.
        labels: its labels.
        penalty, gradient, precision: as ``fit`` takes them.
        train: whether the network runs in training mode.
        key: for layers that draw random numbers.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.dense(2, initializer=jax.nn.initializers.zeros), jnp.log, fnn.dense(1))
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> found = fnn.find_non_finite(net, fnn.mean_squared_error, params, state, jnp.ones((4, 3)), jnp.ones((4, 1)))
    >>> found.operation, found.layer, found.stage, found.value
    ('log', 'log_0', 'forward pass', -inf)
    >>> found.cause
    'The logarithm of 0 is -inf.'
    """
    net, policy = as_layer(net), as_precision(precision)
    check_loss_function(loss)
    check_penalty(penalty)
    check_function("gradient", gradient, "a function with the interface of jax.value_and_grad")
    check_trees(params, state)
    check_batch(x, labels)
    check_flag("train", train)
    if key is not None:
        check_key(key)

    function = loss_and_gradient(net, loss, penalty, gradient, policy, train=train, key=key)
    return network_origin(net, function, params, state, x, labels)


def loss_and_gradient(
    net: Layer,
    loss: LossFunction,
    penalty: PenaltyFunction | None,
    gradient: GradientFunction,
    precision: Precision,
    *,
    train: bool,
    key: jax.Array | None,
) -> Callable[..., dict[str, PyTree]]:
    """Makes a function ``(params, state, x, labels)`` that returns a dict with the loss, the gradient and the state."""

    def forward(*arguments, **options):
        with jax.named_scope(NETWORK):
            return net.forward(*arguments, **options)

    def named_loss(y, labels):
        with jax.named_scope(LOSS):
            return loss(y, labels)

    def named_penalty(params):
        assert penalty is not None
        with jax.named_scope(PENALTY):
            return penalty(params)

    in_scopes = net._replace(forward=forward)
    objective = make_objective(in_scopes, named_loss, named_penalty if penalty else None, precision, train=train)

    def function(params, state, x, labels):
        (total, value, reports, new_state), bars = differentiated(gradient, objective, params, state, x, labels, key)
        with_penalty = {} if penalty is None else {"loss plus penalty": total}
        return {**reports, **with_penalty, "loss": value, "gradient": bars, "state": new_state}

    return function


def network_origin(
    net: Layer,
    function: Callable[..., PyTree],
    params: Params,
    state: State,
    x: PyTree,
    labels: PyTree,
    *,
    only_if_quick: bool = False,
) -> NonFinite:
    """Searches for the origin in a function that ``loss_and_gradient`` made."""
    arguments = jax.tree.map(jnp.asarray, tree_in_native_order((params, state, x, labels)))
    found = find_origin(function, arguments, ("params", "state", "x", "labels"), only_if_quick=only_if_quick)
    # An operation that is in the scope of the network, but in that of no layer, belongs to the network itself.
    layer = net.name if found.layer == NETWORK else found.layer.removeprefix(f"{NETWORK}/")
    # The loss and its parts come first: a user looks for them before gradients and states.
    affected = tuple(sorted(found.affected, key=lambda path: path.startswith(("gradient", "state"))))
    return replace(found, affected=affected, layer=layer)
