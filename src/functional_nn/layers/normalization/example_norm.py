"""The common part of layer, RMS, group and instance normalization: statistics of each example separately."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Shape
from functional_nn.core.layer_checks import check_entries, check_shape
from functional_nn.core.masked import values_of, with_mask_of
from functional_nn.core.validation import check_flag
from functional_nn.layers.normalization.standardize import (
    Axes,
    Groups,
    affine,
    affine_pullback,
    check_epsilon,
    normalize,
    normalize_pullback,
    values_and_mask,
)


def example_norm(
    name: str,
    grouped_shape: Callable[[Shape], Shape],
    group_axes: Callable[[int], Axes],
    parameter_axes: Callable[[int], Axes],
    epsilon: float | jax.Array,
    *,
    scale: bool,
    bias: bool,
    centered: bool = True,
) -> Layer:
    """A layer that normalizes groups of values within each example.

    Args:
        name: used in parameter trees and in error messages.
        grouped_shape: gives, for the shape of x, the shape that x has while it is normalized.
        group_axes: gives, for the rank of x, the axes of the grouped shape along which a group lies.
        parameter_axes: gives, for the rank of x, the axes of x that scale and bias have.
        epsilon: ε, added to the variance.
        scale: whether x̂ is multiplied by a parameter.
        bias: whether a parameter is added.
        centered: whether the mean is subtracted.
    """
    check_epsilon(epsilon)
    names = tuple(name for name, is_used in (("scale", scale), ("bias", bias)) if check_flag(name, is_used))

    def shared_axes(rank: int) -> Axes:
        """The axes of x along which scale and bias are the same."""
        return tuple(axis for axis in range(rank) if axis not in parameter_axes(rank))

    def init(key, in_shape):
        shape = (1, *check_shape(in_shape, "at least a feature axis, (…, features)"))
        grouped_shape(shape)  # raises if this number of channels cannot be divided into groups
        sizes = tuple(shape[axis] for axis in parameter_axes(len(shape)))
        starting_values = {"scale": jnp.ones, "bias": jnp.zeros}
        return {name: starting_values[name](sizes) for name in names}, {}

    def forward(params, state, x, *, train, key=None):
        check_entries("params", params, names)
        params = {name: params[name] for name in names}
        values, mask = values_and_mask(x)
        shape, rank = values.shape, values.ndim
        for leaf in params.values():
            if leaf.shape != tuple(shape[axis] for axis in parameter_axes(rank)):
                raise InputError("x", f"values for {names[0]} of shape {leaf.shape}", f"shape {shape}")

        groups = Groups(group_axes(rank), mask)
        parts = grouped_shape(shape)
        if centered and math.prod(parts[axis] for axis in groups.axes) < 2:
            raise InputError("x", "at least two values to normalize together", f"one (shape {shape})")
        normalized, _ = normalize(values.reshape(parts), groups, epsilon, centered=centered)
        y = groups.real(affine(normalized.x_hat.reshape(shape), params, shared_axes(rank)))
        return with_mask_of(x, y.astype(values_of(x).dtype)), state, (normalized, params, mask)

    def backward(residuals, y_bar):
        normalized, params, mask = residuals
        given = values_of(y_bar)
        groups, rank = Groups(group_axes(given.ndim), mask), given.ndim
        x_hat = normalized.x_hat.reshape(given.shape)
        # Padding did not reach the output, so its cotangent is set to 0 first.
        params_bar, g = affine_pullback(x_hat, params, shared_axes(rank), groups.real(given.astype(x_hat.dtype)))
        x_bar = normalize_pullback(normalized, groups, g.reshape(normalized.x_hat.shape), centered=centered)
        return params_bar, with_mask_of(y_bar, x_bar.reshape(given.shape).astype(given.dtype))

    return Layer(name, init, forward, backward, takes_mask=True)
