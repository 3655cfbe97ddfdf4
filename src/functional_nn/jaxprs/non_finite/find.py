"""The function ``find_non_finite_in``: the origin of a NaN or an infinite number in the result of a function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from functional_nn.core.errors import InputError
from functional_nn.core.functions import argument_names, path_name
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_function, in_native_order, shown
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.non_finite.causes import (
    Cause,
    cause_in_derivative,
    cause_of_argument,
    cause_of_constant,
    cause_of_infinity,
    hidden,
    overflow,
    singularity,
)
from functional_nn.jaxprs.non_finite.origin import (
    BadArgument,
    Origin,
    Trail,
    first_index,
    first_origin,
    is_hidden,
    is_in_backward_pass,
    numbers_read,
    trace_back,
)
from functional_nn.jaxprs.non_finite.recording import Operation, Recorder, Tracked
from functional_nn.jaxprs.non_finite.report import NonFinite, OperandValues
from functional_nn.jaxprs.walk import equations, fresh, layer_of

LARGE = 1e4
"""If a result overflows, the report names an argument with larger numbers than this."""

QUICK_OPERATIONS, QUICK_RUNS, QUICK_NUMBERS = 600, 50_000, 5 * 10**7
"""The largest program for a quick search: its operations, how often they run, and how many numbers they compute.
Such a search takes at most about ten seconds and 1 GB."""


class TooLong(Exception):
    """A program is too large for an automatic search."""


def find_non_finite_in(function: Callable[..., PyTree], *arguments: PyTree) -> NonFinite:
    """Finds the operation that first made a NaN or an infinite number in the result of a function.

    The function is traced and then computed operation by operation, also inside ``jit``, loops and branches. The search
    starts at the non-finite elements of the results and goes back through non-finite elements. It ends at an argument,
    or at operations whose operands are finite. The first of these operations is the origin. So harmless infinite
    numbers, such as those of a mask, are not reported.

    To search in a gradient, give the function that computes it: ``find_non_finite_in(jax.grad(loss), params)``.

    Args:
        function: ``function(*arguments)`` returns a pytree of arrays. It may be made by ``jax.jit``, ``jax.vmap``,
            ``jax.grad`` and so on.
        arguments: the arguments for which its result is not finite, pytrees of arrays.

    Raises:
        InputError: if an argument is not a pytree of arrays, or is traced.

    >>> def loss(w):
    ...     return jnp.log(w - 2).sum()
    >>> found = find_non_finite_in(loss, jnp.array([3.0, 2.0]))
    >>> found.operation, found.index, found.cause
    ('log', (1,), 'The logarithm of 0 is -inf.')
    >>> print(find_non_finite_in(loss, jnp.array([3.0, 4.0])))
    All results are finite.
    """
    check_function("function", function, "a function of the arguments")
    return find_origin(function, arguments, argument_names(function, len(arguments)))


def find_origin(
    function: Callable[..., PyTree],
    arguments: Sequence[PyTree],
    names: Sequence[str],
    *,
    only_if_quick: bool = False,
) -> NonFinite:
    """Does the search of ``find_non_finite_in`` with given names of the arguments.

    If the function returns a dict, its keys name the results. With ``only_if_quick``, ``TooLong`` is raised for a large
    program.
    """
    arguments = jax.tree.map(in_native_order, tuple(arguments))
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(arguments)
    paths = [path_name(path, names) for path, _ in paths_and_leaves]
    leaves = [_checked_leaf(path, leaf) for path, (_, leaf) in zip(paths, paths_and_leaves, strict=True)]
    # With jax_debug_nans, JAX would raise an error before the search can see anything.
    with jax.debug_nans(False), jax.debug_infs(False):
        program, results_tree = jax.make_jaxpr(fresh(function), return_shape=True)(*arguments)
        if only_if_quick and not _is_quick(program):
            raise TooLong
        recorder = Recorder()
        results = recorder.run(program, leaves)
        named = results_tree if isinstance(results_tree, dict) else {"result": results_tree}
        result_paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(named)]
        pairs = zip(result_paths, results, strict=True)
        affected = tuple(path for path, result in pairs if result.not_finite is not None)
        if not affected:
            return NonFinite()
        trail = trace_back(results, recorder.operations)
        origin = first_origin(trail.origins)
        if trail.arguments:
            return _argument_report(affected, trail.arguments[0], origin, trail, paths, leaves)
        if origin is None:
            return _constant_report(affected, results)
        note = _note_on_large_arguments(origin, paths, leaves)
        return _operation_report(affected, origin, trail, _derivatives_at(origin.operation, recorder), note)


def _is_quick(program: ClosedJaxpr) -> bool:
    located = list(equations(program))
    numbers = sum(
        there.repeats * sum(array_type(variable).size for variable in there.equation.outvars) for there in located
    )
    runs = sum(there.repeats for there in located)
    return len(located) <= QUICK_OPERATIONS and runs <= QUICK_RUNS and numbers <= QUICK_NUMBERS


def _checked_leaf(path: str, leaf: object) -> jax.Array:
    if isinstance(leaf, Tracer):
        remedy = "Call it outside of jax.jit and other transforms, with the function that they transform."
        raise InputError(path, "an array with known numbers", shown(leaf), remedy)
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError):
        remedy = "Give the function arguments that are arrays, and let it close over everything else."
        raise InputError(path, "an array of numbers", shown(leaf), remedy) from None


def _argument_report(
    affected: tuple[str, ...],
    argument: BadArgument,
    origin: Origin | None,
    trail: Trail,
    paths: Sequence[str],
    leaves: Sequence[jax.Array],
) -> NonFinite:
    """The report on an argument that is not finite."""
    path, array = paths[argument.number], leaves[argument.number]
    index = first_index(argument.elements)
    value = np.asarray(array)[index].item()
    cause = cause_of_argument(path)
    note = ""
    if np.isinf(value) and origin is not None:
        made = _operation_report(affected, origin, trail)
        note = f"From it, NaN was made by {made.operation_in_words}: {made.equation_in_words}."
    return NonFinite(
        affected,
        argument=path,
        index=index,
        value=value,
        dtype=str(array.dtype),
        shape=array.shape,
        count=int(np.sum(~np.isfinite(np.asarray(array)))),
        cause=cause.cause,
        remedy=cause.remedy,
        note=note,
    )


def _constant_report(affected: tuple[str, ...], results: Sequence[Tracked]) -> NonFinite:
    """The report on a result that is a constant, which no operation reads."""
    result = next(result for result in results if result.not_finite is not None)
    assert result.not_finite is not None
    index = first_index(result.not_finite)
    value = np.asarray(result.array)[index].item()
    cause = cause_of_constant(value)
    return NonFinite(
        affected,
        operation="a constant of the function",
        index=index,
        value=value,
        dtype=str(result.array.dtype),
        shape=result.array.shape,
        count=int(np.sum(result.not_finite)),
        cause=cause.cause,
        remedy=cause.remedy,
    )


def _operation_report(
    affected: tuple[str, ...],
    origin: Origin,
    trail: Trail,
    derivative_of: Collection[str] = (),
    note: str = "",
) -> NonFinite:
    """The report on an operation."""
    operation = origin.operation
    result = operation.results[origin.result]
    layer, _ = layer_of(operation.scope)
    numbers = numbers_read(origin)
    cause = _cause(origin, trail, derivative_of, numbers)
    place = operation.place
    users_place = operation.users_place if place and place.is_installed else None
    return NonFinite(
        affected,
        operation=operation.kind,
        layer=layer,
        stage="backward pass" if is_in_backward_pass(operation) else "forward pass",
        derivative_of=tuple(sorted(derivative_of)),
        place=str(place or ""),
        code=place.code if place else "",
        called_from=str(users_place or ""),
        inside=operation.jax_function,
        steps=operation.steps,
        index=origin.element,
        value=origin.value,
        dtype=str(result.array.dtype),
        shape=result.array.shape,
        count=int(np.sum(~np.isfinite(np.asarray(result.array)))),
        operands=_operand_values(operation, numbers),
        cause=cause.cause,
        remedy=cause.remedy,
        note=note,
    )


def _operand_values(operation: Operation, numbers: Sequence[np.ndarray]) -> tuple[OperandValues, ...]:
    found = [
        OperandValues(str(operand.array.dtype), operand.array.shape, float(read.min()), float(read.max()))
        for operand, read in zip(operation.operands, numbers, strict=True)
        if read.size
    ]
    if operation.kind == "integer_pow":
        exponent = operation.equation.params["y"]
        found.append(OperandValues("int32", (), exponent, exponent))
    return tuple(found)


def _cause(origin: Origin, trail: Trail, derivative_of: Collection[str], numbers: Sequence[np.ndarray]) -> Cause:
    kind = origin.operation.kind
    if origin.kind == "made of infinity":
        is_from_constants = all(other.kind != "made" for other in trail.origins)
        return cause_of_infinity(kind, numbers, is_from_constants=is_from_constants)
    if origin.kind != "made":
        return cause_of_constant(origin.value)
    cause = singularity(kind, numbers, origin.value)
    is_singular = cause is not None
    # If the operation is defined and finite at these numbers, its result was too large for the type.
    if cause is None:
        cause = overflow(kind, origin.operation.results[origin.result].array.dtype)
    if derivative_of and is_singular:
        return cause_in_derivative(sorted(derivative_of), is_hidden=is_hidden(origin, trail))
    if not is_in_backward_pass(origin.operation) and is_hidden(origin, trail):
        return hidden(kind, cause)
    return cause


def _derivatives_at(operation: Operation, recorder: Recorder) -> set[str]:
    """For an operation of the backward pass, the operations at its source line that may have infinite derivatives."""
    if not is_in_backward_pass(operation):
        return set()
    names = {name for (name, _), place in recorder.steep_places() if place == operation.place}
    # JAX computes factors such as 1/(2·√x) by divisions and powers in the forward pass, so these count last.
    return names - {"div", "integer_pow", operation.kind} or names & {"div"} or names


def _note_on_large_arguments(origin: Origin, paths: Sequence[str], leaves: Sequence[jax.Array]) -> str:
    """A sentence about the argument with the largest numbers, if a result overflowed and they are very large."""
    if origin.kind != "made" or singularity(origin.operation.kind, numbers_read(origin), origin.value) is not None:
        return ""
    sizes = {
        path: _largest(leaf)
        for path, leaf in zip(paths, leaves, strict=True)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    path = max(sizes, key=lambda path: sizes[path], default="")
    if not path or sizes[path] < LARGE:
        return ""
    sentence = f"The numbers in {path} are as large as {sizes[path]:.1e}."
    if path.startswith("params"):
        sentence += " Parameters grow so large if training diverges: use a smaller learning rate."
    return sentence


def _largest(array: jax.Array) -> float:
    """The largest absolute value of the finite elements; 0 if there are none."""
    sizes = np.abs(np.asarray(array).astype(np.float64))
    return float(np.max(sizes, initial=0, where=np.isfinite(sizes)))
