"""Named models for images (MLP, CNNs, RNNs, transformer), and model lookup by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax

from functional_nn import names
from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.activations.piecewise import relu
from functional_nn.activations.smooth import tanh
from functional_nn.core.errors import check
from functional_nn.core.layer import Layer
from functional_nn.core.validation import check_choice, check_counts, check_flag
from functional_nn.layers.combinators.chain import Member, chain
from functional_nn.layers.combinators.wrappers import repeat
from functional_nn.layers.convolution.conv import conv
from functional_nn.layers.convolution.pooling import global_average_pool, max_pool
from functional_nn.layers.dense import default_initializer, dense
from functional_nn.layers.embedding import sinusoidal_positions
from functional_nn.layers.normalization import batch_norm as batch_norm_layer
from functional_nn.layers.normalization import layer_norm
from functional_nn.layers.recurrent.cells import gru as gru_layer
from functional_nn.layers.recurrent.cells import lstm as lstm_layer
from functional_nn.layers.recurrent.cells import rnn as rnn_layer
from functional_nn.layers.recurrent.unrolling import Returns
from functional_nn.layers.reshape import flatten
from functional_nn.models.blocks import dropped, residual_block, transformer_block


def mlp(
    out_size: int,
    *,
    hidden: Sequence[int] = (128, 64),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
    batch_norm: bool = False,
    initializer: str | None = None,
) -> Layer:
    """A multilayer perceptron: flatten; dense, batch norm, activation, dropout for each hidden size; dense.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the sizes of the hidden layers; empty for softmax regression.
        activation: the activation after each hidden layer.
        dropout: the share of each hidden layer's outputs to drop in training; 0 for none.
        batch_norm: whether each hidden layer is normalized before its activation.
        initializer: see ``dense``. By default He for layers before ReLU, and Glorot for others.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.models.mlp(10), (28, 28, 1)).total.parameters
    109386
    """
    hidden, batch_norm = check_counts("hidden", hidden), check_flag("batch_norm", batch_norm)
    hidden_initializer = default_initializer(activation) if initializer is None else initializer
    last_initializer = "glorot" if initializer is None else initializer
    layers: list[Member] = [flatten()]
    for size in hidden:
        layers.append(dense(size, bias=not batch_norm, initializer=hidden_initializer))
        if batch_norm:
            layers.append(batch_norm_layer())
        layers.append(activation)
        layers.extend(dropped(dropout))
    layers.append(dense(out_size, initializer=last_initializer))
    return chain(*layers, name="mlp")


def cnn(
    out_size: int,
    *,
    hidden: Sequence[int] = (16, 32),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
    batch_norm: bool = False,
) -> Layer:
    """A convolutional network: 3×3 convolution, batch norm, activation, 2×2 max pooling for each size; dense.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the channels of the convolutions. Each pooling halves the image.
        activation: the activation after each convolution.
        dropout: the share of the last features to drop in training; 0 for none.
        batch_norm: whether each convolution is normalized before its activation.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.models.cnn(10), (28, 28, 1)).total.parameters
    20490
    """
    hidden, batch_norm = check_counts("hidden", hidden), check_flag("batch_norm", batch_norm)
    layers: list[Member] = []
    for size in hidden:
        layers.append(conv(size, 3, bias=not batch_norm))
        if batch_norm:
            layers.append(batch_norm_layer())
        layers.extend((activation, max_pool(2)))
    return chain(*layers, flatten(), *dropped(dropout), dense(out_size), name="cnn")


def lenet(
    out_size: int,
    *,
    hidden: Sequence[int] = (16, 32, 128),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
) -> Layer:
    """A fast convolutional network like LeNet-5, with batch norm: two convolutions and two dense layers.

    A 5×5 convolution with stride 2; a 3×3 convolution, 2×2 max pooling; dense; dense. Batch norm and activation follow
    each layer except the last. They come after the pooling, where there are only a quarter of the values.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the channels of the two convolutions and the size of the first dense layer.
        activation: the activation after each batch norm.
        dropout: the share of each dense layer's inputs to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.models.lenet(10), (28, 28, 1)).total.parameters
    109050

    References:
        LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", section II.B;
        Ioffe and Szegedy 2015, "Batch normalization".
    """
    first, second, size = _sizes(
        hidden, "two numbers of channels and a size, such as (16, 32, 128)", lambda sizes: len(sizes) == 3
    )
    images = [
        *_with_norm_and_activation(conv(first, 5, stride=2, padding="valid", bias=False), activation=activation),
        *_with_norm_and_activation(conv(second, 3, padding="valid", bias=False), max_pool(2), activation=activation),
    ]
    return chain(*images, *_two_dense(size, out_size, activation, dropout), name="lenet")


def deep_cnn(
    out_size: int,
    *,
    hidden: Sequence[int] = (32, 64, 128, 128),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
) -> Layer:
    """An accurate convolutional network: four convolutions and two dense layers, with batch norm.

    A 5×5 convolution, 2×2 max pooling; two 3×3 convolutions, 2×2 max pooling; a 3×3 convolution; dense; dense. Batch
    norm and activation follow each layer except the last, and come after the pooling.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the channels of the first, of the next two and of the last convolution, and the size of the first dense
            layer.
        activation: the activation after each batch norm.
        dropout: the share of each dense layer's inputs to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.models.deep_cnn(10), (28, 28, 1)).total.parameters
    721770

    References:
        Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition" (several small
        windows in sequence); Ioffe and Szegedy 2015, "Batch normalization".
    """
    first, second, third, size = _sizes(
        hidden, "three numbers of channels and a size, such as (32, 64, 128, 128)", lambda sizes: len(sizes) == 4
    )
    images = [
        *_with_norm_and_activation(conv(first, 5, padding="valid", bias=False), max_pool(2), activation=activation),
        *_with_norm_and_activation(conv(second, 3, bias=False), activation=activation),
        *_with_norm_and_activation(conv(second, 3, bias=False), max_pool(2), activation=activation),
        *_with_norm_and_activation(conv(third, 3, bias=False), activation=activation),
    ]
    return chain(*images, *_two_dense(size, out_size, activation, dropout), name="deep_cnn")


def resnet(
    out_size: int,
    *,
    hidden: Sequence[int] = (16, 32, 64),
    activation: Activation | VectorActivation = relu,
    dropout: float | jax.Array = 0.0,
) -> Layer:
    """A small residual network: a 3×3 convolution, a ``residual_block`` for each size, global average, dense.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the channels of the blocks. Each block except the first halves the image.
        activation: the activation after each convolution with batch norm.
        dropout: the share of the last features to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.models.resnet(10), (28, 28, 1)).total.parameters
    77754

    References:
        He et al. 2016, "Deep residual learning for image recognition".
    """
    hidden = _sizes(hidden, "at least one size", bool)
    blocks = [residual_block(size, stride=1 if i == 0 else 2, activation=activation) for i, size in enumerate(hidden)]
    stem = conv(hidden[0], 3, bias=False), batch_norm_layer(), activation
    return chain(*stem, *blocks, global_average_pool(), *dropped(dropout), dense(out_size), name="resnet")


def rnn(
    out_size: int,
    *,
    hidden: Sequence[int] = (128,),
    activation: Activation = tanh,
    dropout: float | jax.Array = 0.0,
) -> Layer:
    """A recurrent network over the rows of an image: an ``rnn`` layer for each size, dense on the last state.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the sizes of the stacked layers.
        activation: the activation of the recurrent layers.
        dropout: the share of each layer's outputs to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.model("rnn", 10), (28, 28, 1)).total.parameters
    21386
    """

    def layer(size: int, returns: Returns) -> Layer:
        return rnn_layer(size, activation=activation, returns=returns)

    return _over_rows("rnn", out_size, hidden, dropout, layer)


def lstm(out_size: int, *, hidden: Sequence[int] = (128,), dropout: float | jax.Array = 0.0) -> Layer:
    """Long short-term memory over the rows of an image: an ``lstm`` layer for each size, dense on the last state.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the sizes of the stacked layers.
        dropout: the share of each layer's outputs to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.model("lstm", 10), (28, 28, 1)).total.parameters
    81674
    """
    return _over_rows("lstm", out_size, hidden, dropout, lambda size, returns: lstm_layer(size, returns=returns))


def gru(out_size: int, *, hidden: Sequence[int] = (128,), dropout: float | jax.Array = 0.0) -> Layer:
    """Gated recurrent units over the rows of an image: a ``gru`` layer for each size, dense on the last state.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the sizes of the stacked layers.
        dropout: the share of each layer's outputs to drop in training; 0 for none.

    >>> import functional_nn as fnn
    >>> fnn.summary(fnn.model("gru", 10), (28, 28, 1)).total.parameters
    61706
    """
    return _over_rows("gru", out_size, hidden, dropout, lambda size, returns: gru_layer(size, returns=returns))


def transformer(
    out_size: int, *, hidden: Sequence[int] = (32, 32), heads: int = 4, dropout: float | jax.Array = 0.0
) -> Layer:
    """A transformer whose tokens are the rows of an image: dense, positions, blocks, norm, average over rows, dense.

    Args:
        out_size: the number of outputs, one per class.
        hidden: the features of each block, all of one size.
        heads: the number of heads of each block's attention.
        dropout: the share of the outputs to drop in each block in training; 0 for none.

    >>> import functional_nn as fnn, jax
    >>> params, _ = jax.eval_shape(lambda key: fnn.models.transformer(10).init(key, (28, 28, 1)), jax.random.key(0))
    >>> params["repeat_0"]["transformer_block_0"]["mlp"]["dense_0"]["weight"].shape
    (2, 32, 128)

    References:
        Dosovitskiy et al. 2021, "An image is worth 16×16 words" (patches as tokens).
    """
    hidden = _sizes(hidden, "equal sizes, one for each block, such as (32, 32)", lambda sizes: len(set(sizes)) == 1)
    blocks = repeat(transformer_block(heads, dropout=dropout), len(hidden))
    tokens = flatten(keep=1), dense(hidden[0]), sinusoidal_positions()
    return chain(*tokens, blocks, layer_norm(), global_average_pool(), dense(out_size), name="transformer")


MODELS: Mapping[str, Callable[..., Layer]] = names.MODELS
"""Every named model by its name, as flags and configurations use it."""


def model(name: str, out_size: int, **options: object) -> Layer:
    """Makes the model of that name with these options.

    >>> import functional_nn as fnn
    >>> fnn.model("mlp", 10, hidden=(32,)).name
    'mlp'
    """
    return MODELS[check_choice("model", name, MODELS)](out_size, **options)


def _over_rows(
    name: str,
    out_size: int,
    hidden: Sequence[int],
    dropout: float | jax.Array,
    layer: Callable[[int, Returns], Layer],
) -> Layer:
    """Stacked recurrent layers over the rows of an image, then dense on the last state."""
    hidden = _sizes(hidden, "at least one size", bool)
    layers: list[Member] = [flatten(keep=1)]
    for i, size in enumerate(hidden, start=1):
        # The next recurrent layer needs all states, and the dense layer needs only the last one.
        layers.append(layer(size, "last" if i == len(hidden) else "sequence"))
        layers.extend(dropped(dropout))
    return chain(*layers, dense(out_size), name=name)


def _sizes(hidden: Sequence[int], expected: str, holds: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Requires hidden sizes for which a condition holds."""
    sizes = check_counts("hidden", hidden)
    check("hidden", sizes, expected, holds(sizes))
    return sizes


def _with_norm_and_activation(*layers: Layer, activation: Activation | VectorActivation) -> list[Member]:
    return [*layers, batch_norm_layer(), activation]


def _two_dense(
    size: int, out_size: int, activation: Activation | VectorActivation, dropout: float | jax.Array
) -> list[Member]:
    """Flatten, a dense layer with batch norm and activation, and a dense layer for the outputs."""
    first = dense(size, bias=False, initializer=default_initializer(activation))
    drops = dropped(dropout)
    return [flatten(), *drops, *_with_norm_and_activation(first, activation=activation), *drops, dense(out_size)]
