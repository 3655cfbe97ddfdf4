"""The common form of all comparisons: a function and its pullback, on lists of floating-point arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.argument_names import argument_names, path_name
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, Residuals, State, backward_of
from functional_nn.core.trees import PyTree

Array: TypeAlias = jax.Array | np.ndarray
Leaves: TypeAlias = Sequence[Array]
"""The floating-point arrays of a pytree, in order."""
Function: TypeAlias = Callable[[Leaves], Leaves]
Pullback: TypeAlias = Callable[[Leaves, Leaves], Leaves]


class Problem(NamedTuple):
    """A function with its hand-derived pullback.

    Args:
        names: the names of the arrays with respect to which the function is differentiated.
        leaves: these arrays.
        function: ``function(leaves) -> outputs``, both lists of floating-point arrays.
        pullback: ``pullback(leaves, y_bars) -> bars``: it takes a cotangent of each output, and returns one of each
            leaf.
        residuals: ``residuals(leaves)``, what a layer's forward pass keeps for its backward pass; None for a function.
        backward: ``backward(residuals, y_bars) -> bars``, the layer's backward pass; None for a function.
    """

    names: list[str]
    leaves: Leaves
    function: Function
    pullback: Pullback
    residuals: Callable[[Leaves], Residuals] | None = None
    backward: Callable[[Residuals, Leaves], Leaves] | None = None


class DifferentiableLeaves(NamedTuple):
    """The floating-point leaves of a pytree with their paths, and the function that puts leaves back into the tree.

    Args:
        names: the paths of the leaves.
        leaves: the floating-point arrays.
        join: ``join(leaves)`` returns the tree with other floating-point leaves. ``join(leaves, None)`` also replaces
            everything without a derivative (integers, masks, keys) by None.
    """

    names: list[str]
    leaves: list[Array]
    join: Callable[..., PyTree]


def differentiable_leaves(tree: PyTree, names: Sequence[str] = ()) -> DifferentiableLeaves:
    """Takes the leaves of a pytree that have a derivative.

    Args:
        tree: the pytree.
        names: names for the first level, if the tree is a tuple.

    >>> parts = differentiable_leaves(({"weight": jnp.ones(2)}, jnp.arange(3)), ("params", "tokens"))
    >>> parts.names, parts.join([7.0], None)
    (['params/weight'], ({'weight': 7.0}, None))
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    all_leaves = [leaf for _, leaf in paths_and_leaves]
    is_floating = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in all_leaves]

    def join(leaves: Leaves, others: Sequence[PyTree] | None = all_leaves) -> PyTree:
        others = [None] * len(all_leaves) if others is None else others
        remaining = iter(leaves)
        joined = [next(remaining) if floats else other for floats, other in zip(is_floating, others, strict=True)]
        return jax.tree.unflatten(structure, joined)

    chosen = [pair for pair, floats in zip(paths_and_leaves, is_floating, strict=True) if floats]
    return DifferentiableLeaves([path_name(path, names) for path, _ in chosen], [leaf for _, leaf in chosen], join)


def cast(tree: PyTree, dtype: str | np.dtype | type[np.generic]) -> PyTree:
    """Converts floating-point leaves to another type. They become NumPy arrays: float64 then works without x64 mode."""

    def convert(leaf: Array) -> Array:
        is_key = isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, np.generic)
        if is_key:
            return leaf
        array = np.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(convert, tree)


def function_problem(
    function: Callable[..., PyTree], hand_vjp: Callable[..., PyTree], arguments: Sequence[PyTree]
) -> Problem:
    """Makes the problem of ``function(*arguments) -> y`` and ``hand_vjp(*arguments, y_bar) -> bars``."""
    inputs = differentiable_leaves(tuple(arguments), argument_names(function, len(arguments)))

    def outputs(leaves: Leaves) -> Leaves:
        return differentiable_leaves(function(*inputs.join(leaves))).leaves

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        joined = inputs.join(leaves)
        y = differentiable_leaves(jax.eval_shape(function, *joined))
        bars = hand_vjp(*joined, y.join(y_bars, None))
        # For a single argument, the pullback may return the cotangent itself instead of a tuple.
        if len(arguments) == 1 and not (type(bars) is tuple and len(bars) == 1):
            bars = (bars,)
        return bars_of(bars, inputs)

    return Problem(inputs.names, inputs.leaves, outputs, pullback)


def bars_of(bars: PyTree, inputs: DifferentiableLeaves) -> Leaves:
    """Returns the leaves of a pytree of cotangents, and checks that it has the inputs' structure and shapes."""
    expected = jax.tree.structure(inputs.join([0] * len(inputs.leaves), None))
    given = jax.tree.structure(bars)
    if expected != given:
        remedy = "Give a cotangent for each argument, in its structure; None for what has no derivative."
        raise InputError("hand_vjp", f"cotangents of structure {expected}", given, remedy)
    leaves = jax.tree.leaves(bars)
    for name, bar, leaf in zip(inputs.names, leaves, inputs.leaves, strict=True):
        if jnp.shape(bar) != jnp.shape(leaf):
            remedy = "A cotangent has the shape of what it belongs to: sum over axes that were broadcast."
            raise InputError(f"hand_vjp: {name}", f"a cotangent of shape {jnp.shape(leaf)}", jnp.shape(bar), remedy)
    return leaves


def layer_problem(
    layer: Layer,
    params: Params,
    state: State,
    x: PyTree,
    *,
    train: bool,
    key: jax.Array | None = None,
    dtype: str | None = None,
) -> Problem:
    """Makes the problem of a layer: its output as a function of its parameters and its input.

    Args:
        layer: the layer.
        params: its parameters.
        state: its state.
        x: its input.
        train: whether the layer runs in training mode.
        key: for layers that draw random numbers.
        dtype: the type that the parameters and the input are converted to. The state gets at least float32.
    """
    if dtype is not None:
        params, x = cast((params, x), dtype)
        state = cast(state, np.float64 if dtype == "float64" else np.float32)
    inputs = differentiable_leaves((params, x), ("", "x"))
    names = [name.removeprefix("/") for name in inputs.names]

    def outputs(leaves: Leaves) -> Leaves:
        params, x = inputs.join(leaves)
        return differentiable_leaves(layer.apply(params, state, x, train=train, key=key)[0]).leaves

    def forward(leaves: Leaves) -> tuple[PyTree, Residuals]:
        params, x = inputs.join(leaves)
        y, _, residuals = layer.forward(params, state, x, train=train, key=key)
        return y, residuals

    y_shape, _ = jax.eval_shape(forward, inputs.leaves)

    def residuals(leaves: Leaves) -> Residuals:
        return forward(leaves)[1]

    def backward(residuals: Residuals, y_bars: Leaves) -> Leaves:
        return bars_of(backward_of(layer)(residuals, differentiable_leaves(y_shape).join(y_bars, None)), inputs)

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        return backward(residuals(leaves), y_bars)

    return Problem(names, inputs.leaves, outputs, pullback, residuals, backward)
