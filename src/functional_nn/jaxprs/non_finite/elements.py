"""The dependence of each element of an operation's result on the elements of its operands.

``affected`` goes forward, from elements of the operands to the elements of the results that are computed from them.
``read`` goes backward, from elements of the results to the elements of the operands that they are computed from. For an
operation without a rule, every element of a result counts as computed from all elements of all operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.non_finite.recording import ROW, ROWS, Mask, Operation

Masks: TypeAlias = list[Mask]

ARITHMETIC = ("abs", "add", "add_any", "clamp", "div", "max", "min", "mul", "neg", "one_minus_square", "polynomial")
MORE_ARITHMETIC = ("rem", "sign", "sub", "ceil", "floor", "round", "nextafter", "copysign")
POWERS = ("cbrt", "exp", "exp2", "expm1", "integer_pow", "log", "log1p", "log2", "pow", "rsqrt", "sqrt", "square")
TRIGONOMETRIC = ("acos", "asin", "atan", "atan2", "cos", "sin", "tan")
HYPERBOLIC = ("acosh", "asinh", "atanh", "cosh", "logistic", "sinh", "tanh")
SPECIAL = ("bessel_i0e", "bessel_i1e", "digamma", "erf", "erf_inv", "erfc", "igamma", "igamma_grad_a", "igammac")
MORE_SPECIAL = ("lgamma", "polygamma", "random_gamma_grad", "regularized_incomplete_beta", "zeta")
COMPARISONS = ("eq", "ge", "gt", "is_finite", "le", "lt", "ne")
COMPLEX = ("complex", "conj", "imag", "real")
CONVERSIONS = ("convert_element_type", "copy", "copy_p", "name", "pvary", "reduce_precision", "stop_gradient")
ELEMENTWISE = frozenset(
    (*ARITHMETIC, *MORE_ARITHMETIC, *POWERS, *TRIGONOMETRIC, *HYPERBOLIC, *SPECIAL, *MORE_SPECIAL, *COMPARISONS)
).union(COMPLEX, CONVERSIONS)
"""Operations on arrays of one shape, or single numbers, that compute each element of the result separately."""
REDUCTIONS = frozenset(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"))
CONVOLUTION = "conv_general_dilated"
"""Its kernel also meets the zeros of the padding, and NaN times 0 is NaN. So each element counts as computed from the
whole kernel."""
CUMULATIVE = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")
PARTS = ("dynamic_slice", "dynamic_update_slice", "gather", "pad", "split", "tile", "unstack")
SCATTERED = ("scatter", "scatter-add", "scatter-sub")
BY_DERIVATIVES = frozenset((CONVOLUTION, "reduce_window_sum", *CUMULATIVE, *PARTS, *SCATTERED))
"""Operations for which a derivative at 1 is 0 if, and only if, the element is not read."""


def affected(operation: Operation, masks: Sequence[Mask]) -> Masks:
    """For each result, the elements that are computed from the masked elements of the operands."""
    shapes = [np.shape(result.array) for result in operation.results]
    if not any(mask.any() for mask in masks):
        return [np.zeros(shape, bool) for shape in shapes]
    kind, equation = operation.kind, operation.equation
    if kind in ELEMENTWISE:
        return [np.asarray(np.logical_or.reduce(np.broadcast_arrays(*masks)))]
    # What is not chosen does not count: jnp.where hides a NaN in its other branch.
    if kind == "select_n":
        chosen = np.broadcast_to(np.asarray(operation.operands[0].array, int), shapes[0])
        return [np.choose(chosen, [np.broadcast_to(mask, shapes[0]) for mask in masks[1:]])]
    if kind == ROWS:
        return [np.stack(masks)]
    if kind == ROW:
        return [masks[0][operation.steps[-1][1]]]
    if kind in REDUCTIONS:
        return [np.asarray(masks[0].any(axis=tuple(equation.params["axes"])))]
    if kind in MOVEMENTS:
        return [MOVEMENTS[kind](equation, masks)]
    if kind == "dot_general":
        return [_affected_by_product(equation, masks, shapes[0])]
    is_in_kernel = kind == CONVOLUTION and bool(masks[1].any())
    # A tangent of 1 in each masked element reaches the elements that are computed from it.
    if kind in BY_DERIVATIVES and not is_in_kernel:
        function, ones, tangents = _at_one(operation, masks)
        _, out = jax.jvp(function, ones, tangents)
        return [np.asarray(tangent) != 0 for tangent in out]
    return [np.ones(shape, bool) for shape in shapes]


def read(operation: Operation, masks: Sequence[Mask]) -> Masks:
    """For each operand, the elements from which the masked elements of the results are computed."""
    shapes = [np.shape(operand.array) for operand in operation.operands]
    kind, equation = operation.kind, operation.equation
    if not any(mask.any() for mask in masks):
        return [np.zeros(shape, bool) for shape in shapes]
    if kind in ELEMENTWISE:
        return [_to_shape(masks[0], shape) for shape in shapes]
    if kind == "select_n":
        chosen = np.broadcast_to(np.asarray(operation.operands[0].array, int), masks[0].shape)
        by_case = [_to_shape(masks[0] & (chosen == case), shape) for case, shape in enumerate(shapes[1:])]
        return [np.zeros(shapes[0], bool), *by_case]
    if kind == ROWS:
        return list(masks[0])
    if kind == ROW:
        whole = np.zeros(shapes[0], bool)
        whole[operation.steps[-1][1]] = masks[0]
        return [whole]
    if kind in REDUCTIONS:
        kept = np.expand_dims(masks[0], tuple(equation.params["axes"]))
        return [np.broadcast_to(kept, shapes[0])]
    if kind in MOVEMENTS:
        return _read_by_movement(equation, MOVEMENTS[kind], masks[0], shapes)
    if kind == "dot_general":
        return _read_by_product(equation, masks[0], shapes)
    # A cotangent of 1 in each masked element reaches the elements that were read for it.
    if kind in BY_DERIVATIVES:
        function, ones, _ = _at_one(operation, [np.zeros(shape, bool) for shape in shapes])
        outputs, pullback = jax.vjp(function, *ones)
        bars = iter(pullback([jnp.asarray(m, y.dtype) for m, y in zip(masks, outputs, strict=True)]))
        found = [
            np.asarray(next(bars)) != 0 if _is_number(operand.array) else np.zeros(shape, bool)
            for operand, shape in zip(operation.operands, shapes, strict=True)
        ]
        return [found[0], np.ones(shapes[1], bool)] if kind == CONVOLUTION else found
    return [np.ones(shape, bool) for shape in shapes]


def _to_shape(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask of an operand that is broadcast: a single number, or an array with axes of length 1."""
    if shape == mask.shape:
        return mask
    if shape == ():
        return np.asarray(mask.any())
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(mask.any(axis=axes, keepdims=True))


