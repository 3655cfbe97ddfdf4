"""What a case is, and how one is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn

BATCH = 7


class LayerCase(NamedTuple):
    """A layer with an input to try it on.

    Args:
        name: what tests and reports call it: that of a public function, or one that begins with it.
        layer: the layer.
        in_shape: what ``init`` takes.
        draws: whether it draws random numbers in training.
        make_x: ``make_x(random, batch) -> x`` where x is not one array of normal numbers: integers, a ``Masked``
            sequence, or several arrays.
        no_jvp: why there is no forward mode to compare with.
        no_bfloat16: why it cannot be compared in bfloat16.
    """

    name: str
    layer: fnn.Layer
    in_shape: Any
    draws: bool = False
    make_x: Callable[[np.random.Generator, int], Any] | None = None
    no_jvp: str = ""
    no_bfloat16: str = ""


class LossCase(NamedTuple):
    name: str
    loss: fnn.Loss
    y: np.ndarray
    labels: np.ndarray


def started(case: LayerCase, seed: int = 0) -> tuple[Any, Any, Any]:
    """Parameters and state drawn at random everywhere (no zero biases to hide behind), and an input."""
    shapes = jax.eval_shape(lambda key: case.layer.init(key, case.in_shape), jax.random.key(seed))
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), shapes[0])
    state = jax.tree.map(lambda leaf: jnp.asarray(np.abs(random.normal(size=leaf.shape)) + 0.5, leaf.dtype), shapes[1])
    x = random.normal(size=(BATCH, *case.in_shape)) if case.make_x is None else case.make_x(random, BATCH)
    return params, state, jax.tree.map(as_input, x)


def as_input(array: Any) -> jax.Array:
    """Floating-point numbers in the type that JAX computes in by default; others as they are."""
    array = np.asarray(array)
    return jnp.asarray(array, float if np.issubdtype(array.dtype, np.floating) else None)


def masked(in_shape: tuple[int, ...]) -> Callable[[np.random.Generator, int], fnn.Masked]:
    """Makes normal numbers of (time, …) with different lengths, one of them full, one of a single step."""

    def make(random: np.random.Generator, batch: int) -> fnn.Masked:
        lengths = random.integers(1, in_shape[0] + 1, batch)
        lengths[:2] = in_shape[0], 1
        return fnn.Masked(random.normal(size=(batch, *in_shape)), np.arange(in_shape[0]) < lengths[:, None])

    return make


def ties(in_shape: tuple[int, ...]) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Makes the numbers 0, 1 and 2, so that the largest of some is often there twice and more often."""
    return lambda random, batch: random.integers(0, 3, (batch, *in_shape)).astype(float)


def of(cases: Any) -> dict[str, Any]:
    """The arguments of ``pytest.mark.parametrize``, with readable names."""
    return {"argvalues": cases, "ids": [case[0] for case in cases]}
