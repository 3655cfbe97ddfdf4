"""The copy of a batch of a stream to the device."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.data.stream_reader import Batch
from functional_nn.training.programs.devices import put_everywhere


def put_batch(batch: Batch, like: tuple[Value, PyTree], everywhere: NamedSharding | None) -> tuple[Value, PyTree]:
    """The examples and labels of a batch on the device, in the shapes that the programs take.

    Args:
        batch: the arrays in memory.
        like: examples and labels of these shapes, in any number. Images may have to be flattened.
        everywhere: the sharding of the devices; None for one device.
    """

    def copied(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
        # On a CPU, JAX may use NumPy's memory itself, and the user's iterable may write the next batch there.
        return array.reshape(len(array), *like.shape[1:]).copy()

    arrays = jax.tree.map(copied, tuple(batch), like)
    return jax.block_until_ready(put_everywhere(arrays, everywhere))