# Operations that move elements, as functions of NumPy arrays of any type

Movement: TypeAlias = Callable[[JaxprEqn, Sequence[np.ndarray]], np.ndarray]


def _broadcast(equation: JaxprEqn, arrays: Sequence[np.ndarray]) -> np.ndarray:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    expanded = np.ones(len(shape), int)
    expanded[list(axes)] = arrays[0].shape
    return np.broadcast_to(arrays[0].reshape(expanded), shape)


def _slice(equation: JaxprEqn, arrays: Sequence[np.ndarray]) -> np.ndarray:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    return arrays[0][tuple(slice(*part) for part in zip(starts, ends, strides, strict=True))]


def _to_shape_of_result(equation: JaxprEqn, arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0].reshape(array_type(equation.outvars[0]).shape)


MOVEMENTS: dict[str, Movement] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda equation, arrays: np.concatenate(arrays, axis=equation.params["dimension"]),
    "expand_dims": _to_shape_of_result,
    "reshape": _to_shape_of_result,
    "rev": lambda equation, arrays: np.flip(arrays[0], equation.params["dimensions"]),
    "slice": _slice,
    "stack": lambda equation, arrays: np.stack(arrays, axis=equation.params["axis"]),
    "squeeze": _to_shape_of_result,
    "transpose": lambda equation, arrays: arrays[0].transpose(equation.params["permutation"]),
}


