"""Named models: compositions of layers, nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from functional_nn.activation_types import Activation, VectorActivation
from functional_nn.activations import relu
from functional_nn.errors import InputError, suggest
from functional_nn.layer import Layer
from functional_nn.layers.combinators import chain
from functional_nn.layers.dense import default_initializer, dense
from functional_nn.layers.dropout import dropout as dropout_layer
from functional_nn.layers.norm import batch_norm as batch_norm_layer
from functional_nn.layers.reshape import flatten


def mlp(
    out_size: int,
    *,
    hidden: Sequence[int] = (128, 64),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
    batch_norm: bool = False,
    initializer: str | None = None,
) -> Layer:
    """A feed-forward network: flatten; dense, batch norm, activation, dropout for each hidden size; dense.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the sizes of the hidden layers; empty for softmax regression.
        activation: between the layers.
        dropout: the share of each hidden layer's outputs to drop in training; 0 for none.
        batch_norm: whether each hidden layer is normalised before its activation.
        initializer: see ``dense``; by default He before ReLU, Glorot else.

    >>> from functional_nn import trees
    >>> params, _ = mlp(10).init(jax.random.key(0), (28, 28, 1))
    >>> trees.size(params)
    109386
    """
    layers: list = [flatten()]
    for size in hidden:
        layers.append(dense(size, bias=not batch_norm, initializer=initializer or default_initializer(activation)))
        if batch_norm:
            layers.append(batch_norm_layer())
        layers.append(activation)
        if isinstance(dropout, jax.Array) or dropout:
            layers.append(dropout_layer(dropout))
    layers.append(dense(out_size, initializer=initializer or "glorot"))
    return chain(*layers, name="mlp")


MODELS: dict[str, Callable[..., Layer]] = {"mlp": mlp}
"""Every named model, as flags and configurations name it."""


def model(name: str, out_size: int, **options) -> Layer:
    """The model of that name with its options.

    >>> model("mlp", 10, hidden=(32,)).name
    'mlp'
    """
    if name not in MODELS:
        raise InputError("model", "a known name", repr(name), suggest(name, MODELS))
    return MODELS[name](out_size, **options)
