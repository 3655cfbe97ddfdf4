"""Masked sequences: sequences of different lengths, padded to one length."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from functional_nn.core.errors import InputError


class Masked(NamedTuple):
    """Sequences of different lengths, padded to one: what is real and what is padding.

    Recurrent layers, attention, batch norm and global pooling look at the mask; a combinator gives any other layer the
    values alone, with 0 in place of padding, and carries the mask on. So nothing depends on what padding holds, and a
    convolution sees zeros there as it does beyond the ends. A mask has no gradient: None stands in its place.

    Args:
        values: (batch, time, …).
        mask: (batch, time) booleans, True where a step is real.

    >>> lengths = jnp.array([3, 1])
    >>> x = Masked(jnp.ones((2, 3, 5)), jnp.arange(3) < lengths[:, None])
    >>> print(x.mask.sum())
    4
    """

    values: Any
    mask: Any


def values_of(x: Any) -> Any:
    """The values of a masked sequence, and anything else as it is."""
    return x.values if isinstance(x, Masked) else x


def mask_of(x: Any) -> Any:
    """The mask of a masked sequence; None for anything else, where all is real."""
    return x.mask if isinstance(x, Masked) else None


def like(x: Any, values: Any) -> Any:
    """``values`` with the mask of ``x``, where it has one."""
    return Masked(values, x.mask) if isinstance(x, Masked) else values


def check_mask(x: Any) -> None:
    """Refuses a mask that is not one boolean for each step of the values."""
    if not isinstance(x, Masked):
        return
    values, mask = jnp.asarray(x.values), jnp.asarray(x.mask)
    if mask.dtype != bool or mask.ndim != 2 or values.shape[:2] != mask.shape:
        expected = f"booleans of shape {values.shape[:2]}, one for each step"
        raise InputError("mask", expected, f"{mask.dtype} of shape {mask.shape}", "True marks what is real.")
