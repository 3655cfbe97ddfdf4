"""Data augmentation layers: random shifts and deformations of inputs in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import check
from functional_nn.core.layer import Layer
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import check_count, check_input, check_key, check_number


def random_shift(most: int, *, name: str = "random_shift") -> Layer:
    """In training, shifts each example along its spatial axes by a random number of positions; otherwise the identity.

    Math:
        yₙᵢ = xₙ₍ᵢ₊ₛ₎ with s = s(n), drawn for each example and axis from -most, …, most; 0 if i + s lies outside

    Shapes:
        x and y (batch, …, channels) with one spatial axis or more

    Gradient:
        xₙⱼ is used by yₙ₍ⱼ₋ₛ₎ only, or by no element if it is shifted out. So the cotangent is shifted back:

        x_barₙⱼ = y_barₙ₍ⱼ₋ₛ₎, 0 if j - s lies outside

    Args:
        most: the largest shift in positions, from 1 to the size of x.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> y, _ = fnn.random_shift(1).apply({}, {}, x, train=True, key=jax.random.key(2))
    >>> print(y.ravel())
    [2. 3. 0.]

    References:
        Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks applied to visual document
        analysis", section 2.
    """
    most = check_count("most", most)

    def forward(params, state, x, *, train, key=None):
        check_input(x, "(batch, position, …, channels)", remedy="Put it before flatten().")
        if not train:
            return x, state, None
        longest = max(x.shape[1:-1])
        check("most", most, f"at most {longest}, the size of x", most <= longest)
        shift = jax.random.randint(check_key(key), (x.shape[0], x.ndim - 2), -most, most + 1)
        return _shifted(x, shift, most), state, shift

    def backward(shift, y_bar):
        return {}, y_bar if shift is None else _shifted(y_bar, -shift, most)

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward)


def random_deformation(most: float | jax.Array, *, name: str = "random_deformation") -> Layer:
    """In training, stretches and slants each example at random along its spatial axes; otherwise the identity.

    Math:
        One axis after another is transformed. For axis a,

        yₙᵢ = Σⱼ Λ(pₙᵢ - j) xₙⱼ with Λ(u) = max(0, 1 - |u|), pₙᵢ = iₐ + Σ_b Mₙₐ_b (i_b - c_b)

        j runs over the positions of axis a, and the other indices are those of i. yₙᵢ is the value of x at the position
        pₙᵢ, interpolated between the two nearest positions; outside there are zeros. c is the center, and the matrix Mₙ
        (axes, axes) is drawn for each example from -most to most. Its element Mₙₐₐ stretches, and Mₙₐ_b slants. Slants
        along two axes together rotate.

    Shapes:
        x and y (batch, …, channels) with one spatial axis or more

    Gradient:
        M does not depend on x, so the transformation of each axis is linear. The backward pass applies its transpose,
        for the last axis first:

        x_barₙⱼ = Σᵢ Λ(pₙᵢ - j) y_barₙᵢ

    Args:
        most: the largest stretch and slant, between 0 and 1. May be a traced array.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> x = jnp.arange(5.0).reshape(1, 5, 1)
    >>> y, _ = fnn.random_deformation(0.5).apply({}, {}, x, train=True, key=jax.random.key(1))
    >>> x.shape == y.shape and float(y[0, 2, 0]) == 2.0  # the center stays
    True

    References:
        Catmull and Smith 1980, "3-D transformations of images in scanline order"; Simard, Steinkraus, Platt 2003, "Best
        practices for convolutional neural networks applied to visual document analysis", section 2.
    """
    most = check_number("most", most, "a number between 0 and 1", lambda most: 0 < most < 1)

    def forward(params, state, x, *, train, key=None):
        check_input(x, "(batch, position, …, channels)", remedy="Put it before flatten().")
        if not train:
            return x, state, None
        axes = x.ndim - 2
        dtype = wide_type(x.dtype)
        drawn = jax.random.uniform(check_key(key), (x.shape[0], axes, axes), jnp.float32, minval=-1, maxval=1)
        y, matrices = x, drawn.astype(dtype) * jnp.asarray(most, dtype)
        for axis in range(axes):
            y = _multiply_along(axis, _interpolation_weights(matrices[:, axis], y, axis), y)
        return y, state, matrices

    def backward(matrices, y_bar):
        if matrices is None:
            return {}, y_bar
        x_bar = y_bar
        for axis in reversed(range(y_bar.ndim - 2)):
            weights = _interpolation_weights(matrices[:, axis], x_bar, axis)
            x_bar = _multiply_along(axis, jnp.swapaxes(weights, -1, -2), x_bar)
        return {}, x_bar

    return Layer(name, lambda key, in_shape: ({}, {}), forward, backward)


def _interpolation_weights(row: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """Λ(pₙᵢ - j) for one axis, from its row of each matrix. The shape is (batch, *other spatial axes, i, j)."""
    sizes = x.shape[1:-1]
    # i[b] holds the index along axis b of every position, in the shape (1, *sizes).
    i = [lax.broadcasted_iota(row.dtype, sizes, b)[None] for b in range(len(sizes))]
    p = i[axis]
    for b, size in enumerate(sizes):
        center = (size - 1) / 2
        p = p + jnp.expand_dims(row[:, b], range(1, x.ndim - 1)) * (i[b] - center)
    # p (batch, *sizes) becomes (batch, *other spatial axes, i, 1), so that it broadcasts against j.
    p = jnp.moveaxis(p, 1 + axis, -1)[..., None]
    j = lax.broadcasted_iota(row.dtype, (*p.shape[:-1], sizes[axis]), p.ndim - 1)
    return jnp.maximum(0, 1 - jnp.abs(p - j)).astype(x.dtype)


def _multiply_along(axis: int, weights: jax.Array, x: jax.Array) -> jax.Array:
    """The product of the weights with x along one spatial axis."""
    return jnp.moveaxis(weights @ jnp.moveaxis(x, 1 + axis, -2), -2, 1 + axis)


def _shifted(x: jax.Array, shift: jax.Array, most: int) -> jax.Array:
    """yₙᵢ = xₙ₍ᵢ₊ₛ₎, with 0 outside. |s| is at most ``most``."""
    padded = jnp.pad(x, ((0, 0), *(((most, most),) * (x.ndim - 2)), (0, 0)))

    def of_example(padded, shift):
        # With ``most`` positions of padding, every start is between 0 and 2 · most.
        starts = (*(shift + most), jnp.zeros_like(shift[0]))
        return lax.dynamic_slice(padded, starts, x.shape[1:])

    return jax.vmap(of_example)(padded, shift)
