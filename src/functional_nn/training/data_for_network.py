"""The data of a run in the form that its network takes, with the checks that a compiled program cannot make."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

import jax
import numpy as np

from functional_nn.core.errors import inside
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import Shape, shape_of
from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.examples import number_of_examples
from functional_nn.data.preparation import as_split, flattened_where_needed
from functional_nn.losses.loss import Loss
from functional_nn.training.step import LossFunction


def data_for_network(net: Layer, loss: LossFunction, data: Dataset | Split) -> Split:
    """The arrays of a data set or a split in the form that the network takes; examples may be flattened.

    Raises:
        InputError: for shapes that do not fit each other, and for labels that the loss does not take.
    """
    split = as_split(data)

    def output_shape(in_shape: Shape) -> Shape:
        example = jax.ShapeDtypeStruct((1, *in_shape), split.train_x.dtype)
        return shape_of(network_output(net, example))

    split = flattened_where_needed(split, output_shape)
    if isinstance(loss, Loss):
        example = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), split.train_x)
        y = network_output(net, example)
        for name in ("train", "test", "validation"):
            x, labels = split.part(name)
            if isinstance(labels, np.ndarray) and isinstance(y, jax.ShapeDtypeStruct):
                with inside(f"{name} data"):
                    # The check needs an array of outputs for all examples, but only its shape. A broadcast 0 takes no
                    # memory.
                    loss.check(np.broadcast_to(np.float32(0), (number_of_examples(x), *y.shape[1:])), labels)
    return split


def network_output(net: Layer, x: PyTree) -> PyTree:
    """The shapes and types of a network's output for a batch of these shapes and types; nothing is computed."""
    leaves, structure = jax.tree.flatten(x)
    return _network_output(net, structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))


@lru_cache(maxsize=32)
def _network_output(net: Layer, structure: Hashable, leaves: tuple[tuple[Shape, str], ...]) -> PyTree:
    # Bytes enter the network as floating-point numbers.
    types = [jax.ShapeDtypeStruct(shape, "float32" if dtype == "uint8" else dtype) for shape, dtype in leaves]
    x = jax.tree.unflatten(structure, types)

    def output(key, x):
        params, state = net.init(key, shape_of(x))
        return net.apply(params, state, x, train=False)[0]

    return jax.eval_shape(output, jax.random.key(0), x)