def _read_by_movement(
    equation: JaxprEqn, movement: Movement, mask: Mask, shapes: Sequence[tuple[int, ...]]
) -> list[Mask]:
    """Moves the numbers of the elements, which shows where each element of the result comes from."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    ends = np.cumsum(sizes)
    numbers = [np.arange(end - size, end).reshape(s) for end, size, s in zip(ends, sizes, shapes, strict=True)]
    found = np.zeros(ends[-1], bool)
    found[movement(equation, numbers)[mask]] = True
    return [found[end - size : end].reshape(s) for end, size, s in zip(ends, sizes, shapes, strict=True)]


# Products: an element of the result reads one row of each operand


def _product_axes(equation: JaxprEqn, ranks: Sequence[int]) -> list[tuple[list[int], list[int], list[int]]]:
    """For each operand, the axes that are in the result, their places there, and the axes that are summed over."""
    contracted, batch = equation.params["dimension_numbers"]
    parts, used = [], len(batch[0])
    for summed, batch_axes, rank in zip(contracted, batch, ranks, strict=True):
        free = [axis for axis in range(rank) if axis not in (*summed, *batch_axes)]
        places = [*range(len(batch_axes)), *range(used, used + len(free))]
        parts.append(([*batch_axes, *free], places, list(summed)))
        used += len(free)
    return parts


def _affected_by_product(equation: JaxprEqn, masks: Sequence[Mask], shape: tuple[int, ...]) -> Mask:
    found = np.zeros(shape, bool)
    for mask, (kept, places, summed) in zip(masks, _product_axes(equation, [m.ndim for m in masks]), strict=True):
        # The index of a row has the batch and the free axes. A masked element affects every product with its row.
        rows = mask.transpose([*kept, *summed]).any(axis=tuple(range(len(kept), mask.ndim)))
        expanded = np.ones(len(shape), int)
        expanded[places] = rows.shape
        found |= rows.reshape(expanded)
    return found


def _read_by_product(equation: JaxprEqn, mask: Mask, shapes: Sequence[tuple[int, ...]]) -> list[Mask]:
    found = []
    for shape, (kept, places, summed) in zip(shapes, _product_axes(equation, [len(s) for s in shapes]), strict=True):
        # A row of an operand is read if any element of the result that it contributes to is masked.
        rows = mask.any(axis=tuple(axis for axis in range(mask.ndim) if axis not in places))
        order = [*kept, *summed]
        ordered = np.broadcast_to(rows.reshape([*rows.shape, *(1 for _ in summed)]), [shape[axis] for axis in order])
        found.append(ordered.transpose(np.argsort(order)))
    return found


# Operations whose derivatives show what they read


def _is_number(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _at_one(operation: Operation, masks: Sequence[Mask]) -> tuple[Callable[..., list[jax.Array]], tuple[Any, ...], Any]:
    """The operation as a function of its floating-point operands, ones as these operands, and the masks as tangents."""
    arrays = [operand.array for operand in operation.operands]

    def function(*numbers: jax.Array) -> list[jax.Array]:
        remaining = iter(numbers)
        return bind(operation.equation, [next(remaining) if _is_number(array) else array for array in arrays])

    pairs = [(array, mask) for array, mask in zip(arrays, masks, strict=True) if _is_number(array)]
    ones = tuple(jnp.ones_like(array) for array, _ in pairs)
    tangents = tuple(jnp.asarray(mask, array.dtype) for array, mask in pairs)
    return function, ones, tangents
