"""Augmentation: inputs changed at random in training, in ways that keep their labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.checks import check_count
from functional_nn.errors import InputError
from functional_nn.layer import Layer, check_floating, check_key


def random_shift(most: int, *, name: str = "random_shift") -> Layer:
    """Shifts each example along its spatial axes by a random number of places in training; the identity in evaluation.

    Math:
        yₙᵢ = xₙ₍ᵢ₊ₛ₎ with s = s(n), drawn for each example and axis from -most, …, most; 0 where i + s lies outside

    Shapes:
        x and y (batch, …, channels) with one spatial axis or more

    Gradient:
        xₙⱼ is yₙ₍ⱼ₋ₛ₎ and no other element, or has been shifted out. So the cotangent is shifted back:

        x_barₙⱼ = y_barₙ₍ⱼ₋ₛ₎, 0 where j - s lies outside

    Args:
        most: the largest shift in places, 1 or more.
        name: used in parameter trees and in error messages.

    >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> y, _ = random_shift(1).apply({}, {}, x, train=True, key=jax.random.key(2))
    >>> print(y.ravel())
    [2. 3. 0.]

    References:
        Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks applied to visual document
        analysis", section 2.
    """
    most = check_count("most", most)

    def forward(params, state, x, *, train, key=None):
        check_floating(x)
        if x.ndim < 3:
            raise InputError("x", "(batch, …, channels) with a spatial axis", f"shape {x.shape}", "Put it first.")
        if not train:
            return x, state, None
        shift = jax.random.randint(check_key(key), (x.shape[0], x.ndim - 2), -most, most + 1)
        return _shifted(x, shift, most), state, shift

    def backward(shift, y_bar):
        return {}, y_bar if shift is None else _shifted(y_bar, -shift, most)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward)


def _shifted(x: jax.Array, shift: jax.Array, most: int) -> jax.Array:
    """yₙᵢ = xₙ₍ᵢ₊ₛ₎, 0 outside; |s| is at most ``most``."""
    padded = jnp.pad(x, ((0, 0), *(((most, most),) * (x.ndim - 2)), (0, 0)))

    def of_example(padded, shift):
        starts = (*(shift + most), jnp.zeros_like(shift[0]))
        return lax.dynamic_slice(padded, starts, x.shape[1:])

    return jax.vmap(of_example)(padded, shift)
