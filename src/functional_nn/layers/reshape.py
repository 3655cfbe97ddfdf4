"""Layers that only rearrange: the gradient is rearranged back."""

from __future__ import annotations

import math

from functional_nn.errors import InputError
from functional_nn.inputs import Shape
from functional_nn.layer import Layer, stateless


def reshape(shape: Shape, *, name: str = "reshape") -> Layer:
    """Gives every example a new shape; one entry may be -1 and takes what is left.

    Math:
        y is x read in the same order (the last axis fastest).

    Shapes:
        x (batch, …), y (batch, *shape) with as many elements

    Gradient:
        Every element of y is one element of x, so x_bar is y_bar read in the same order.

    >>> layer = reshape((2, -1))
    >>> import jax.numpy as jnp
    >>> layer.apply({}, {}, jnp.zeros((5, 6)), train=False)[0].shape
    (5, 2, 3)
    """
    shape = tuple(shape)
    if shape.count(-1) > 1 or any(size < 1 for size in shape if size != -1):
        raise InputError("shape", "positive sizes, at most one of them -1", shape)

    def forward(x):
        size = math.prod(x.shape[1:])
        known = math.prod(entry for entry in shape if entry != -1)
        if size % known or (-1 not in shape and size != known):
            raise InputError("x", f"examples that fill the shape {shape}", f"{size} elements each (shape {x.shape})")
        filled = tuple(size // known if entry == -1 else entry for entry in shape)
        return x.reshape(x.shape[0], *filled), x[:0]

    def backward(no_examples, y_bar):
        return y_bar.reshape(y_bar.shape[0], *no_examples.shape[1:])

    return stateless(name, forward, backward)


def flatten(*, name: str = "flatten") -> Layer:
    """Makes every example a vector: ``reshape((-1,))``.

    >>> import jax.numpy as jnp
    >>> flatten().apply({}, {}, jnp.zeros((5, 28, 28, 1)), train=False)[0].shape
    (5, 784)
    """
    return reshape((-1,), name=name)
