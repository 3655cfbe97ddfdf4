"""The loop over the steps of a layer: ``jax.lax.scan``, without what a CPU does slowly in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.products import platform
from functional_nn.core.trees import PyTree


def scan(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    start: PyTree,
    inputs: PyTree,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:
    """``jax.lax.scan``. On a CPU, outputs in bfloat16 are collected as float32, and converted after the last step.

    XLA on a CPU writes into an array of bfloat16 by way of float32. So in each step it would convert the outputs of all
    steps, and n steps would take n² conversions. The numbers are the same, as float32 has each number of bfloat16.
    """
    if platform() != "cpu":
        return lax.scan(step, start, inputs, length, reverse)

    def with_wide_outputs(before: PyTree, entry: PyTree) -> tuple[PyTree, PyTree]:
        after, outputs = step(before, entry)
        return after, jax.tree.map(_widened, outputs)

    last, outputs = lax.scan(with_wide_outputs, start, inputs, length, reverse)
    return last, jax.tree.map(_narrowed, outputs, is_leaf=lambda output: isinstance(output, _Widened))


class _Widened(NamedTuple):
    """An array that was bfloat16, as float32."""

    values: jax.Array


def _widened(output: jax.Array) -> jax.Array | _Widened:
    return _Widened(output.astype(jnp.float32)) if getattr(output, "dtype", None) == jnp.bfloat16 else output


def _narrowed(output: jax.Array | _Widened) -> jax.Array:
    return output.values.astype(jnp.bfloat16) if isinstance(output, _Widened) else output
