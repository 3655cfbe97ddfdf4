"""Ways to combine the outputs of parallel layers: sum, product and concatenation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Residuals
from functional_nn.core.shapes import Shapes


class Combiner(NamedTuple):
    """A way to combine outputs.

    Args:
        forward: ``forward(outputs) -> (y, residuals)``.
        backward: ``backward(residuals, y_bar, count) -> output_bars``, one cotangent for each of count outputs.
    """

    forward: Callable[[list[jax.Array]], tuple[jax.Array, Residuals]]
    backward: Callable[[Residuals, jax.Array, int], list[jax.Array]]


def check_shapes_fit(shapes: Mapping[str, Shapes], combine: str, *, batch_axes: int = 0) -> None:
    """Requires outputs whose shapes fit together; nothing is broadcast. The first ``batch_axes`` are batch axes."""
    joined = combine == "concatenate"
    if any(map(_are_several, shapes.values())):
        raise InputError("layers", "layers with one output each", "a layer with several outputs")
    if joined and min(map(len, shapes.values())) <= batch_axes:
        name = next(name for name, shape in shapes.items() if len(shape) <= batch_axes)
        remedy = "Give neuron() a feature axis by reshape((1,)), or use dense(1)."
        raise InputError("layers", "outputs with a feature axis, which is joined", f"one number from {name}", remedy)
    first, *others = (shape[:-1] if joined else shape for shape in shapes.values())
    if any(shape != first for shape in others):
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        expected = "outputs of equal shapes, except on the last axis" if joined else "outputs of equal shapes"
        raise InputError("layers", expected, given, "Nothing is broadcast: give a shortcut or a projection.")


def _are_several(shape: Shapes) -> bool:
    """Whether shapes are those of several outputs, in a dict or a tuple."""
    return isinstance(shape, Mapping) or any(isinstance(part, tuple | Mapping) for part in shape)


def _sum(outputs: list[jax.Array]) -> tuple[jax.Array, Residuals]:
    return sum(outputs[1:], outputs[0]), ()


def _sum_backward(nothing: Residuals, y_bar: jax.Array, count: int) -> list[jax.Array]:
    return [y_bar] * count


def _product(outputs: list[jax.Array]) -> tuple[jax.Array, Residuals]:
    return reduce(operator.mul, outputs), tuple(outputs)


def _product_backward(outputs: Residuals, y_bar: jax.Array, count: int) -> list[jax.Array]:
    # Not y / outputs[i], which would be 0 / 0 where an output is 0.
    others = [outputs[:i] + outputs[i + 1 :] for i in range(count)]
    return [reduce(operator.mul, factors, y_bar) for factors in others]


def _concatenate(outputs: list[jax.Array]) -> tuple[jax.Array, Residuals]:
    # The residuals are empty arrays: the backward pass needs only the sizes of the last axes.
    return jnp.concatenate(outputs, axis=-1), tuple(y[:0] for y in outputs)


def _concatenate_backward(no_examples: Residuals, y_bar: jax.Array, count: int) -> list[jax.Array]:
    sizes = [y.shape[-1] for y in no_examples]
    ends = [sum(sizes[: i + 1]) for i in range(count)]
    return [y_bar[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


COMBINERS = {
    "sum": Combiner(_sum, _sum_backward),
    "product": Combiner(_product, _product_backward),
    "concatenate": Combiner(_concatenate, _concatenate_backward),
}
"""The ways to combine outputs, by name."""
