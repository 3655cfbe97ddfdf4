"""What normalizing layers share: values brought to mean 0 and variance 1 in groups, then scaled and shifted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Params
from functional_nn.core.layer_checks import check_floating
from functional_nn.core.masked import check_mask, mask_of, values_of
from functional_nn.core.validation import check_number

Axes: TypeAlias = tuple[int, ...]


class Groups(NamedTuple):
    """Which values have their statistics in common, and which of them are real.

    Args:
        axes: the axes that lie within a group; along the others groups differ.
        mask: (batch, time) booleans, True where values are real; None where all are.
        axis_name: a mapped axis whose parts belong to the same groups.
    """

    axes: Axes
    mask: Any = None
    axis_name: Any = None

    def real(self, values: jax.Array) -> jax.Array:
        """The values with 0 in place of padding, whatever stands there."""
        if self.mask is None:
            return values
        return jnp.where(self._mask(values.ndim), values, jnp.zeros_like(values))

    def sum(self, values: jax.Array) -> jax.Array:
        """The sum of each group, of size 1 along its axes."""
        total = jnp.sum(values, axis=self.axes, keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def largest(self, values: jax.Array) -> jax.Array:
        """The largest real value of each group; a constant for differentiation."""
        values = lax.stop_gradient(values)
        if self.mask is not None:
            values = jnp.where(self._mask(values.ndim), values, jnp.finfo(values.dtype).min)
        largest = jnp.max(values, axis=self.axes, keepdims=True)
        return largest if self.axis_name is None else lax.pmax(largest, self.axis_name)

    def size(self, values: jax.Array) -> Any:
        """How many real values each group has: one number where nothing is masked."""
        if self.mask is None:
            return math.prod(values.shape[axis] for axis in self.axes) * self._parts()
        return self.sum(jnp.broadcast_to(self._mask(values.ndim), values.shape).astype(jnp.int32))

    def _mask(self, rank: int) -> jax.Array:
        return jnp.expand_dims(self.mask, range(2, rank))

    def _parts(self) -> int:
        if self.axis_name is None:
            return 1
        try:
            return lax.axis_size(self.axis_name)
        except NameError:
            expected = "an axis that vmap or shard_map maps around this call"
            raise InputError("axis_name", expected, repr(self.axis_name)) from None


class Normalized(NamedTuple):
    """Values with mean 0 and variance 1, with what the backward pass needs.

    Args:
        x_hat: x̂.
        s: 1/√(σ² + ε).
        m: how many values a group has; None where its statistics are constants.
    """

    x_hat: jax.Array
    s: jax.Array
    m: Any


def normalize(
    x: jax.Array, groups: Groups, epsilon: Any, *, centered: bool = True
) -> tuple[Normalized, tuple[jax.Array, jax.Array]]:
    """x̂ = (x - μ) s with s = 1/√(σ² + ε), and (μ, σ²), of every group; μ = 0 where not centered.

    The mean is taken of the distances to the largest value, so it is rounded by their size and not by its own, and
    equal values have the deviation 0, however large they are. Deviations are divided by the size of the range before
    they are squared, so that no square overflows. Neither constant changes x̂, so neither has a derivative.
    """
    m = jnp.maximum(jnp.asarray(groups.size(x), x.dtype), 1)
    if centered:
        largest = groups.largest(x)
        distance = groups.real(x - largest)
        mean_distance = groups.sum(distance) / m
        mean, deviation = largest + mean_distance, groups.real(distance - mean_distance)
        size = groups.largest(-distance)
    else:
        mean, deviation, size = jnp.zeros((), x.dtype), x, groups.largest(jnp.abs(x))
    size = jnp.maximum(size, 1)
    c = deviation / size
    variance = groups.sum(jnp.square(c)) / m
    s = lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype) / size / size)
    return Normalized(c * s, s / size, m), (mean, variance * size * size)


def normalize_pullback(made: Normalized, groups: Groups, g: jax.Array, *, centered: bool = True) -> jax.Array:
    """The cotangent of x, where g is that of x̂: s (g - Σg / m - x̂ Σ(g x̂) / m), without Σg where no mean is taken."""
    x_hat, s, m = made
    if m is None:
        return s * g
    through_statistics = x_hat * (groups.sum(g * x_hat) / m)
    if centered:
        through_statistics = through_statistics + groups.sum(g) / m
    return s * groups.real(g - through_statistics)


def affine(x_hat: jax.Array, params: Params, shared: Axes) -> jax.Array:
    """scale · x̂ + bias, of which either may be missing; along the shared axes they are the same."""
    y = x_hat
    if "scale" in params:
        y = y * along(params["scale"], shared, y.dtype)
    if "bias" in params:
        y = y + along(params["bias"], shared, y.dtype)
    return y


def affine_pullback(x_hat: jax.Array, params: Params, shared: Axes, y_bar: jax.Array) -> tuple[Params, jax.Array]:
    """scale_bar = Σ y_bar x̂ and bias_bar = Σ y_bar over the shared axes, and x̂_bar = scale · y_bar."""
    terms = {"scale": y_bar * x_hat, "bias": y_bar}
    params_bar = {name: jnp.sum(terms[name], axis=shared).astype(leaf.dtype) for name, leaf in params.items()}
    return params_bar, y_bar * along(params["scale"], shared, y_bar.dtype) if "scale" in params else y_bar


def along(leaf: jax.Array, shared: Axes, dtype: Any) -> jax.Array:
    """One value for each group, in the rank of the values."""
    return jnp.expand_dims(leaf, shared).astype(dtype)


def opened(x: Any) -> tuple[jax.Array, Any]:
    """The values of an input with 0 in place of padding, in float32 at least, and its mask."""
    check_floating(values_of(x))
    check_mask(x)
    values, mask = values_of(x), mask_of(x)
    least = 2 if mask is None else 3
    if values.ndim < least:
        raise InputError(
            "x", ("(batch, …, features)", "(batch, time, …, features)")[least - 2], f"shape {values.shape}"
        )
    values = values.astype(jnp.float32) if jnp.finfo(values.dtype).bits < 32 else values
    return Groups((), mask).real(values), mask


def chosen_axes(axes: int | Sequence[int], rank: int, *, batch: bool) -> Axes:
    """The axes counted from the front, in order, of which the batch axis 0 is one or is not."""
    given = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    known = [axis for axis in given if isinstance(axis, Integral) and -rank <= axis < rank]
    chosen = tuple(sorted({int(axis) % rank for axis in known}))
    if not chosen or len(chosen) != len(given) or (0 in chosen) != batch:
        which = "the batch axis 0 among them" if batch else "without the batch axis 0"
        raise InputError("axes", f"different axes of an input of {rank} axes, {which}", repr(axes))
    return chosen


def check_epsilon(epsilon: Any) -> None:
    check_number("epsilon", epsilon, "a number not below 0", lambda epsilon: 0 <= epsilon < math.inf)
