"""Per-example gradients, for clipping them one by one, for influence functions, and for private training."""

from __future__ import annotations

from functools import partial

import jax

from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import EXAMPLES, check_key, check_trees
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_array
from functional_nn.training.argument_checks import check_batch, check_loss, check_loss_function
from functional_nn.training.step import LossFunction


def per_example_gradients(
    net: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    x: Value,
    labels: PyTree,
    *,
    train: bool = True,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Params]:
    """The loss and the gradient of each example, as if each example were a whole batch.

    Math:
        gₙ = ∂ℓ(f(xₙ; θ), tₙ)/∂θ; their mean over n is the gradient of the batch if all examples have the same weight

    Shapes:
        x (batch, …), labels (batch, …); the losses (batch,), and each gradient (batch, *parameter's shape)

    Args:
        net, loss: what ``fit`` takes. The numbers that a loss reports in addition are left out.
        params, state: of the network. The new state is not returned.
        x, labels: a batch: arrays, or pytrees of arrays.
        train: whether the network is in training.
        key: for noise, such as dropout; each example has its own noise.

    Raises:
        InputError: in training, if a layer couples the examples of a batch (``batch_norm``), because a single example
            then has no gradient of its own.

    >>> import functional_nn as fnn
    >>> net = fnn.dense(2)
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> losses, gradients = per_example_gradients(
    ...     net, fnn.cross_entropy, params, state, jax.numpy.ones((5, 3)), jax.numpy.zeros(5, int))
    >>> losses.shape, gradients["weight"].shape
    ((5,), (5, 3, 2))

    References:
        Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1.
    """
    net = as_layer(net)
    # A list of numbers is one array.
    labels = jax.tree.map(partial(as_array, "labels"), labels, is_leaf=lambda node: isinstance(node, list))
    check_loss_function(loss)
    check_trees(params, state)
    examples = check_batch(x, labels)
    if key is not None:
        check_key(key)

    def value(params, x, label, key):
        # Each example is a batch of one, so the mean in the loss changes nothing.
        x, label = jax.tree.map(lambda leaf: leaf[None], (x, label))
        y, _ = net.apply(params, state, x, train=train, key=key)
        return check_loss(loss(y, label))[0]

    keys = None if key is None else jax.random.split(key, examples)
    # The name of the mapped axis is how a layer such as batch_norm notices that its batch is not whole.
    alone = jax.vmap(jax.value_and_grad(value), in_axes=(None, 0, 0, None if keys is None else 0), axis_name=EXAMPLES)
    return alone(params, x, labels, keys)
