"""Rules for operations that move numbers without computing: simple ones by NumPy, the others by JAX.

Gathers, scatters, pads and similar operations run as JAX's own primitive, but on the positions of the elements instead
of their values. The result tells which element stands at each place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from functional_nn.core.errors import InputError
from functional_nn.gradients.multiprecision.elementwise import gives_floating, maximum, minimum
from functional_nn.gradients.multiprecision.numbers import Arithmetic
from functional_nn.gradients.multiprecision.rules import Rules, Values, together
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import array_type

RULES = Rules()


@RULES.of("reshape")
def _reshape(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return x.reshape(*array_type(equation.outvars[0]).shape, x.shape[-1])


@RULES.of("squeeze")
def _squeeze(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.squeeze(x, equation.params["dimensions"])


@RULES.of("transpose")
def _transpose(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.transpose(x, (*equation.params["permutation"], x.ndim - 1))


@RULES.of("broadcast_in_dim")
def _broadcast_in_dim(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    # x.shape has one more axis than ``kept``: the points, which zip leaves out.
    for axis, size in zip(kept, x.shape, strict=False):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(*aligned, x.shape[-1]), (*shape, x.shape[-1]))


@RULES.of("rev")
def _rev(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.flip(x, equation.params["dimensions"])


@RULES.of("slice")
def _slice(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    start, stop = equation.params["start_indices"], equation.params["limit_indices"]
    return x[tuple(map(slice, start, stop, equation.params["strides"] or [1] * len(start)))]


@RULES.of("concatenate")
def _concatenate(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> Values:
    return np.concatenate(together(*operands), equation.params["dimension"])


@RULES.of("split")
def _split(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> list[Values]:
    return np.split(x, np.cumsum(equation.params["sizes"])[:-1], equation.params["axis"])


@RULES.of("stack")
def _stack(arithmetic: Arithmetic, equation: JaxprEqn, *operands: Values) -> Values:
    return np.stack(together(*operands), equation.params["axis"])


@RULES.of("unstack")
def _unstack(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> list[Values]:
    return list(np.moveaxis(x, equation.params["axis"], 0))


@RULES.of("tile")
def _tile(arithmetic: Arithmetic, equation: JaxprEqn, x: Values) -> Values:
    return np.tile(x, (*equation.params["reps"], 1))


@RULES.of("pad")
def _pad(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, filling: Values) -> Values:
    return _moved(equation, [x, filling], [])


@RULES.of("dynamic_slice")
def _dynamic_slice(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, *starts: Values) -> Values:
    return _at_each_point(lambda starts, x: _moved(equation, [x], starts), starts, x)


@RULES.of("dynamic_update_slice")
def _dynamic_update_slice(
    arithmetic: Arithmetic, equation: JaxprEqn, x: Values, update: Values, *starts: Values
) -> Values:
    return _at_each_point(lambda starts, *moved: _moved(equation, moved, starts), starts, x, update)


@RULES.of("gather")
def _gather(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values) -> Values:
    filling = equation.params["fill_value"]
    if filling is None:
        filling = _default_filling(equation, x)
    outside = arithmetic.numbers(filling) if gives_floating(equation) else np.asarray(filling, x.dtype)
    outside = outside.reshape(1, 1)

    def gather(indices: Sequence[np.ndarray], x: Values) -> Values:
        # An index outside of x gets the position after the last element of x, where the element of ``outside`` is.
        return _moved(equation, [x, outside], indices, numbered=1, fill_value=x.size // x.shape[-1])

    return _at_each_point(gather, [indices], x)


def _default_filling(equation: JaxprEqn, x: Values) -> float:
    """The value that JAX's gather returns for an index outside of the array, if the equation gives no fill value."""
    if gives_floating(equation):
        return np.nan
    return 0 if x.dtype == bool else np.iinfo(x.dtype).min


@RULES.of("scatter")
def _scatter(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values, updates: Values) -> Values:
    if equation.params["update_jaxpr"] is not None and equation.params["update_jaxpr"].eqns:
        remedy = "difference_jacobian takes any function."
        raise InputError("function", "updates that replace elements", "a function of the elements", remedy)

    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        return _moved(equation, [x, updates], indices, between=True)

    return _at_each_point(scatter, [indices], x, updates)


@RULES.of("scatter-add", "scatter-sub", "scatter-mul", "scatter-max", "scatter-min")
def _scatter_combine(arithmetic: Arithmetic, equation: JaxprEqn, x: Values, indices: Values, updates: Values) -> Values:
    combine = {
        "scatter-add": np.add,
        "scatter-sub": np.subtract,
        "scatter-mul": np.multiply,
        "scatter-max": maximum,
        "scatter-min": minimum,
    }[equation.primitive.name]

    def scatter(indices: Sequence[np.ndarray], x: Values, updates: Values) -> Values:
        x, updates = together(x, updates)
        result = x.reshape(-1, x.shape[-1]).copy()
        targets = _targets(equation, x.shape[:-1], indices[0], updates.shape[:-1]).reshape(-1)
        # One update after the other, because several may change the same element.
        for target, update in zip(targets, updates.reshape(-1, x.shape[-1]), strict=True):
            if target >= 0:
                result[target] = combine(result[target], update)
        return result.reshape(x.shape)

    return _at_each_point(scatter, [indices], x, updates)


def _targets(equation: JaxprEqn, shape: Sequence[int], indices: np.ndarray, updates: Sequence[int]) -> np.ndarray:
    """Finds the flat position that a scatter writes each update to; -1 for an update that is not written.

    A gather with the same indices reads the elements that the scatter changes. Here it reads their positions.
    """
    numbers = equation.params["dimension_numbers"]
    # The updates lack some axes of the array: there one element is read. On all other axes, the size of the updates is
    # the number of elements that are read.
    single = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = iter(numbers.update_window_dims)
    sizes = [1 if axis in single else updates[next(window)] for axis in range(len(shape))]
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
    equation: JaxprEqn,
    arrays: Sequence[Values],
    indices: Sequence[np.ndarray],
    *,
    numbered: int | None = None,
    between: bool = False,
    **changed: object,
) -> Values:
    """Moves the elements of arrays as the equation does.

    Args:
        equation: the operation.
        arrays: the arrays whose elements may be in the result.
        indices: further operands, which are passed on unchanged.
        numbered: the number of arrays that are operands; by default all of them. The other arrays are not operands: a
            parameter in ``changed`` refers to their elements by position.
        between: whether the indices come directly after the first operand; otherwise they come last.
        changed: parameters that replace those of the equation.
    """
    # All arrays are joined into one flat array. A position is an index into it.
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
    # JAX moves the positions, and NumPy takes the elements at the moved positions, for all points at once.
    return flat[np.asarray(bind(equation, operands, **changed)[0])]


def _at_each_point(move: Callable[..., Values], indices: Sequence[np.ndarray], *arrays: Values) -> Values:
    """Calls ``move(indices, *arrays)`` once if the indices are equal at all points; otherwise once for each point."""
    indices = together(*indices)
    if all(np.all(index == index[..., :1]) for index in indices):
        return move([index[..., 0] for index in indices], *arrays)
    # Every point gets an array of its own, also of the arrays that are the same at all points.
    *varying, first = together(*arrays, indices[0])
    points = first.shape[-1]
    return np.concatenate(
        [
            move([index[..., at] for index in indices], *(array[..., at : at + 1] for array in varying))
            for at in range(points)
        ],
        -1,
    )
