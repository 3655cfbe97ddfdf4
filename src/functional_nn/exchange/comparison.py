"""Random inputs of networks, and the comparison of outputs with those of another program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.walk import all_equations, array_type

TOLERANCES = {8: (1e-9, 1e-12), 4: (1e-4, 2e-6), 2: (0.05, 0.02)}
"""How far outputs may differ, by the bytes of a number.

The tolerance is a share of the outputs' variation over the examples, plus a share of the largest output. If layers are
paired wrongly, the outputs differ by about as much as they vary.
"""


def random_batch(x: PyTree, program: ClosedJaxpr, size: int) -> PyTree:
    """A batch of normally distributed numbers, tokens, and masks of sequences of different lengths.

    Args:
        x: the shapes and types of the arrays that a network takes.
        program: the traced program of the network.
        size: the number of examples.
    """
    rng = np.random.default_rng(size)
    # A token is a row of a table, and there is no way to tell which one. So all tokens are rows of the smallest one.
    tables = [array_type(one.invars[0]).shape for one in all_equations(program) if one.primitive.name == "gather"]
    tokens = min((shape[0] for shape in tables if shape and isinstance(shape[0], int)), default=2)

    def draw(like: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = (size, *like.shape[1:])
        if like.dtype == bool:
            return np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
        if jnp.issubdtype(like.dtype, jnp.integer):
            return rng.integers(0, tokens, shape).astype(like.dtype)
        return rng.normal(size=shape).astype(like.dtype)

    return jax.tree.map(draw, x)


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """How outputs of one shape differ by more than rounding, as a part of a sentence; empty if they do not."""
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return "" if np.array_equal(found, expected) else f"other values of type {found.dtype}"
    of_spread, of_size = TOLERANCES[found.dtype.itemsize]
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    # Infinite outputs, such as those of masks, have to be equal. They do not count for the tolerance.
    is_finite = np.isfinite(expected) & np.isfinite(found)
    finite = np.where(is_finite, expected, 0)
    spread, size = np.abs(finite - finite.mean(axis=0)).max(), np.abs(finite).max()
    largest = np.abs(finite - np.where(is_finite, found, 0)).max()
    is_same = is_finite | (found == expected) | (np.isnan(found) & np.isnan(expected))
    if largest <= of_spread * spread + of_size * size and is_same.all():
        return ""
    return f"outputs that differ by {largest:.2g}, where the largest is {size:.2g}"
