"""What layers take and give: arrays with a leading batch axis, several of them, or sequences with a mask."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core.errors import InputError
from functional_nn.core.masked import values_of

Shape: TypeAlias = tuple[int, ...]


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
