"""Projections of sequences to heads and back, for multi-head attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.shapes import Shape
from functional_nn.core.summed_product import summed_product
from functional_nn.layers.initializers import Initializer, weight_and_bias

PROJECTIONS = ("query", "key", "value", "output")


def projection_entries(bias: bool) -> dict[str, tuple[str, ...]]:
    """The names of each projection's parameters. The keys have no bias."""
    return {part: ("weight", "bias") if bias and part != "key" else ("weight",) for part in PROJECTIONS}


def projection_shapes(
    in_size: int, memory_size: int, *, heads: int, key_value_heads: int, head_size: int | None, out_size: int | None
) -> dict[str, tuple[Shape, Shape]]:
    """The shapes of each projection's inputs and outputs."""
    if head_size is None and in_size % heads:
        remedy = "Give head_size, or use another number of heads."
        raise InputError("heads", f"a divisor of the {in_size} features", heads, remedy)
    head_size = head_size or in_size // heads
    queries, keys = (heads, head_size), (key_value_heads, head_size)
    return {
        "query": ((in_size,), queries),
        "key": ((memory_size,), keys),
        "value": ((memory_size,), keys),
        "output": (queries, (out_size or in_size,)),
    }


def draw_projection(
    initializer: Initializer, key: jax.Array, in_shape: Shape, out_shape: Shape
) -> dict[str, jax.Array]:
    """Draws a weight (*in_shape, *out_shape) like that of a dense layer with as many inputs and outputs, and a bias."""
    weight, bias = weight_and_bias(initializer, key, (math.prod(in_shape), math.prod(out_shape)))
    return {"weight": weight.reshape(*in_shape, *out_shape), "bias": bias.reshape(out_shape)}


def project(entries: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """x W + b. The product sums over all axes of x after batch and time."""
    y = jnp.tensordot(x, entries["weight"], axes=x.ndim - 2)
    if "bias" in entries:
        y = y + entries["bias"][None, None]
    return y


def project_backward(weight: jax.Array, x: jax.Array, y_bar: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of W, b and x, for y = x W + b."""
    inputs, outputs = (part.reshape(*part.shape[:2], math.prod(part.shape[2:])) for part in (x, y_bar))
    weight_bar = summed_product(inputs, outputs).reshape(weight.shape)
    bias_bar = jnp.sum(y_bar, axis=(0, 1))
    # y's axes after batch and time are the last axes of the weight; x_bar is summed over them.
    out_axes = tuple(range(2, y_bar.ndim)), tuple(range(x.ndim - 2, weight.ndim))
    return weight_bar, bias_bar, jnp.tensordot(y_bar, weight, axes=out_axes)
