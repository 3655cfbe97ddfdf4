"""The origin of a NaN or an infinite number in a network's loss, in its gradient, or in a step that ended a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from functional_nn.core.functions import path_name
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_flag, check_function, check_key, check_trees, tree_in_native_order
from functional_nn.jaxprs.non_finite import NonFinite, find_origin
from functional_nn.training.argument_checks import check_batch, check_loss_function, check_penalty
from functional_nn.training.non_finite import BadStep
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.programs import ProgramSpec
from functional_nn.training.recipe import Hyperparameters, Recipe
from functional_nn.training.state import TrainState
from functional_nn.training.step import (
    GradientFunction,
    LossFunction,
    PenaltyFunction,
    differentiated,
    is_number,
    make_objective,
    numbers,
)

NETWORK = "network"
"""The name scope of the network. The layers' scopes are inside it."""


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

    function = _loss_and_gradient(net, loss, penalty, gradient, policy, train, key)
    return _network_origin(net, function, params, state, x, labels)


def origin_in_step(spec: ProgramSpec, hyperparameters: Hyperparameters, step: BadStep) -> NonFinite | None:
    """Finds the origin in the loss, the gradient or the update of a step; None if the search finds nothing.

    The search is only a help for the user, who needs the message of the run in any case. So an error in the search does
    not stop the run, and a long search is not made.
    """
    try:
        found = _search(spec.recipe_for(hyperparameters), spec.precision, step)
    except Exception:
        return None
    return found if found else None


def _search(recipe: Recipe, precision: Precision, step: BadStep) -> NonFinite:
    arguments = dict(step.arguments)
    key = arguments.pop("key")
    function = _loss_and_gradient(recipe.net, recipe.loss, recipe.penalty, recipe.gradient, precision, True, key)
    found = _network_origin(recipe.net, function, *arguments.values(), only_if_quick=True)
    if found.argument.split("/")[0] in ("x", "labels"):
        note = "" if step.rows is None else f"In the training data this is example {step.rows[found.index[0]]}."
        return replace(found, in_batch=True, note=note or found.note)
    if found:
        return found
    # Loss and gradient are finite, so the optimizer made the number. Steps that keep the finite state would hide it.
    train_step = recipe.train_step(precision, keep_finite=False)

    def update(train_state: TrainState, x: Value, labels: PyTree) -> dict[str, PyTree]:
        after, _ = train_step(train_state, x, labels)
        # The states of some optimizers contain infinite numbers from the start, and random keys are not numbers.
        pairs = zip(numbers(train_state), numbers(after), strict=True)
        paths = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(after) if is_number(leaf)]
        return {path: jnp.where(jnp.isfinite(old), new, 0) for path, (old, new) in zip(paths, pairs, strict=True)}

    found = find_origin(update, (step.before, step.x, step.labels), ("train state", "x", "labels"), only_if_quick=True)
    return replace(found, stage="optimizer's update")


def _loss_and_gradient(
    net: Layer,
    loss: LossFunction,
    penalty: PenaltyFunction | None,
    gradient: GradientFunction,
    precision: Precision,
    train: bool,
    key: jax.Array | None,
) -> Callable[..., dict[str, PyTree]]:
    """Makes a function ``(params, state, x, labels)`` that returns a dict with the loss, the gradient and the state."""
    in_scope = net._replace(forward=jax.named_scope(NETWORK)(net.forward))
    named_penalty = jax.named_scope("penalty")(penalty) if penalty else None
    objective = make_objective(in_scope, jax.named_scope("loss")(loss), named_penalty, precision, train=train)

    def function(params, state, x, labels):
        (total, value, reports, new_state), bars = differentiated(gradient, objective, params, state, x, labels, key)
        with_penalty = {} if penalty is None else {"loss plus penalty": total}
        return {**reports, **with_penalty, "loss": value, "gradient": bars, "state": new_state}

    return function


def _network_origin(
    net: Layer, function: Callable[..., PyTree], *arguments: PyTree, only_if_quick: bool = False
) -> NonFinite:
    """Searches for the origin in a function that ``_loss_and_gradient`` made, for params, state, x and labels."""
    arrays = jax.tree.map(jnp.asarray, tree_in_native_order(arguments))
    found = find_origin(function, arrays, ("params", "state", "x", "labels"), only_if_quick=only_if_quick)
    # An operation that is in the scope of the network, but in that of no layer, belongs to the network itself.
    layer = net.name if found.layer == NETWORK else found.layer.removeprefix(f"{NETWORK}/")
    # The loss and its parts come first: a user looks for them before gradients and states.
    affected = tuple(sorted(found.affected, key=lambda path: path.startswith(("gradient", "state"))))
    return replace(found, affected=affected, layer=layer)
