"""What is compared, in one form for all: a function and its pullback over lists of floating-point arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer

Leaves = list[Any]
Function = Callable[[Leaves], Leaves]


class Problem(NamedTuple):
    """A function with its hand-derived pullback.

    Args:
        names: of the arrays that the function is differentiated by.
        leaves: these arrays.
        function: ``function(leaves) -> outputs``, both lists of floating-point arrays.
        pullback: ``pullback(leaves, y_bars) -> bars``, a cotangent for each leaf from one for each output.
        residuals: ``residuals(leaves)``, what a layer's forward pass keeps, where the pullback has such halves.
        backward: ``backward(residuals, y_bars) -> bars``, the other half.
    """

    names: list[str]
    leaves: Leaves
    function: Callable[[Leaves], Leaves]
    pullback: Callable[[Leaves, Leaves], Leaves]
    residuals: Callable[[Leaves], Any] | None = None
    backward: Callable[[Any, Leaves], Leaves] | None = None


class Split(NamedTuple):
    """A pytree taken apart: its floating-point leaves, their paths, and ``join``, which puts others in their place."""

    names: list[str]
    leaves: Leaves
    join: Callable[..., Any]


def split(tree: Any, names: Sequence[str] = ()) -> Split:
    """The leaves that a derivative exists for.

    ``join(leaves)`` gives the tree with other leaves, ``join(leaves, None)`` with None in place of what has no
    derivative: integers, masks, keys. ``names`` are those of the tree's first level, where it is a tuple.

    >>> parts = split(({"weight": jnp.ones(2)}, jnp.arange(3)), ("params", "tokens"))
    >>> parts.names, parts.join([7.0], None)
    (['params/weight'], ({'weight': 7.0}, None))
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    everything = [leaf for _, leaf in paths]
    smooth = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in everything]

    def join(leaves: Leaves, others: Any = everything) -> Any:
        others = [None] * len(everything) if others is None else others
        chosen = iter(leaves)
        return jax.tree.unflatten(structure, [next(chosen) if s else o for s, o in zip(smooth, others, strict=True)])

    found = [_name(path, names) for (path, _), s in zip(paths, smooth, strict=True) if s]
    return Split(found, [leaf for leaf, s in zip(everything, smooth, strict=True) if s], join)


def _name(path: Any, names: Sequence[str]) -> str:
    first, *rest = path or [None]
    if first is not None and names:
        parts = [names[first.idx], *([jax.tree_util.keystr(tuple(rest), simple=True, separator="/")] if rest else [])]
        return "/".join(parts)
    return jax.tree_util.keystr(path, simple=True, separator="/")


def cast(tree: Any, dtype: Any) -> Any:
    """Floating-point leaves in another type, as NumPy arrays, so that float64 does not need JAX's permission."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, np.generic):
            return leaf  # a key
        array = np.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(convert, tree)


def function_problem(function: Callable[..., Any], hand_vjp: Callable[..., Any], arguments: Sequence[Any]) -> Problem:
    """``function(*arguments) -> y`` with ``hand_vjp(*arguments, y_bar) -> bars``, one for each argument."""
    parts = split(tuple(arguments), _argument_names(function, len(arguments)))

    def outputs(leaves: Leaves) -> Leaves:
        return split(function(*parts.join(leaves))).leaves

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        given = parts.join(leaves)
        y = split(jax.eval_shape(function, *given))
        bars = hand_vjp(*given, y.join(y_bars, None))
        if len(arguments) == 1 and not (type(bars) is tuple and len(bars) == 1):
            bars = (bars,)
        return bars_of(bars, parts)

    return Problem(parts.names, parts.leaves, outputs, pullback)


def bars_of(bars: Any, parts: Split) -> Leaves:
    """The leaves of a pytree of cotangents, checked against the pytree that they belong to."""
    expected, given = (jax.tree.structure(tree) for tree in (parts.join([0] * len(parts.leaves), None), bars))
    if expected != given:
        remedy = "Give a cotangent for each argument, in its structure; None for what has no derivative."
        raise InputError("hand_vjp", f"cotangents of structure {expected}", given, remedy)
    chosen = jax.tree.leaves(bars)
    for name, bar, leaf in zip(parts.names, chosen, parts.leaves, strict=True):
        if jnp.shape(bar) != jnp.shape(leaf):
            remedy = "A cotangent has the shape of what it belongs to: sum over axes that were broadcast."
            raise InputError(f"hand_vjp: {name}", f"a cotangent of shape {jnp.shape(leaf)}", jnp.shape(bar), remedy)
    return chosen


def layer_problem(
    layer: Layer, params: Any, state: Any, x: Any, *, train: bool, key: Any = None, dtype: Any = None
) -> Problem:
    """A layer's output by its parameters and its input. ``dtype`` converts these, and the state to at least float32."""
    if dtype is not None:
        params, x = cast((params, x), dtype)
        state = cast(state, np.float64 if dtype == "float64" else np.float32)
    parts = split((params, x), ("", "x"))
    names = [name.removeprefix("/") for name in parts.names]

    def outputs(leaves: Leaves) -> Leaves:
        params, x = parts.join(leaves)
        return split(layer.apply(params, state, x, train=train, key=key)[0]).leaves

    def forward(leaves: Leaves) -> tuple[Any, Any]:
        params, x = parts.join(leaves)
        y, _, residuals = layer.forward(params, state, x, train=train, key=key)
        return y, residuals

    shape, _ = jax.eval_shape(forward, parts.leaves)

    def backward(residuals: Any, y_bars: Leaves) -> Leaves:
        return bars_of(layer.backward(residuals, split(shape).join(y_bars, None)), parts)

    def pullback(leaves: Leaves, y_bars: Leaves) -> Leaves:
        return backward(forward(leaves)[1], y_bars)

    return Problem(names, parts.leaves, outputs, pullback, lambda leaves: forward(leaves)[1], backward)


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return names[:count] if len(names) >= count else [f"argument {number}" for number in range(count)]
