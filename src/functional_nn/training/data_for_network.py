"""The data of a run in the form that its network takes, with the checks that a compiled program cannot make."""

from __future__ import annotations

from functools import lru_cache

import jax
import numpy as np

from functional_nn.core.errors import inside
from functional_nn.core.layer import Layer
from functional_nn.core.output_shape import output_shape
from functional_nn.core.shapes import Shape
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.preparation import as_split, flattened_where_needed
from functional_nn.losses.loss import Loss
from functional_nn.training.step import LossFunction


def data_for_network(net: Layer, loss: LossFunction, data: Dataset | Split) -> Split:
    """The arrays of a data set or a split in the form that the network takes; a data set's images may be flattened.

    Raises:
        InputError: for shapes that do not fit each other, and for labels that the loss does not take.
    """
    split = as_split(data)
    if isinstance(data, Dataset):
        split = flattened_where_needed(split, lambda in_shape: _network_output_shape(net, in_shape))
    if isinstance(loss, Loss):
        out_shape = _network_output_shape(net, split.train_x.shape[1:])
        for part, labels in (("train data", split.train_labels), ("test data", split.test_labels)):
            with inside(part):
                loss.check(np.broadcast_to(np.float32(0), (len(labels), *out_shape)), labels)
    return split


@lru_cache(maxsize=32)
def _network_output_shape(net: Layer, in_shape: Shape) -> Shape:
    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    return output_shape(net, params, state, in_shape)
