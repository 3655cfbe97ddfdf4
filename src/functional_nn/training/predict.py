"""A trained classifier's answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.layer import Layer, Params, State
from functional_nn.training.precision import PRECISIONS
from functional_nn.training.step import forward


def predict_probabilities(
    net: Layer, params: Params, state: State, x: np.ndarray, *, batch_size: int = 1000
) -> np.ndarray:
    """The softmax of the network's outputs for each example, computed batch by batch.

    Args:
        net, params, state: the network and what training made of it.
        x: (examples, …); images as bytes become x / 255, as in training.
        batch_size: examples at a time, which bounds the memory.

    >>> import functional_nn as fnn
    >>> params = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}
    >>> print(predict_probabilities(fnn.dense(4), params, {}, np.ones((1, 3), np.float32)))
    [[0.25 0.25 0.25 0.25]]
    """

    @jax.jit
    def probabilities(params, state, x):
        return jax.nn.softmax(forward(net, PRECISIONS["float32"], params, state, x, train=False)[0])

    batches = [probabilities(params, state, jnp.asarray(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
    return np.concatenate([np.asarray(batch) for batch in batches])
