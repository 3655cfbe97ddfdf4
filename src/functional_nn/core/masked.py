"""Masked sequences: sequences of different lengths, padded to one length."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core.errors import check


class Masked(NamedTuple):
    """Sequences of different lengths, padded to one length, and a mask that says which steps are real.

    Recurrent layers, attention, batch norm and global pooling use the mask. A combinator gives any other layer the
    values alone, with 0 in place of padding, and attaches the mask to the output. So no result depends on what the
    padding holds, and a convolution sees zeros there, as it does beyond the ends. A mask has no gradient: its cotangent
    is None.

    Args:
        values: (batch, time, …).
        mask: (batch, time) booleans, True where a step is real.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> lengths = jnp.array([3, 1])
    >>> x = fnn.Masked(jnp.ones((2, 3, 5)), jnp.arange(3) < lengths[:, None])
    >>> print(x.mask.sum())
    4
    """

    values: Any
    mask: Any

    def __add__(self, other: object) -> NoReturn:
        """Raises a TypeError: as a tuple, it would be joined with another tuple, and nothing would be added."""
        raise TypeError("A Masked is not a number. Compute with its values, and put the mask back: Masked(y, x.mask).")

    __radd__ = __mul__ = __rmul__ = __add__


Value: TypeAlias = Any
"""What layers take and give: an array with a leading batch axis, a ``Masked`` sequence, or a tuple of arrays."""


def values_of(x: Value) -> Value:
    """The values of a masked sequence; any other value as it is."""
    return x.values if isinstance(x, Masked) else x


def mask_of(x: Value) -> jax.Array | None:
    """The mask of a masked sequence; None for any other value, which has no padding."""
    return x.mask if isinstance(x, Masked) else None


def with_mask_of(x: Value, values: jax.Array) -> Value:
    """``values`` with the mask of ``x``, where it has one."""
    return Masked(values, x.mask) if isinstance(x, Masked) else values


def without_padding(x: Value) -> jax.Array:
    """The values of a sequence, with 0 in place of padding. Padding may hold NaN, and 0 · NaN is not 0."""
    if not isinstance(x, Masked):
        return x
    return jnp.where(jnp.expand_dims(x.mask, range(2, x.values.ndim)), x.values, jnp.zeros((), x.values.dtype))


def check_mask(x: Value) -> None:
    """Requires one boolean for each step of the values."""
    if not isinstance(x, Masked):
        return
    values, mask = jnp.asarray(x.values), jnp.asarray(x.mask)
    fits = mask.dtype == bool and mask.ndim == 2 and values.shape[:2] == mask.shape
    expected = f"booleans of shape {values.shape[:2]}, one for each step"
    check("mask", mask, expected, fits, "True marks a step, False padding.")
