"""Rules for what moves numbers without computing: the simple ones by NumPy, the others by letting JAX move numbers.

The latter (gather, scatter, pad…) bind the very primitive to arrays that hold the elements' positions in place of
their values; what comes back says which element goes where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.gradients.multiprecision.elementwise import is_floating, maximum, minimum
from functional_nn.gradients.multiprecision.rules import Rules, Values, together

MOVING = Rules()


@MOVING.of("reshape")
def _reshape(arithmetic, equation, x):
    return x.reshape(*equation.outvars[0].aval.shape, x.shape[-1])


@MOVING.of("squeeze")
def _squeeze(arithmetic, equation, x):
    return np.squeeze(x, equation.params["dimensions"])


@MOVING.of("transpose")
def _transpose(arithmetic, equation, x):
    return np.transpose(x, (*equation.params["permutation"], x.ndim - 1))


@MOVING.of("broadcast_in_dim")
def _broadcast_in_dim(arithmetic, equation, x):
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    for axis, size in zip(kept, x.shape, strict=False):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(*aligned, x.shape[-1]), (*shape, x.shape[-1]))


@MOVING.of("rev")
def _rev(arithmetic, equation, x):
    return np.flip(x, equation.params["dimensions"])


@MOVING.of("slice")
def _slice(arithmetic, equation, x):
    start, stop = equation.params["start_indices"], equation.params["limit_indices"]
    return x[tuple(map(slice, start, stop, equation.params["strides"] or [1] * len(start)))]


@MOVING.of("concatenate")
def _concatenate(arithmetic, equation, *operands):
    return np.concatenate(together(*operands), equation.params["dimension"])


@MOVING.of("split")
def _split(arithmetic, equation, x):
    return np.split(x, np.cumsum(equation.params["sizes"])[:-1], equation.params["axis"])


@MOVING.of("stack")
def _stack(arithmetic, equation, *operands):
    return np.stack(together(*operands), equation.params["axis"])


@MOVING.of("unstack")
def _unstack(arithmetic, equation, x):
    return list(np.moveaxis(x, equation.params["axis"], 0))


@MOVING.of("tile")
def _tile(arithmetic, equation, x):
    return np.tile(x, (*equation.params["reps"], 1))


@MOVING.of("pad")
def _pad(arithmetic, equation, x, filling):
    return _moved(equation, [x, filling], [])


@MOVING.of("dynamic_slice")
def _dynamic_slice(arithmetic, equation, x, *starts):
    return _at_each_point(lambda starts, x: _moved(equation, [x], starts), starts, x)


@MOVING.of("dynamic_update_slice")
def _dynamic_update_slice(arithmetic, equation, x, update, *starts):
    return _at_each_point(lambda starts, *moved: _moved(equation, moved, starts), starts, x, update)


@MOVING.of("gather")
def _gather(arithmetic, equation, x, indices):
    filling = equation.params["fill_value"]
    if filling is None:
        floating = is_floating(equation.outvars[0].aval)
        filling = np.nan if floating else 0 if x.dtype == bool else np.iinfo(x.dtype).min
    outside = arithmetic.numbers(filling) if is_floating(equation.outvars[0].aval) else np.asarray(filling, x.dtype)
    outside = outside.reshape(1, 1)

    def gather(indices: Sequence[np.ndarray], x: Values) -> Values:
        return _moved(equation, [x, outside], indices, numbered=1, fill_value=x.size // x.shape[-1])

    return _at_each_point(gather, [indices], x)


@MOVING.of("scatter")
def _scatter(arithmetic, equation, x, indices, updates):
    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        return _moved(equation, [x, updates], indices, between=True)

    return _at_each_point(scatter, [indices], x, updates)


@MOVING.of("scatter-add", "scatter-sub", "scatter-mul", "scatter-max", "scatter-min")
def _scatter_combine(arithmetic, equation, x, indices, updates):
    combine = {
        **{"scatter-add": np.add, "scatter-sub": np.subtract, "scatter-mul": np.multiply},
        "scatter-max": lambda a, b: maximum(arithmetic, a, b),
        "scatter-min": lambda a, b: minimum(arithmetic, a, b),
    }[equation.primitive.name]

    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        x, updates = together(x, updates)
        result = x.reshape(-1, x.shape[-1]).copy()
        targets = _targets(equation, x.shape[:-1], indices[0], updates.shape[:-1]).reshape(-1)
        for target, update in zip(targets, updates.reshape(-1, x.shape[-1]), strict=True):
            if target >= 0:
                result[target] = combine(result[target], update)
        return result.reshape(x.shape)

    return _at_each_point(scatter, [indices], x, updates)


def _targets(equation: Any, shape: Sequence[int], indices: np.ndarray, updates: Sequence[int]) -> np.ndarray:
    """Where each update goes: the gather that takes the elements which the scatter would change; -1 is nowhere."""
    numbers = equation.params["dimension_numbers"]
    alone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = iter(numbers.update_window_dims)
    sizes = [1 if axis in alone else updates[next(window)] for axis in range(len(shape))]
    taken = lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )
    places = jnp.arange(int(np.prod(shape)), dtype=jnp.int32).reshape(shape)
    mode = equation.params["mode"]
    return np.asarray(lax.gather(places, jnp.asarray(indices), taken, sizes, mode=mode, fill_value=-1))


def _moved(
    equation: Any,
    arrays: Sequence[Values],
    indices: Sequence[np.ndarray],
    *,
    numbered: int | None = None,
    between: bool = False,
    **changed: Any,
) -> Values:
    """Binds the equation's primitive to positions in all arrays, laid end to end; then takes what lies there.

    Args:
        numbered: how many of the arrays are operands, the others being only what a changed parameter names.
        between: whether the indices stand after the first operand.
    """
    arrays = together(*arrays)
    flat = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    positions, start = [], 0
    for array in arrays[:numbered]:
        shape = array.shape[:-1]
        size = int(np.prod(shape))
        positions.append(jnp.arange(start, start + size, dtype=jnp.int32).reshape(shape))
        start += size
    given = [jnp.asarray(index) for index in indices]
    operands = [positions[0], *given, *positions[1:]] if between else [*positions, *given]
    return flat[np.asarray(equation.primitive.bind(*operands, **(equation.params | changed)))]


def _at_each_point(move: Callable[..., Values], indices: Sequence[np.ndarray], *arrays: Values) -> Values:
    """``move(indices, *arrays)``, at once where the indices agree at all points, else point by point."""
    indices = together(*indices)
    if all(np.all(index == index[..., :1]) for index in indices):
        return move([index[..., 0] for index in indices], *arrays)
    *varying, first = together(*arrays, indices[0])
    points = first.shape[-1]
    return np.concatenate(
        [
            move([index[..., at] for index in indices], *(array[..., at : at + 1] for array in varying))
            for at in range(points)
        ],
        -1,
    )
