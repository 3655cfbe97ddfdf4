"""Layers that change the shape of examples: reshape and flatten."""

from __future__ import annotations

import math

from functional_nn.core.errors import check
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.shapes import Shape, is_shape
from functional_nn.core.validation import check_count, check_one_array


def reshape(shape: Shape, *, name: str = "reshape") -> Layer:
    """Gives every example a new shape. One entry may be -1; its size is computed from the others.

    Math:
        y is x read in the same order (the last axis fastest).

    Shapes:
        x (batch, …), y (batch, *shape) with the same number of elements

    Gradient:
        Every element of y is one element of x, so x_bar is y_bar read in the same order.

    >>> import functional_nn as fnn
    >>> layer = fnn.reshape((2, -1))
    >>> import jax.numpy as jnp
    >>> layer.apply({}, {}, jnp.zeros((5, 6)), train=False)[0].shape
    (5, 2, 3)
    """
    is_known = is_shape(shape) and shape.count(-1) <= 1 and all(size > 0 for size in shape if size != -1)
    check("shape", shape, "a tuple of positive sizes, at most one of them -1", is_known)
    shape = tuple(map(int, shape))

    def forward(x):
        check_one_array(x)
        size = math.prod(x.shape[1:])
        known = math.prod(entry for entry in shape if entry != -1)
        fills = size % known == 0 and (-1 in shape or size == known)
        check("x", x, f"examples that fill the shape {shape}", fills, f"Each has {size} elements.")
        filled = tuple(size // known if entry == -1 else entry for entry in shape)
        # The residual is an empty array: the backward pass needs only the shape of an example.
        return x.reshape(x.shape[0], *filled), x[:0]

    def backward(no_examples, y_bar):
        return y_bar.reshape(y_bar.shape[0], *no_examples.shape[1:])

    return stateless(name, forward, backward)


def flatten(*, keep: int = 0, name: str = "flatten") -> Layer:
    """Combines all axes of an example into one, except the first ``keep``.

    Math:
        y is x read in the same order (the last axis fastest).

    Shapes:
        x (batch, *kept, …), y (batch, *kept, size)

    Gradient:
        As in ``reshape``: x_bar is y_bar read in the same order.

    Args:
        keep: how many of an example's axes are kept. With 1, the rows of an image become a sequence.
        name: used in parameter trees and in error messages.

    >>> import jax.numpy as jnp, functional_nn as fnn
    >>> x = jnp.zeros((5, 28, 28, 1))
    >>> [fnn.flatten(keep=keep).apply({}, {}, x, train=False)[0].shape for keep in (0, 1)]
    [(5, 784), (5, 28, 28)]
    """
    keep = check_count("keep", keep, least=0)

    def forward(x):
        check_one_array(x)
        check("x", x, f"more than {keep} axes after the batch axis", x.ndim >= keep + 1 + (keep > 0))
        return x.reshape(*x.shape[: keep + 1], math.prod(x.shape[keep + 1 :])), x[:0]

    def backward(no_examples, y_bar):
        return y_bar.reshape(y_bar.shape[0], *no_examples.shape[1:])

    return stateless(name, forward, backward)
