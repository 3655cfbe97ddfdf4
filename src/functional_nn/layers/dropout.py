"""Regularisation by noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.errors import InputError
from functional_nn.layer import Layer, check_floating, check_key, is_concrete


def dropout(rate: float | jax.Array, *, name: str = "dropout") -> Layer:
    """Sets a random share of the values to zero in training and scales the rest up; the identity in evaluation.

    Math:
        y = m x / (1 - rate) with m = 1 with probability 1 - rate, else 0; so the mean of y is x

    Shapes:
        x and y (batch, …)

    Gradient:
        y is linear in x, with the factor m / (1 - rate) for each element:

        x_bar = m y_bar / (1 - rate)

    Args:
        rate: the share to drop, in [0, 1). May be a traced array, as in a sweep over rates.
        name: used in parameter trees and in error messages.

    >>> layer = dropout(0.5)
    >>> y, _ = layer.apply({}, {}, jnp.ones((1, 1000)), train=True, key=jax.random.key(0))
    >>> sorted(set(y.ravel().tolist())), bool(abs(y.mean() - 1) < 0.1)
    ([0.0, 2.0], True)

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """
    if is_concrete(rate) and not 0 <= rate < 1:
        raise InputError("rate", "a number in [0, 1), the share to drop", rate)

    def forward(params, state, x, *, train, key=None):
        if not train:
            return x, state, None
        check_floating(x)
        kept = jax.random.bernoulli(check_key(key), 1.0 - rate, x.shape)
        factor = kept.astype(x.dtype) / jnp.asarray(1.0 - rate, x.dtype)
        return x * factor, state, factor

    def backward(factor, y_bar):
        return {}, y_bar if factor is None else y_bar * factor

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward)
