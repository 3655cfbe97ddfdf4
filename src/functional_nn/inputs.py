"""What layers take and give: arrays with a leading batch axis, several of them, or sequences with a mask."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.errors import InputError

Shape: TypeAlias = tuple[int, ...]


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


def wide_type(dtype: Any) -> Any:
    """A type to sum in: at least float32, since a sum of 16-bit numbers overflows, or stops growing."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def is_shape(value: Any) -> bool:
    """Whether a value is the shape of one array, and not a tuple of several."""
    return isinstance(value, tuple | list) and all(isinstance(size, Integral) for size in value)


def stand_in(in_shape: Any, dtype: Any = float) -> Any:
    """A batch of one example of that shape (or of those shapes, nested in tuples), for tracing; nothing is computed."""
    if is_shape(in_shape) and all(0 <= size < 2**31 for size in in_shape):
        return jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros((), dtype).dtype)
    if is_shape(in_shape) or not isinstance(in_shape, tuple | list):
        expected = "a tuple of sizes, or a tuple of such shapes"
        raise InputError("in_shape", expected, repr(in_shape), "It leaves out the batch axis: (784,) or (28, 28, 1).")
    return tuple(stand_in(shape, dtype) for shape in in_shape)


def shape_of(x: Any) -> Any:
    """The inverse of ``stand_in``: shapes without the batch axis. That of a masked sequence is its values'."""
    x = values_of(x)
    return tuple(shape_of(part) for part in x) if isinstance(x, tuple) else x.shape[1:]


def traced(function: Callable[[Any], Any], in_shape: Any, dtype: Any = None) -> Any:
    """``function`` of a stand-in for ``in_shape``: of floating-point numbers, or of integers where it refuses these."""
    if dtype is not None:
        return function(stand_in(in_shape, dtype))
    try:
        return function(stand_in(in_shape, float))
    except (InputError, TypeError) as refusal:
        try:
            return function(stand_in(in_shape, jnp.int32))
        except (InputError, TypeError):
            raise refusal from None
