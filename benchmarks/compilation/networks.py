"""The networks whose programs are compiled: with functional_nn, and without a library."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax

import functional_nn as fnn
from benchmarks import w1, w3, w4
from benchmarks.peers import cnn_functional_nn, cnn_jax, jax_scan, lstm_functional_nn, lstm_jax


class Networks(NamedTuple):
    """A network, written twice.

    Args:
        workload: the module with the learning rate and the batch size.
        ours: makes a new layer, so that no earlier program is used again.
        start: `start(key) -> params` of the plain network.
        plain: `plain(params, images) -> logits`, for images (batch, 28, 28, 1) in [0, 1].
    """

    workload: ModuleType
    ours: Callable[[], fnn.Layer]
    start: Callable[[jax.Array], Any]
    plain: Callable[[Any, jax.Array], jax.Array]


NETWORKS = {
    "mlp": Networks(
        w1,
        lambda: fnn.models.mlp(w1.SIZES[-1], hidden=w1.SIZES[1:-1]),
        lambda key: jax_scan.start(key, w1.LEARNING_RATE, w1.SIZES)[0],
        lambda params, images: jax_scan.network(params, images.reshape(len(images), -1)),
    ),
    "cnn": Networks(w3, cnn_functional_nn.formula, cnn_jax.start, cnn_jax.network),
    "lstm": Networks(
        w4,
        lstm_functional_nn.formula,
        lstm_jax.start,
        lambda params, images: lstm_jax.network(params, images.reshape(-1, w4.ROWS, w4.COLUMNS)),
    ),
}
