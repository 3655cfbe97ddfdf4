"""Dropout layers: of values, of channels (spatial dropout), and of examples (stochastic depth)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from functional_nn.core.layer import Layer, Shape
from functional_nn.core.validation import check_input, check_key, check_number


def dropout(rate: float | jax.Array, *, name: str = "dropout") -> Layer:
    """In training, sets a random share of the values to zero and scales up the rest; otherwise the identity.

    Math:
        y = m x / (1 - rate), where m is 1 with probability 1 - rate and otherwise 0. So the expectation of y is x.

    Shapes:
        x and y (batch, …)

    Gradient:
        y is linear in x, with the factor m / (1 - rate) for each element:

        x_bar = m y_bar / (1 - rate)

    Args:
        rate: the share to drop, in [0, 1). May be a traced array, as in a sweep over rates.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.dropout(0.5)
    >>> y, _ = layer.apply({}, {}, jnp.ones((1, 1000)), train=True, key=jax.random.key(0))
    >>> sorted(set(y.ravel().tolist())), bool(abs(y.mean() - 1) < 0.1)
    ([0.0, 2.0], True)

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """
    return _dropout_layer(name, rate, lambda shape: shape)


def spatial_dropout(rate: float | jax.Array, *, name: str = "spatial_dropout") -> Layer:
    """In training, sets random channels of each example to zero and scales up the rest; otherwise the identity.

    Channels are the features of sequences or the feature maps of images.

    Math:
        y = m x / (1 - rate), where m is drawn as for ``dropout``, once for each example and channel

    Shapes:
        x and y (batch, …, channels) with at least one axis of positions; m (batch, 1, …, channels)

    Gradient:
        x_bar = m y_bar / (1 - rate)

    Args:
        rate: the share to drop, in [0, 1). May be a traced array.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> y, _ = fnn.spatial_dropout(0.5).apply({}, {}, jnp.ones((1, 9, 50)), train=True, key=jax.random.key(0))
    >>> sorted(set(y.sum(axis=1).ravel().tolist()))
    [0.0, 18.0]

    References:
        Tompson et al. 2015, "Efficient object localization using convolutional networks", section 3.2.
    """

    return _dropout_layer(
        name, rate, lambda shape: (shape[0], *(1 for _ in shape[1:-1]), shape[-1]), "(batch, position, …, channels)"
    )


def stochastic_depth(rate: float | jax.Array, *, name: str = "stochastic_depth") -> Layer:
    """In training, sets random examples to zero and scales up the rest; otherwise the identity.

    As the last layer of the branch that ``residual`` adds to its input, it drops the branch for these examples.

    Math:
        y = m x / (1 - rate), where m is drawn as for ``dropout``, once for each example

    Shapes:
        x and y (batch, …); m (batch, 1, …)

    Gradient:
        x_bar = m y_bar / (1 - rate)

    Args:
        rate: the share of examples to drop, in [0, 1). May be a traced array.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax
    >>> block = fnn.residual(fnn.chain(fnn.dense(3), fnn.stochastic_depth(0.2)))
    >>> block.init(jax.random.key(0), (3,))[0]["chain_0"]["dense_0"]["weight"].shape
    (3, 3)

    References:
        Huang et al. 2016, "Deep networks with stochastic depth", equation 2, scaled in training instead of afterwards.
    """
    return _dropout_layer(name, rate, lambda shape: (shape[0], *(1 for _ in shape[1:])))


def _dropout_layer(
    name: str, rate: float | jax.Array, mask_shape: Callable[[Shape], Shape], axes: str = "(batch, …)"
) -> Layer:
    """A layer y = m x / (1 - rate). ``mask_shape`` gives the shape of m for the shape of x, which has these axes."""
    check_number("rate", rate, "a number in [0, 1), the share to drop", lambda rate: 0 <= rate < 1)

    def forward(params, state, x, *, train, key=None):
        if not train:
            return x, state, None
        check_input(x, axes, remedy="Use dropout for vectors.")
        kept = jax.random.bernoulli(check_key(key), 1.0 - rate, mask_shape(x.shape))
        factor = kept.astype(x.dtype) / jnp.asarray(1.0 - rate, x.dtype)
        return x * factor, state, factor

    def backward(factor, y_bar):
        return {}, y_bar if factor is None else y_bar * factor

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward)
