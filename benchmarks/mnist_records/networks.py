"""The networks of the records: small convolutional networks without batch norm, and counts of all they store."""

import jax

import functional_nn as fnn

IN_SHAPE = (28, 28, 1)
CLASSES = 10


def two_convolutions(first: int, second: int, *, shift: int = 0) -> fnn.Layer:
    """A 5×5 convolution with stride 2, a 3×3 convolution, 2×2 max pooling after each, and a dense layer.

    Args:
        first, second: the channels of the convolutions.
        shift: the largest random shift of a training image, in pixels; 0 for none.

    >>> stored_numbers(two_convolutions(12, 16))
    2706
    """
    layers = [
        fnn.conv(first, 5, stride=2, padding="valid"),
        fnn.max_pool(2),
        fnn.gelu_tanh,
        fnn.conv(second, 3, padding="valid"),
        fnn.gelu_tanh,
        fnn.max_pool(2),
        fnn.flatten(),
        fnn.dense(CLASSES),
    ]
    return fnn.chain(*_augmentation(shift), *layers)


def separable(first: int, width: int, blocks: int, *, window: int = 5, shift: int = 0) -> fnn.Layer:
    """A convolution with stride 2, separable convolutions, a weighted sum over the places, and a dense layer.

    A separable convolution is a 3×3 convolution of each channel by itself and then a 1×1 convolution. The first one, on
    14×14 places, changes the number of channels. Then follow residual blocks on 7×7 places.

    Args:
        first: the channels of the first convolution.
        width: the channels of all others.
        blocks: how many residual blocks.
        window: the window of the first convolution.
        shift: the largest random shift of a training image, in pixels; 0 for none.

    >>> stored_numbers(separable(6, 8, 1))
    572
    """
    layers = [
        fnn.conv(first, window, stride=2),
        fnn.gelu_tanh,
        *_separable_convolution(first, width),
        fnn.max_pool(2),
        fnn.gelu_tanh,
        *(fnn.residual(fnn.chain(*_separable_convolution(width, width), fnn.gelu_tanh)) for _ in range(blocks)),
        fnn.max_pool(2),
        # On 3×3 places this convolution has one window: it weighs the places of each channel.
        fnn.conv(width, 3, padding="valid", groups=width, bias=False),
        fnn.flatten(),
        fnn.dense(CLASSES),
    ]
    return fnn.chain(*_augmentation(shift), *layers)


def _separable_convolution(channels: int, out_channels: int) -> list[fnn.Layer]:
    return [fnn.conv(channels, 3, groups=channels, bias=False), fnn.conv(out_channels, 1)]


def _augmentation(shift: int) -> list[fnn.Layer]:
    return [fnn.random_shift(shift)] if shift else []


def stored_numbers(net: fnn.Layer) -> int:
    """The numbers that a network stores: parameters, and a state such as the running statistics of batch norm."""
    params, state = net.init(jax.random.key(0), IN_SHAPE)
    return fnn.trees.size(params) + fnn.trees.size(state)
