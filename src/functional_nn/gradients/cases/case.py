"""Cases: layers and losses with an input to compare them at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import functional_nn as fnn
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.problem import draw_input, draw_parameters

BATCH = 7


class LayerCase(NamedTuple):
    """A layer with an input to try it on.

    Args:
        name: the name in tests and reports. It is, or begins with, the name of a public function.
        layer: the layer.
        in_shape: the argument of ``init``.
        draws: whether it draws random numbers in training.
        make_x: ``make_x(random, batch) -> x``, for an input other than one array of normal numbers: integers, a
            ``Masked`` sequence, or several arrays.
        no_jvp: the reason why there is no forward mode to compare with, if there is none.
        no_bfloat16: the reason why it cannot be compared in bfloat16, if it cannot.
    """

    name: str
    layer: fnn.Layer
    in_shape: PyTree
    draws: bool = False
    make_x: Callable[[np.random.Generator, int], PyTree] | None = None
    no_jvp: str = ""
    no_bfloat16: str = ""


class LossCase(NamedTuple):
    """A loss with an output and labels to try it on."""

    name: str
    loss: fnn.Loss
    y: np.ndarray
    labels: np.ndarray


def draw_inputs(case: LayerCase, seed: int = 0) -> tuple[Params, State, PyTree]:
    """Draws parameters and a state at random everywhere, so that no bias is 0, and an input."""
    random = np.random.default_rng(seed)
    params, state = draw_parameters(case.layer, case.in_shape, random)
    x = case.make_x(random, BATCH) if case.make_x else draw_input(case.in_shape, random, BATCH)
    return params, state, jax.tree.map(as_input, x)


def as_input(array: ArrayLike) -> jax.Array:
    """Converts floating-point numbers to JAX's default type. Other numbers keep their type."""
    array = np.asarray(array)
    return jnp.asarray(array, float if np.issubdtype(array.dtype, np.floating) else None)


def masked(in_shape: tuple[int, ...]) -> Callable[[np.random.Generator, int], fnn.Masked]:
    """Makes sequences (time, …) of normal numbers with different lengths; the first is full, the next has one step."""

    def make(random: np.random.Generator, batch: int) -> fnn.Masked:
        lengths = random.integers(1, in_shape[0] + 1, batch)
        lengths[:2] = in_shape[0], 1
        return fnn.Masked(random.normal(size=(batch, *in_shape)), np.arange(in_shape[0]) < lengths[:, None])

    return make


def ties(in_shape: tuple[int, ...]) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Makes inputs of the numbers 0, 1 and 2, so that several elements of a window are often the largest."""
    return lambda random, batch: random.integers(0, 3, (batch, *in_shape)).astype(float)
