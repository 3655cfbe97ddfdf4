"""Outputs of a trained network, batch by batch, and class probabilities of a trained classifier."""

from __future__ import annotations

import jax
import numpy as np
from jax.stages import Wrapped

from functional_nn.core.errors import InputError, check
from functional_nn.core.functions import cached_if_hashable
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import (
    as_array,
    check_arrays,
    check_count,
    check_trees,
    is_array,
    tree_in_native_order,
)
from functional_nn.data.examples import number_of_examples
from functional_nn.training.devices import check_bytes
from functional_nn.training.precision import Precision, as_precision
from functional_nn.training.step import forward


def predict(
    net: Layer,
    params: Params,
    state: State,
    x: Value,
    *,
    precision: str | Precision = "float32",
    batch_size: int = 1000,
) -> PyTree:
    """The network's outputs for each example, as NumPy arrays, computed batch by batch.

    For a classifier, the outputs are logits. ``predict_probabilities`` gives their softmax, and so does the method
    ``predict`` of a saved network (``fnn.exchange.load``), which knows that it is a classifier.

    Args:
        net, params, state: the network with its trained parameters and state.
        x: (examples, …), with examples of the shape that the network was trained on (``Run.in_shape``); ``Masked``, or
            a tuple or dict of arrays. Bytes are divided by 255. Tensors of PyTorch are converted.
        precision: as in training.
        batch_size: the number of examples computed at a time. A smaller one needs less memory.

    >>> import functional_nn as fnn
    >>> params = {"weight": np.ones((3, 1), np.float32), "bias": np.zeros(1, np.float32)}
    >>> print(predict(fnn.dense(1), params, {}, np.ones((2, 3), np.float32)))
    [[3.]
     [3.]]
    """
    return _by_batch(_outputs(as_layer(net), as_precision(precision), False), params, state, x, batch_size)


def predict_probabilities(
    net: Layer,
    params: Params,
    state: State,
    x: Value,
    *,
    precision: str | Precision = "float32",
    batch_size: int = 1000,
) -> np.ndarray:
    """The softmax of the network's outputs for each example, computed batch by batch.

    The arguments are those of ``predict``.

    >>> import functional_nn as fnn
    >>> params = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}
    >>> print(predict_probabilities(fnn.dense(4), params, {}, np.ones((1, 3), np.float32)))
    [[0.25 0.25 0.25 0.25]]
    """
    return _by_batch(_outputs(as_layer(net), as_precision(precision), True), params, state, x, batch_size)


def _by_batch(function: Wrapped, params: Params, state: State, x: Value, batch_size: int) -> PyTree:
    """A compiled function of each batch, with the results of all batches joined."""
    check_trees(params, state)
    check_count("batch_size", batch_size)
    x = jax.tree.map(_as_numpy_if_convertible, x)
    check_arrays("x", x)
    params, state, x = tree_in_native_order((params, state, x))
    examples = number_of_examples(x)
    # Slices beyond the end of a shorter array are not an error, so examples would be left out.
    if any(len(array) != examples for array in jax.tree.leaves(x)):
        shapes = ", ".join(str(array.shape) for array in jax.tree.leaves(x))
        raise InputError("x", "arrays with the same number of examples along axis 0", f"shapes {shapes}")
    check("x", x, "at least one example", examples)

    def of_batch(start: int) -> PyTree:
        batch = jax.tree.map(lambda part: as_array("x", part[start : start + batch_size]), x)
        if start == 0:  # the call below finds the compiled program in JAX's cache
            size = function.lower(params, state, batch).compile().memory_analysis()
            if size is not None:
                check_bytes("x", size.argument_size_in_bytes + size.output_size_in_bytes + size.temp_size_in_bytes)
        return jax.device_get(function(params, state, batch))

    batches = [of_batch(start) for start in range(0, examples, batch_size)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def _as_numpy_if_convertible(x: object) -> object:
    """A tensor of another library as a NumPy array; any other value as it is."""
    return np.asarray(x) if not is_array(x) and hasattr(x, "__array__") else x


# The function is kept, because jax.jit compiles again for a new function object, even with the same network.
@cached_if_hashable(maxsize=8)
def _outputs(net: Layer, precision: Precision, are_probabilities: bool) -> Wrapped:
    @jax.jit
    def outputs(params, state, x):
        y, _ = forward(net, precision, params, state, x, train=False)
        if not are_probabilities:
            return y
        if y.ndim < 2 or y.shape[-1] < 2:
            raise InputError("net", "one output per class, (batch, …, classes)", f"outputs of shape {y.shape}")
        return jax.nn.softmax(y)

    return outputs
