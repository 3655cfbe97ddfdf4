"""Normalization of groups of values to mean 0 and variance 1, with scale, bias and the backward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params
from functional_nn.core.layer_checks import check_floating
from functional_nn.core.masked import Value, check_mask, mask_of, values_of
from functional_nn.core.shapes import wide_type
from functional_nn.core.validation import check_number

Axes: TypeAlias = tuple[int, ...]

AxisName: TypeAlias = str | tuple[str, ...]
"""The name of a mapped axis, or several names."""


class Groups(NamedTuple):
    """The groups of values that are normalized together, and which of the values are real.

    Args:
        axes: the axes along which a group lies. Each position along the other axes is another group.
        mask: (batch, time) booleans, True where values are real; None if all are.
        axis_name: a mapped axis whose parts belong to the same groups; None if there is none.
    """

    axes: Axes
    mask: jax.Array | None = None
    axis_name: AxisName | None = None

    def real(self, values: jax.Array) -> jax.Array:
        """The values with 0 in place of padding."""
        if self.mask is None:
            return values
        return jnp.where(_expanded_mask(self.mask, values.ndim), values, jnp.zeros_like(values))

    def sum(self, values: jax.Array) -> jax.Array:
        """The sum of each group. Its size along the axes of the group is 1."""
        total = jnp.sum(values, axis=self.axes, keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def largest(self, values: jax.Array) -> jax.Array:
        """The largest real value of each group. For differentiation it is a constant."""
        values = lax.stop_gradient(values)
        if self.mask is not None:
            values = jnp.where(_expanded_mask(self.mask, values.ndim), values, jnp.finfo(values.dtype).min)
        largest = jnp.max(values, axis=self.axes, keepdims=True)
        return largest if self.axis_name is None else lax.pmax(largest, self.axis_name)

    def size(self, values: jax.Array) -> jax.Array | int:
        """The number of real values in each group; without a mask, one number for all groups."""
        if self.mask is None:
            return math.prod(values.shape[axis] for axis in self.axes) * self._mapped_size()
        return self.sum(jnp.broadcast_to(_expanded_mask(self.mask, values.ndim), values.shape).astype(jnp.int32))

    def _mapped_size(self) -> int:
        if self.axis_name is None:
            return 1
        try:
            return lax.axis_size(self.axis_name)
        except NameError:
            expected = "an axis that vmap or shard_map maps around this call"
            raise InputError("axis_name", expected, repr(self.axis_name)) from None


class Normalized(NamedTuple):
    """Normalized values, and what their backward pass needs.

    Args:
        x_hat: x̂, the values with mean 0 and variance 1.
        s: 1/√(σ² + ε).
        m: the number of values in a group; None if the statistics are constants, as in evaluation.
    """

    x_hat: jax.Array
    s: jax.Array
    m: jax.Array | None


class Statistics(NamedTuple):
    """The statistics of each group: its number of values m, mean μ and biased variance σ²."""

    m: jax.Array
    mean: jax.Array
    variance: jax.Array


def normalize(
    x: jax.Array, groups: Groups, epsilon: float | jax.Array, *, centered: bool = True
) -> tuple[Normalized, Statistics]:
    """Computes x̂ = (x - μ) s with s = 1/√(σ² + ε), and the statistics, for every group. μ is 0 if not centered.

    Two steps keep the digits:

    - The mean is computed from the distances to the largest value. So its rounding error depends on these distances
      and not on the size of the mean, and equal values have the deviation 0 however large they are.
    - Deviations are divided by the largest distance before they are squared, so that no square overflows. The sum of
      the distances can still overflow, for values near the largest finite number.

    The largest value and the largest distance cancel in x̂, so they are constants for differentiation.
    """
    m = jnp.maximum(jnp.asarray(groups.size(x), x.dtype), 1)
    if centered:
        largest = groups.largest(x)
        distance = groups.real(x - largest)
        mean_distance = groups.sum(distance) / m
        mean = largest + mean_distance
        deviation = groups.real(distance - mean_distance)
        # Distances are 0 or negative, so this is the largest size of one. No deviation is larger.
        unit = groups.largest(-distance)
    else:
        mean = jnp.zeros((), x.dtype)
        deviation = x
        unit = groups.largest(jnp.abs(x))

    # Variance and ε in units of ``unit``, which is at least 1 so that small values are left as they are.
    unit = jnp.maximum(unit, 1)
    scaled = deviation / unit
    variance = groups.sum(jnp.square(scaled)) / m
    # ε is divided twice, since unit² could overflow. The unit cancels in x̂ = (x - μ) s, and s is divided by it.
    s = lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype) / unit / unit)
    return Normalized(scaled * s, s / unit, m), Statistics(m, mean, variance * unit * unit)


def normalize_pullback(normalized: Normalized, groups: Groups, g: jax.Array, *, centered: bool = True) -> jax.Array:
    """The cotangent of x from g, that of x̂: s (g - Σg / m - x̂ Σ(g x̂) / m). The term Σg / m is for centered values."""
    x_hat, s, m = normalized
    if m is None:
        return s * g
    through_statistics = x_hat * (groups.sum(g * x_hat) / m)
    if centered:
        through_statistics = through_statistics + groups.sum(g) / m
    return s * groups.real(g - through_statistics)


def affine(x_hat: jax.Array, params: Params, shared: Axes) -> jax.Array:
    """scale · x̂ + bias, where scale or bias may be missing. Along the shared axes they are the same."""
    y = x_hat
    if "scale" in params:
        y = y * expand_shared(params["scale"], shared, y.dtype)
    if "bias" in params:
        y = y + expand_shared(params["bias"], shared, y.dtype)
    return y


def affine_pullback(x_hat: jax.Array, params: Params, shared: Axes, y_bar: jax.Array) -> tuple[Params, jax.Array]:
    """The cotangents scale_bar = Σ y_bar x̂, bias_bar = Σ y_bar (over the shared axes) and x̂_bar = scale · y_bar."""
    terms = {"scale": y_bar * x_hat, "bias": y_bar}
    params_bar = {name: jnp.sum(terms[name], axis=shared).astype(leaf.dtype) for name, leaf in params.items()}
    x_hat_bar = y_bar
    if "scale" in params:
        x_hat_bar = y_bar * expand_shared(params["scale"], shared, y_bar.dtype)
    return params_bar, x_hat_bar


def expand_shared(leaf: jax.Array, shared: Axes, dtype: DTypeLike) -> jax.Array:
    """The leaf with an axis of size 1 for each shared axis."""
    return jnp.expand_dims(leaf, shared).astype(dtype)


def values_and_mask(x: Value) -> tuple[jax.Array, jax.Array | None]:
    """The values of an input, in float32 or wider and with 0 in place of padding, and its mask."""
    check_floating(values_of(x))
    check_mask(x)
    values, mask = values_of(x), mask_of(x)
    if mask is None and values.ndim < 2:
        raise InputError("x", "(batch, …, features)", f"shape {values.shape}")
    if mask is not None and values.ndim < 3:
        raise InputError("x", "(batch, time, …, features)", f"shape {values.shape}")
    values = values.astype(wide_type(values.dtype))
    return Groups((), mask).real(values), mask


def chosen_axes(axes: int | Sequence[int], rank: int, *, batch: bool) -> Axes:
    """The chosen axes, counted from the front and sorted. Requires the batch axis 0 among them, or not among them."""
    given = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    known = [axis for axis in given if isinstance(axis, Integral) and -rank <= axis < rank]
    chosen = tuple(sorted({int(axis) % rank for axis in known}))
    if not chosen or len(chosen) != len(given) or (0 in chosen) != batch:
        which = "the batch axis 0 among them" if batch else "without the batch axis 0"
        raise InputError("axes", f"different axes of an input of {rank} axes, {which}", repr(axes))
    return chosen


def check_epsilon(epsilon: object) -> None:
    """Requires a finite number not below 0."""
    check_number("epsilon", epsilon, "a number not below 0", lambda epsilon: 0 <= epsilon < math.inf)


def _expanded_mask(mask: jax.Array, rank: int) -> jax.Array:
    return jnp.expand_dims(mask, range(2, rank))
