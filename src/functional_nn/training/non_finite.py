"""Values that are not finite in training: policies, the step that made the first one, and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn import names
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree, flatten
from functional_nn.core.validation import check_flag, check_key, check_trees, tree_in_native_order
from functional_nn.jaxprs.non_finite import NonFinite, find_origin
from functional_nn.layers.combinators.hand_vjp import ByFormula
from functional_nn.training.argument_checks import check_batch, check_loss_function, check_penalty
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.recipe import Gradient, LossFunction, PenaltyFunction, Recipe, with_gradient
from functional_nn.training.state import TrainState, derived_key, learning_rate
from functional_nn.training.step import differentiated, is_number, make_objective, numbers, step_of

STOP, SKIP = names.NON_FINITE
"""``stop`` ends the run; ``skip`` leaves out the bad steps."""

NETWORK = "network"
"""The name scope of the network. The layers' scopes are inside it."""

ADVICE = " fnn.find_non_finite(net, loss, **run.at_bad_step) names the operation that made the first such number."
"""How to search for the origin."""


def find_non_finite(
    net: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    x: PyTree,
    labels: PyTree,
    *,
    penalty: PenaltyFunction | None = None,
    gradient: Gradient = "auto",
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

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
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
    net, differentiate = with_gradient(net, gradient)
    check_trees(params, state)
    check_batch(x, labels)
    check_flag("train", train)
    if key is not None:
        check_key(key)
    # Nothing is optimized.
    recipe = Recipe(net, loss, optax.identity(), penalty, gradient=differentiate)
    return _network_origin(recipe, policy, key, (params, state, x, labels), train=train)


class BadStep(NamedTuple):
    """A step that ended a run.

    Args:
        before: the train state before the step.
        x, labels: its batch.
        rows: the indices of its examples in the training data; None for a batch of a stream.
    """

    before: TrainState
    x: Value
    labels: PyTree
    rows: jax.Array | None

    def arguments(self, recipe: Recipe, precision: Precision) -> dict[str, PyTree]:
        """The arguments of ``find_non_finite`` for this step, besides the network and the loss."""
        return {
            "params": self.before.params,
            "state": self.before.state,
            "x": self.x,
            "labels": self.labels,
            "key": derived_key(self.before.key, "noise", self.before.step),
            "penalty": recipe.penalty,
            # The caller has the network as it was given to ``fit``, before ``with_gradient``.
            "gradient": "formula" if isinstance(recipe.net.forward, ByFormula) else recipe.gradient,
            "precision": precision,
        }


NOT_FINITE = "Loss or update were not finite"
"""How the message and the warning of such a run begin."""


def non_finite_message(
    bad_step: int, epoch: int, rate: float | None, origin: NonFinite | None, precision: Precision
) -> str:
    """What happened in a step that ended the run, its learning rate, the origin, and what to do."""
    with_rate = "" if rate is None else f", with the learning rate {rate:g}"
    happened = (
        f"{NOT_FINITE} at step {bad_step} of epoch {epoch}{with_rate}. Such steps changed nothing, and the last finite "
        "state is kept."
    )
    if origin is not None:
        return " ".join(text for text in (happened, origin.sentence, origin.note, origin.remedy) if text)
    message = f"{happened} Try a smaller learning rate; look for NaN in the data."
    if precision.scales_loss:
        message += " Float16 ends at 65,504; bfloat16 reaches as far as float32."
    return message


def rate_of_step(recipe: Recipe, step: BadStep) -> float | None:
    """The learning rate of a step; None if the optimizer does not say it."""
    before = step.before
    try:
        # The state after any update, such as that of the gradient 0, has the rate of the step.
        zeros = jax.tree.map(jnp.zeros_like, before.params)
        _, state = recipe.optimizer.update(zeros, before.optimizer_state, before.params)
        return learning_rate(before._replace(optimizer_state=state))
    except Exception:  # as in origin_in_step
        return None


def origin_in_step(recipe: Recipe, precision: Precision, step: BadStep) -> NonFinite | None:
    """Finds the origin in the loss, the gradient or the update of a step; None if the search finds nothing.

    The search is only a help for the user, who needs the message of the run in any case. So an error in the search does
    not stop the run, and a long search is not made.
    """
    try:
        found = _search(recipe, precision, step)
    except Exception:
        return None
    return found if found else None


def _search(recipe: Recipe, precision: Precision, step: BadStep) -> NonFinite:
    before, x, labels, rows = step
    key = derived_key(before.key, "noise", before.step)
    found = _network_origin(recipe, precision, key, (before.params, before.state, x, labels), only_if_quick=True)
    if found.argument.split("/")[0] in ("x", "labels"):
        note = "" if rows is None else f"In the training data this is example {rows[found.index[0]]}."
        return replace(found, in_batch=True, note=note or found.note)
    if found:
        return found
    # Loss and gradient are finite, so the optimizer made the number. Steps that keep the finite state would hide it.
    train_step = step_of(recipe, precision)

    def update(train_state: TrainState, x: Value, labels: PyTree) -> dict[str, PyTree]:
        after, _ = train_step(train_state, x, labels)
        # The states of some optimizers contain infinite numbers from the start, and random keys are not numbers.
        pairs = zip(numbers(train_state), numbers(after), strict=True)
        paths = [path for path, leaf in flatten(after).items() if is_number(leaf)]
        return {path: jnp.where(jnp.isfinite(old), new, 0) for path, (old, new) in zip(paths, pairs, strict=True)}

    found = find_origin(update, (before, x, labels), ("train state", "x", "labels"), only_if_quick=True)
    return replace(found, stage="optimizer's update")


def _network_origin(
    recipe: Recipe,
    precision: Precision,
    key: jax.Array | None,
    arguments: tuple[Params, State, Value, PyTree],
    *,
    train: bool = True,
    only_if_quick: bool = False,
) -> NonFinite:
    """Searches for the origin in the loss and its gradient, for ``(params, state, x, labels)``."""
    net, penalty = recipe.net, recipe.penalty
    in_scopes = recipe._replace(
        net=net._replace(forward=jax.named_scope(NETWORK)(net.forward)),
        loss=jax.named_scope("loss")(recipe.loss),
        penalty=penalty and jax.named_scope("penalty")(penalty),
    )
    objective = make_objective(in_scopes, precision, train=train)

    def loss_and_gradient(params, state, x, labels):
        outcome = differentiated(objective, recipe.gradient, params, state, x, labels, key)
        (total, value, reports, new_state), bars = outcome
        with_penalty = {} if penalty is None else {"loss plus penalty": total}
        return {**reports, **with_penalty, "loss": value, "gradient": bars, "state": new_state}

    arrays = jax.tree.map(jnp.asarray, tree_in_native_order(arguments))
    places = ("params", "state", "x", "labels")
    found = find_origin(loss_and_gradient, arrays, places, only_if_quick=only_if_quick)
    # An operation that is in the scope of the network, but in that of no layer, belongs to the network itself.
    layer = net.name if found.layer == NETWORK else found.layer.removeprefix(f"{NETWORK}/")
    # The loss and its parts come first: a user looks for them before gradients and states.
    affected = tuple(sorted(found.affected, key=lambda path: path.startswith(("gradient", "state"))))
    return replace(found, affected=affected, layer=layer)
