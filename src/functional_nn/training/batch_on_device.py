"""The copy of a batch of a stream to the device."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.data.stream import Batch


def put_batch(batch: Batch, like: tuple[Value, PyTree], sharding: NamedSharding | None) -> tuple[Value, PyTree]:
    """The examples and labels of a batch on the device, in the shapes that the programs take.

    Args:
        batch: the arrays in memory.
        like: examples and labels of these shapes, in any number. Images may have to be flattened.
        sharding: where the arrays go; None for one device. If it divides a batch among several processes, the arrays
            are the share of this one.
    """

    def copied(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
        # On a CPU, JAX may use NumPy's memory itself, and the user's iterable may write the next batch there.
        return array.reshape(len(array), *like.shape[1:]).copy()

    arrays = jax.tree.map(copied, tuple(batch), like)
    if sharding is None or sharding.is_fully_addressable:
        return jax.block_until_ready(jax.device_put(arrays, sharding))
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), arrays)
