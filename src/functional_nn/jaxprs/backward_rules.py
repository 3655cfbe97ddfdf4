"""Hand-derived backward passes of JAX's basic operations: arithmetic, functions, products, sums, shapes and choices.

Each rule is the formula of the cotangent of one operand. Here a and b are the operands, y is the result, and g is the
cotangent of y. Automatic differentiation is not used, so a rule can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

Cotangent: TypeAlias = Any
"""The cotangent of a result; for an operation with several results, a list of cotangents."""


class Operation(NamedTuple):
    """An operation, with what its rules need.

    Args:
        parameters: the parameters of the equation, such as the axes of a sum.
        types: the shape and type of each operand.
        operands: the values of the operands by number; only those that a rule needs.
        result: the first result, if a rule needs it.
    """

    parameters: Mapping[str, Any]
    types: Sequence[ShapedArray]
    operands: Mapping[int, jax.Array]
    result: jax.Array | None

    @property
    def a(self) -> jax.Array:
        """The value of the first operand."""
        return self.operands[0]

    @property
    def b(self) -> jax.Array:
        """The value of the second operand."""
        return self.operands[1]

    @property
    def y(self) -> jax.Array:
        """The value of the result."""
        assert self.result is not None
        return self.result


class Rule(NamedTuple):
    """The backward pass of an operation with respect to one operand.

    Args:
        formula: ``formula(operation, g) -> bar``, the cotangent of the operand.
        operands: the numbers of the operands whose values the formula needs.
        result: whether the formula needs the value of the result.
    """

    formula: Callable[[Operation, Cotangent], jax.Array]
    operands: tuple[int, ...] = ()
    result: bool = False


WITHOUT_DERIVATIVE = frozenset(("stop_gradient", "floor", "ceil", "round", "sign"))
"""Operations whose derivative is 0 everywhere, or declared to be 0."""

ONE_OPERAND: dict[str, Rule] = {
    "neg": Rule(lambda o, g: -g),
    # At 0 the derivative is 1, as in JAX.
    "abs": Rule(lambda o, g: jnp.where(o.a >= 0, g, -g), (0,)),
    "square": Rule(lambda o, g: g * 2 * o.a, (0,)),
    "integer_pow": Rule(lambda o, g: _through_power(o, g), (0,)),
    "sqrt": Rule(lambda o, g: g / (2 * o.y), result=True),
    "rsqrt": Rule(lambda o, g: -g * o.y / (2 * o.a), (0,), result=True),
    "exp": Rule(lambda o, g: g * o.y, result=True),
    "exp2": Rule(lambda o, g: g * math.log(2) * o.y, result=True),
    "expm1": Rule(lambda o, g: g * (o.y + 1), result=True),
    "log": Rule(lambda o, g: g / o.a, (0,)),
    "log1p": Rule(lambda o, g: g / (1 + o.a), (0,)),
    "sin": Rule(lambda o, g: g * jnp.cos(o.a), (0,)),
    "cos": Rule(lambda o, g: -g * jnp.sin(o.a), (0,)),
    # (1 - y)(1 + y) keeps its digits where y is near ±1, and 1 - y² would lose them.
    "tanh": Rule(lambda o, g: g * (1 - o.y) * (1 + o.y), result=True),
    "logistic": Rule(lambda o, g: g * o.y * (1 - o.y), result=True),
    # A call has a list of results, so g is a list with one cotangent.
    "relu": Rule(lambda o, g: jnp.where(o.a > 0, g[0], 0), (0,)),
    "erf": Rule(lambda o, g: g * (2 / math.sqrt(math.pi)) * jnp.exp(-o.a * o.a), (0,)),
    "erfc": Rule(lambda o, g: -g * (2 / math.sqrt(math.pi)) * jnp.exp(-o.a * o.a), (0,)),
    "reduce_sum": Rule(lambda o, g: _spread(g, o)),
    "reduce_max": Rule(lambda o, g: _to_the_extreme(o, g), (0,), result=True),
    "reduce_min": Rule(lambda o, g: _to_the_extreme(o, g), (0,), result=True),
    "cumsum": Rule(lambda o, g: lax.cumsum(g, o.parameters["axis"], reverse=not o.parameters["reverse"])),
    "broadcast_in_dim": Rule(lambda o, g: _sum_of_copies(o, g)),
    "reshape": Rule(lambda o, g: g.reshape(o.types[0].shape)),
    "squeeze": Rule(lambda o, g: g.reshape(o.types[0].shape)),
    "expand_dims": Rule(lambda o, g: g.reshape(o.types[0].shape)),
    "transpose": Rule(lambda o, g: jnp.transpose(g, _inverse(o.parameters["permutation"]))),
    "rev": Rule(lambda o, g: lax.rev(g, o.parameters["dimensions"])),
    "slice": Rule(lambda o, g: _put_back(o, g)),
    "split": Rule(lambda o, g: jnp.concatenate(g, axis=o.parameters["axis"])),
    "convert_element_type": Rule(lambda o, g: g.astype(o.types[0].dtype)),
    "reduce_precision": Rule(lambda o, g: g),
    "copy": Rule(lambda o, g: g),
    "copy_p": Rule(lambda o, g: g),
}
"""The rules of operations with one operand: the cotangent of a."""

TWO_OPERANDS: dict[str, tuple[Rule, Rule]] = {
    "add": (Rule(lambda o, g: g), Rule(lambda o, g: g)),
    "add_any": (Rule(lambda o, g: g), Rule(lambda o, g: g)),
    "sub": (Rule(lambda o, g: g), Rule(lambda o, g: -g)),
    "mul": (Rule(lambda o, g: g * o.b, (1,)), Rule(lambda o, g: g * o.a, (0,))),
    # b is never squared, because b² may overflow or fall below the smallest number.
    "div": (Rule(lambda o, g: g / o.b, (1,)), Rule(lambda o, g: -g / o.b * o.a / o.b, (0, 1))),
    # Where a = 0, the formulas would give 0 · ∞: a⁻¹ for b = 0, and log a. The replaced numbers make the product 0.
    "pow": (
        Rule(lambda o, g: g * o.b * o.a ** jnp.where(o.b == 0, 1, o.b - 1), (0, 1)),
        Rule(lambda o, g: g * jnp.log(jnp.where(o.a == 0, 1, o.a)) * o.y, (0,), result=True),
    ),
    # At a tie each operand gets one half, as in JAX.
    "max": (Rule(lambda o, g: g * _share(o.a, o.b), (0, 1)), Rule(lambda o, g: g * _share(o.b, o.a), (0, 1))),
    "min": (Rule(lambda o, g: g * _share(o.b, o.a), (0, 1)), Rule(lambda o, g: g * _share(o.a, o.b), (0, 1))),
    "atan2": (
        Rule(lambda o, g: g * o.b / (o.a * o.a + o.b * o.b), (0, 1)),
        Rule(lambda o, g: -g * o.a / (o.a * o.a + o.b * o.b), (0, 1)),
    ),
    "dot_general": (Rule(lambda o, g: _product(o, g, 0), (1,)), Rule(lambda o, g: _product(o, g, 1), (0,))),
    # Every element of g that does not belong to a belongs to a copy of b, the filling.
    "pad": (Rule(lambda o, g: _without_padding(o, g)), Rule(lambda o, g: jnp.sum(g) - jnp.sum(_without_padding(o, g)))),
}
"""The rules of operations with two operands: the cotangents of a and of b."""

# Operand 1 of both is the array of indices, which has no cotangent.
INDEXED: dict[str, dict[int, Rule]] = {
    "gather": {0: Rule(lambda o, g: _add_at(o, g), (1,))},
    "scatter-add": {0: Rule(lambda o, g: g), 2: Rule(lambda o, g: _take_at(o, g), (1,))},
}
"""The rules of operations with indices: y = a[indices], and y = a with numbers added at indices."""
INDEXED["scatter_add"] = INDEXED["scatter-add"]

SEVERAL_OPERANDS: dict[str, Callable[[int], Rule]] = {
    "concatenate": lambda i: Rule(lambda o, g: _part(o, g, i)),
    "stack": lambda i: Rule(lambda o, g: lax.index_in_dim(g, i, o.parameters["axis"], keepdims=False)),
    # Operand 0 of a choice says which of the others is taken. The others get g where they are taken, and 0 elsewhere.
    "select_n": lambda i: Rule(lambda o, g: _where_taken(o, g, i - 1), (0,)),
    # Of clamp(lowest, x, highest), x gets g where it lies strictly between the bounds. The bounds get none here.
    "clamp": lambda i: Rule(lambda o, g: _between_bounds(o, g), (0, 1, 2)),
}
"""The rules of operations with any number of operands: the cotangent of operand number i."""


def rule_of(name: str, index: int) -> Rule | None:
    """The rule for one operand of an operation; None if the package has none.

    >>> operation = Operation({}, (), {1: jnp.float32(3)}, None)
    >>> print(rule_of("mul", 0).formula(operation, jnp.float32(2)))
    6.0
    """
    if name in ONE_OPERAND:
        return ONE_OPERAND[name]
    if name in TWO_OPERANDS:
        return TWO_OPERANDS[name][index]
    if name in INDEXED:
        return INDEXED[name].get(index)
    if name == "clamp" and index != 1:
        return None
    return SEVERAL_OPERANDS[name](index) if name in SEVERAL_OPERANDS else None


def operand_bar(rule: Rule, operation: Operation, index: int, g: Cotangent) -> jax.Array:
    """The cotangent of an operand, in its shape and type.

    An operand that was copied to the shape of the other one, along axes of size 1, gets the sum over its copies.
    """
    bar = rule.formula(operation, g)
    own = operation.types[index]
    if bar.ndim > len(own.shape):
        bar = jnp.sum(bar)  # the operand is a single number
    copied = tuple(axis for axis, size in enumerate(own.shape) if size == 1 and bar.shape[axis] > 1)
    if copied:
        bar = jnp.sum(bar, axis=copied, keepdims=True)
    return bar.astype(own.dtype)


def _inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.argsort(permutation))


def _through_power(operation: Operation, g: jax.Array) -> jax.Array:
    """g y aʸ⁻¹ for the whole number y. For y = 0, a⁻¹ may be infinite, and 0 · ∞ would be NaN."""
    y = operation.parameters["y"]
    return g * y * lax.integer_pow(operation.a, y - 1) if y else jnp.zeros_like(g)


def _spread(value: jax.Array, operation: Operation) -> jax.Array:
    """A reduced value, copied along the axes that were reduced."""
    shape, axes = operation.types[0].shape, operation.parameters["axes"]
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    return lax.broadcast_in_dim(value, shape, kept)


def _to_the_extreme(operation: Operation, g: jax.Array) -> jax.Array:
    """Gives g to the element that is the maximum or minimum; several equal ones share it, as in JAX."""
    chosen = (operation.a == _spread(operation.y, operation)).astype(g.dtype)
    return chosen * _spread(g / jnp.sum(chosen, axis=operation.parameters["axes"]), operation)


def _share(own: jax.Array, other: jax.Array) -> jax.Array:
    """1 where the own operand is the larger one, 1/2 at a tie, 0 elsewhere."""
    return jnp.where(own > other, 1.0, jnp.where(own == other, 0.5, 0.0)).astype(own.dtype)


def _sum_of_copies(operation: Operation, g: jax.Array) -> jax.Array:
    """The sum of g over all copies that a broadcast made of an element."""
    own, places = operation.types[0].shape, operation.parameters["broadcast_dimensions"]
    copied = {axis for axis in range(g.ndim) if axis not in places}
    copied |= {place for place, size in zip(places, own, strict=True) if size == 1}
    return jnp.sum(g, axis=tuple(sorted(copied))).reshape(own)


def _put_back(operation: Operation, g: jax.Array) -> jax.Array:
    """Puts g where a slice was taken, with zeros elsewhere."""
    starts, strides = operation.parameters["start_indices"], operation.parameters["strides"]
    padding = []
    for axis, size in enumerate(operation.types[0].shape):
        step = strides[axis] if strides else 1
        # One behind the last element that was taken; the start itself if none was taken.
        end = starts[axis] + max(g.shape[axis] - 1, 0) * step + min(g.shape[axis], 1)
        padding.append((starts[axis], size - end, step - 1))
    return lax.pad(g, jnp.zeros((), g.dtype), padding)


def _without_padding(operation: Operation, g: jax.Array) -> jax.Array:
    """The part of g that belongs to the padded array. It undoes the padding: before, after, and between elements.

    A negative padding removed elements, which get 0.
    """
    config = [
        (int(before), int(after), int(between)) for before, after, between in operation.parameters["padding_config"]
    ]
    if any(before < 0 or after < 0 for before, after, _ in config):
        removed = [(max(-before, 0), max(-after, 0), 0) for before, after, _ in config]
        g = lax.pad(g, jnp.zeros((), g.dtype), removed)
    starts = [max(before, 0) for before, _, _ in config]
    ends = [size - max(after, 0) for size, (_, after, _) in zip(g.shape, config, strict=True)]
    return lax.slice(g, starts, ends, [between + 1 for _, _, between in config])


def _part(operation: Operation, g: jax.Array, index: int) -> jax.Array:
    """The slice of g that one of the joined arrays became."""
    axis = operation.parameters["dimension"]
    sizes = [own.shape[axis] for own in operation.types]
    start = sum(sizes[:index])
    return lax.slice_in_dim(g, start, start + sizes[index], axis=axis)


def _where_taken(operation: Operation, g: jax.Array, case: int) -> jax.Array:
    zeros = jnp.zeros_like(g)
    cases = [g if number == case else zeros for number in range(len(operation.types) - 1)]
    return lax.select_n(operation.a, *cases)


def _between_bounds(operation: Operation, g: jax.Array) -> jax.Array:
    lowest, x, highest = (operation.operands[i] for i in range(3))
    return jnp.where((lowest < x) & (x < highest), g, jnp.zeros_like(g))


def _add_at(operation: Operation, g: jax.Array) -> jax.Array:
    """Adds g at the places that were read, to zeros. A place that was read twice gets the sum."""
    numbers = operation.parameters["dimension_numbers"]
    places = lax.ScatterDimensionNumbers(
        update_window_dims=numbers.offset_dims,
        inserted_window_dims=numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=numbers.start_index_map,
        operand_batching_dims=numbers.operand_batching_dims,
        scatter_indices_batching_dims=numbers.start_indices_batching_dims,
    )
    zeros = jnp.zeros(operation.types[0].shape, g.dtype)
    return lax.scatter_add(zeros, operation.operands[1], g, places, mode=operation.parameters["mode"])


def _take_at(operation: Operation, g: jax.Array) -> jax.Array:
    """Reads g at the places to which numbers were added. Places outside of the array were left out, and get 0."""
    # gradients/multiprecision/data_movement.py has the same map of axes, written separately: it judges this formula.
    numbers = operation.parameters["dimension_numbers"]
    places = lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )
    windows = iter(operation.types[2].shape[axis] for axis in numbers.update_window_dims)
    single = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    sizes = [1 if axis in single else next(windows) for axis in range(g.ndim)]
    mode = operation.parameters["mode"]
    return lax.gather(g, operation.operands[1], places, tuple(sizes), mode=mode, fill_value=0)


def _product(operation: Operation, g: jax.Array, index: int) -> jax.Array:
    """The cotangent of one factor: for y = a b it is a_bar = g bᵀ and b_bar = aᵀ g, with any axes and batches.

    The axes of y are those of the batch, the free axes of a, and the free axes of b. So g is multiplied by the other
    factor, over the other factor's free axes. What remains are the factor's own axes, in another order.
    """
    contracted, batches = operation.parameters["dimension_numbers"]
    own_contracted, other_contracted = contracted[index], contracted[1 - index]
    own_batch, other_batch = batches[index], batches[1 - index]
    own, other = operation.types[index], operation.operands[1 - index].astype(g.dtype)
    own_free = [axis for axis in range(own.ndim) if axis not in (*own_contracted, *own_batch)]
    other_free = [axis for axis in range(other.ndim) if axis not in (*other_contracted, *other_batch)]
    count = len(own_batch)
    # In y, the free axes of b stand behind those of a. For the cotangent of b, the other factor is a.
    start = count + len(own_free) if index == 0 else count
    axes_of_other = range(start, start + len(other_free))
    product = lax.dot_general(
        g,
        other,
        ((tuple(axes_of_other), tuple(other_free)), (tuple(range(count)), tuple(other_batch))),
        precision=operation.parameters["precision"],
    )
    # The axes of the product are the batch, the own free axes, and the contracted axes in the other factor's order.
    last = [own_contracted[list(other_contracted).index(axis)] for axis in sorted(other_contracted)]
    return jnp.transpose(product, _inverse([*own_batch, *own_free, *last]))
