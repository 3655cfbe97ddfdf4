"""Random parameters, states and inputs for the comparison of a layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shape, stand_in
from functional_nn.core.trees import PyTree


def draw_parameters(layer: Layer, in_shape: Shape, random: np.random.Generator) -> tuple[Params, State]:
    """Draws all parameters, including biases, from a normal distribution, and a positive state.

    A layer's own ``init`` starts many parameters at 0 or 1, where errors in a formula do not show.
    """
    params, state = jax.eval_shape(lambda key: layer.init(key, in_shape), jax.random.key(0))

    def normal(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)

    def positive(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(np.abs(random.normal(size=leaf.shape)) + 0.5, leaf.dtype)

    return jax.tree.map(normal, params), jax.tree.map(positive, state)


def draw_input(in_shape: Shape, random: np.random.Generator, batch: int) -> PyTree:
    """Draws an input from a normal distribution: one array, or a tuple of arrays for several shapes."""
    return jax.tree.map(lambda example: random.normal(size=(batch, *example.shape[1:])), stand_in(in_shape))
