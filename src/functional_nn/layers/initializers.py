"""Initializers of weights and biases, and their lookup by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core.errors import check
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import LARGEST, check_choice, check_key, is_array, is_function

Initializer: TypeAlias = str | Callable[[jax.Array, Shape], jax.Array]

WEIGHTS = {
    "glorot": jax.nn.initializers.glorot_uniform(),
    "he": jax.nn.initializers.he_normal(),
    "lecun": jax.nn.initializers.lecun_normal(),
    # U(±1/√in) has the variance 1 / (3 in).
    "pytorch": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


def weight_and_bias(initializer: Initializer, key: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Draws a weight ``(in_size, out_size)`` or ``(*window, in_size, out_size)``, and a bias ``(out_size,)``.

    ``"glorot"`` draws from U(±√(6/(in+out))), ``"he"`` from a truncated normal distribution of variance 2/in (for
    ReLU), and ``"lecun"`` from one of variance 1/in (for SELU). Their biases are zero. ``"pytorch"`` is PyTorch's
    default for linear layers and convolutions: weight and bias from U(±1/√in). in and out are the two sizes, times the
    number of elements of the window for convolutions. Any initializer of ``jax.nn.initializers`` works too, with a zero
    bias.
    """
    draw = initializer if is_function(initializer) else WEIGHTS[check_choice("initializer", initializer, WEIGHTS)]
    check_key(key)
    check("in_shape", shape, "positive sizes, for a weight of this shape", 1 <= min(shape) <= max(shape) <= LARGEST)
    if initializer == "pytorch":
        key, key_bias = jax.random.split(key)
        bound = math.prod(shape[:-1]) ** -0.5
        return draw(key, shape), jax.random.uniform(key_bias, shape[-1:], minval=-bound, maxval=bound)
    weight = draw(key, shape)
    fits = is_array(weight) and weight.shape == tuple(shape) and jnp.issubdtype(weight.dtype, jnp.floating)
    expected = f"a function (key, shape) that returns floating-point numbers of shape {shape}"
    check("initializer", weight, expected, fits)
    return jnp.asarray(weight), jnp.zeros(shape[-1:])
