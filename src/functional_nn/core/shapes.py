"""Shapes of examples, and tracing a function of an example's shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, TypeAlias, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError, shown
from functional_nn.core.masked import Masked, Value, values_of

Result = TypeVar("Result")

Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch axis."""

Shapes: TypeAlias = Any
"""A ``Shape``; for a layer of several inputs, a tuple or a dict of ``Shapes``. ``Masked((time, features), (time,))`` is
the shape of a masked sequence, for functions that require one."""


MOST_MIXED = 4
"""The largest number of inputs of which some may be floating-point numbers and others integers."""


def wide_type(dtype: DTypeLike) -> DTypeLike:
    """The type to sum in: at least float32, since a sum of 16-bit numbers overflows or stops growing."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def cast(tree: Value, dtype: DTypeLike) -> Value:
    """Casts the floating-point arrays of a pytree to another type; other arrays stay as they are."""

    def cast_leaf(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)


def is_known(size: object) -> bool:
    """Whether a size is a number. ``jax.export.symbolic_shape`` makes sizes that stand for any number."""
    return isinstance(size, Integral)


def is_shape(value: object) -> TypeGuard[Shape]:
    """Whether a value is the shape of one array, not a tuple of several shapes."""
    return isinstance(value, tuple | list) and all(isinstance(size, Integral) for size in value)


def shape_error(in_shape: object, expected: str, remedy: str = "") -> InputError:
    """The error for a wrong ``in_shape``. A traced one comes from ``jax.eval_shape(net.init, key, in_shape)``."""
    if any(isinstance(size, Tracer) for size in jax.tree.leaves(in_shape)):
        remedy = "Write jax.eval_shape(lambda key: net.init(key, (28, 28, 1)), key)."
        return InputError("in_shape", expected, "a traced shape", remedy)
    remedy = remedy or "It leaves out the batch axis: (784,) or (28, 28, 1)."
    return InputError("in_shape", expected, shown(in_shape), remedy)


def stand_in(in_shape: Shapes, dtype: DTypeLike = float) -> Value:
    """A batch of one example, for tracing without computing: of that shape, or of these shapes in tuples and dicts."""
    if is_shape(in_shape) and all(0 <= size < 2**31 for size in in_shape):
        return jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros((), dtype).dtype)
    if isinstance(in_shape, Masked):
        return Masked(stand_in(in_shape.values, dtype), stand_in(in_shape.mask, bool))
    if isinstance(in_shape, Mapping) and in_shape:
        return {name: stand_in(shape, dtype) for name, shape in in_shape.items()}
    if is_shape(in_shape) or not isinstance(in_shape, tuple | list):
        raise shape_error(in_shape, "a tuple of sizes, or a tuple or dict of such shapes")
    return tuple(stand_in(shape, dtype) for shape in in_shape)


def shape_of(x: Value) -> Shapes:
    """The inverse of ``stand_in``: shapes without the batch axis. For a masked sequence, the shape of its values."""
    x = values_of(x)
    if isinstance(x, Mapping):
        return {name: shape_of(part) for name, part in x.items()}
    return tuple(shape_of(part) for part in x) if isinstance(x, tuple) else x.shape[1:]


def traced(
    function: Callable[[Value], Result], in_shape: Shapes, dtype: DTypeLike | None = None, floating: DTypeLike = float
) -> Result:
    """``function`` of a stand-in of that shape: of floating-point numbers, or of integers if it rejects these.

    If there are several inputs, some may be floating-point numbers and others integers. With ``dtype``, only this type
    is tried; ``floating`` is the type of floating-point numbers.
    """
    if dtype is not None:
        return function(stand_in(in_shape, dtype))
    examples, structure = jax.tree.flatten(stand_in(in_shape, float))
    refusals = []
    # Masks are booleans in every attempt. Only the other inputs change their types.
    # First all are floating-point, then all integers. Of a few inputs, every mixture is tried, too.
    count = sum(one.dtype != bool for one in examples)
    floating = jnp.zeros((), floating).dtype
    mixtures = itertools.product((floating, jnp.int32), repeat=count) if count <= MOST_MIXED else ()
    for dtypes in (count * (floating,), count * (jnp.int32,), *mixtures):
        types = iter(dtypes)
        typed = [one if one.dtype == bool else jax.ShapeDtypeStruct(one.shape, next(types)) for one in examples]
        try:
            return function(jax.tree.unflatten(structure, typed))
        except (InputError, TypeError) as refusal:
            refusals.append(refusal)
    # The first attempt was with floating-point numbers, which most layers take. So its message is shown.
    raise refusals[0] from None
