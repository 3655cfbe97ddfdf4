"""Data as a network takes them, and a warning of probabilities in the place of logits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable

import jax
import numpy as np

from functional_nn.core.errors import InputError, inside
from functional_nn.core.functions import cached_if_hashable
from functional_nn.core.layer import Layer, checked_init
from functional_nn.core.shapes import Shape, shape_of
from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Dataset, Split, as_split
from functional_nn.data.preparation import number_of_examples
from functional_nn.losses.loss import Loss
from functional_nn.training.step import LossFunction


def data_for_network(net: Layer, loss: LossFunction, data: Dataset | Split) -> Split:
    """The arrays of a data set or a split in the form that the network takes; examples may be flattened.

    Raises:
        InputError: for shapes that do not fit each other, and for labels that the loss does not take.
    """
    split = _flattened_where_needed(net, as_split(data))
    if isinstance(loss, Loss):
        example = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), split.train_x)
        y = network_output(net, example)
        for name in ("train", "test", "validation"):
            x, labels = split.part(name)
            if isinstance(labels, np.ndarray) and isinstance(y, jax.ShapeDtypeStruct):
                _check_labels(loss, (number_of_examples(x), *y.shape[1:]), labels, f"{name} data")
    return split


def network_output(net: Layer, x: PyTree) -> PyTree:
    """The shapes and types of a network's output for a batch of these shapes and types; nothing is computed."""
    leaves, structure = jax.tree.flatten(x)
    return _network_output(net, structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))


APPLIED_BY_LOSS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
"""The function that a loss of logits applies itself."""


def warn_of_probabilities(net: Layer, loss: LossFunction) -> None:
    """Warns of a network whose last layer computes what the loss computes again. ``fit`` calls this function."""
    last = _last(net).name
    if isinstance(loss, Loss) and APPLIED_BY_LOSS.get(loss.name) == last:
        text = f"{loss.name} takes logits, and the network ends in a {last}. Leave the {last} out."
        # The line that is shown is the one that calls fit: above this function, and fit.
        warnings.warn(text, UserWarning, stacklevel=3)


def _check_labels(loss: Loss, shape: Shape, labels: np.ndarray, place: str) -> None:
    """Raises an InputError for labels that the loss does not take, if the network has outputs of this shape."""
    try:
        with inside(place):
            # The check needs an array of outputs, but only their shape is known. A broadcast 0 takes no memory.
            loss.check(np.broadcast_to(np.float32(0), shape), labels)
    except InputError as error:
        # A loss of log-probabilities refuses an output of 0. This says nothing about the real outputs.
        if error.argument != "y":
            raise


def _flattened_where_needed(net: Layer, split: Split) -> Split:
    """Images as vectors, if the network takes only these. Images are arrays of bytes with at least two axes each.

    A network takes images as they are if its output for one image fits the labels: one number per class for integer
    labels, else the shape of a label. If it does not, but does so for a flat image, the images are flattened.
    """
    x, labels = split.train_x, split.train_labels
    if not isinstance(x, np.ndarray) or not isinstance(labels, np.ndarray):
        return split
    if x.dtype != np.uint8 or x.ndim < 3:
        return split

    def fits(in_shape: Shape) -> bool:
        try:
            out_shape = shape_of(network_output(net, jax.ShapeDtypeStruct((1, *in_shape), x.dtype)))
        except (InputError, TypeError, ValueError):
            return False
        if np.issubdtype(labels.dtype, np.integer):
            return len(out_shape) == labels.ndim
        return out_shape == labels.shape[1:]

    shape = x.shape[1:]
    if fits(shape) or not fits((math.prod(shape),)):
        return split

    def flat(examples: np.ndarray | None) -> np.ndarray | None:
        return None if examples is None else examples.reshape(len(examples), -1)

    return split._replace(train_x=flat(x), test_x=flat(split.test_x), validation_x=flat(split.validation_x))


@cached_if_hashable(maxsize=32)
def _network_output(net: Layer, structure: Hashable, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> PyTree:
    # Bytes enter the network as floating-point numbers.
    types = [jax.ShapeDtypeStruct(leaf.shape, "float32") if leaf.dtype == np.uint8 else leaf for leaf in leaves]
    x = jax.tree.unflatten(structure, types)

    def output(key, x):
        params, state = checked_init(net, key, shape_of(x))
        return net.apply(params, state, x, train=False)[0]

    return jax.eval_shape(output, jax.random.key(0), x)


def _last(layer: Layer) -> Layer:
    """The last layer of a chain, or of a chain at its end. The last layer of another combinator is not its output."""
    is_chain = bool(layer.layers) and layer.name == "chain"
    return _last(layer.layers[-1][1]) if is_chain else layer
