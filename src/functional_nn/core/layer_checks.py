"""Checks of layers' arguments: parameters, state, shapes, types and random keys."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functional_nn.core.errors import InputError
from functional_nn.core.shapes import Shape, is_shape, shape_error
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array, is_numeric, shown

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

EXAMPLES = "functional_nn:examples"
"""The name of the mapped axis over examples that are computed one by one; see ``check_batch_is_whole``."""


def without_input_size(*names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator for a layer's constructor with these positional arguments. It explains a call with an input size.

    >>> import functional_nn as fnn
    >>> fnn.dense(784, 10)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: dense: expected out_size alone, got 784, 10. The input size is not given: ...
    >>> fnn.batch_norm(128)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: batch_norm: expected only named arguments, got 128. The input ...
    """

    def decorate(constructor: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(constructor)
        def checked(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            if len(arguments) > len(names):
                name = constructor.__name__
                expected = " and ".join(names) or "only named arguments"
                if len(names) == 1:
                    expected = f"{expected} alone"
                call = f"{name}({', '.join(map(shown, arguments[len(arguments) - len(names) :]))})"
                remedy = f"The input size is not given: init takes it from in_shape. Write {call}."
                raise InputError(name, expected, ", ".join(map(shown, arguments)), remedy)
            return constructor(*arguments, **options)

        return checked

    return decorate


def check_trees(params: object, state: object) -> None:
    """Requires nested dicts of arrays."""
    for argument, tree in (("params", params), ("state", state)):
        if not isinstance(tree, Mapping):
            raise InputError(argument, "a dict, as init gave it", shown(tree))
        for leaf in jax.tree.leaves(tree):
            if not is_array(leaf) or not is_numeric(leaf):
                raise InputError(argument, "a nested dict of arrays", f"one with {shown(leaf)}")


def is_concrete(*values: object) -> bool:
    """Whether no value is traced: under ``jit``, ``grad`` or ``vmap`` values are not known."""
    return not any(isinstance(value, Tracer) for value in values)


def check_entries(argument: str, tree: Mapping[str, PyTree], names: Sequence[str]) -> None:
    """Requires these entries in parameters or state; those of another layer lack them."""
    if not isinstance(tree, Mapping) or any(name not in tree for name in names):
        entries = ", ".join(map(str, tree)) if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        remedy = "Use what this network's own init gave."
        raise InputError(argument, f"entries {', '.join(names)}", entries or "nothing", remedy)
    for name in names:
        if tree[name] is None:
            raise InputError(f"{argument}/{name}", "an array, or a dict of arrays", "None")


def check_entry_shapes(argument: str, tree: Mapping[str, PyTree], shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Requires entries of these shapes. A name stands for a size that depends on the input, such as ``"in_size"``.

    >>> check_entry_shapes("params", {"weight": jnp.ones((3, 2))}, {"weight": ("in_size", 5)})
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: params/weight: expected shape (in_size, 5), got shape (3, 2). Use what ...
    """
    check_entries(argument, tree, tuple(shapes))
    for name, shape in shapes.items():
        given = tree[name].shape if is_array(tree[name]) else None
        sizes = () if given is None else given
        fits = all(isinstance(size, str) or size == own for size, own in zip(shape, sizes, strict=False))
        if given is None or len(given) != len(shape) or not fits:
            expected = f"shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
            remedy = "Use what this network's own init gave."
            shown_entry = shown(tree[name]) if given is None else f"shape {given}"
            raise InputError(f"{argument}/{name}", expected, shown_entry, remedy)


def check_shape(in_shape: Shape, axes: str, remedy: str = "") -> Shape:
    """Requires the shape of an example with these axes, such as ``(…, in_size)``; gives it as a tuple.

    >>> check_shape((5,), "(time, in_size)")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: in_shape: expected (time, in_size), got (5,). It leaves out the batch ...
    """
    if not is_shape(in_shape) or not in_shape or min(in_shape) < 1 or not _has_axes(in_shape, axes):
        raise shape_error(in_shape, axes, remedy)
    return tuple(in_shape)


def check_input(x: jax.Array, axes: str, features: int | None = None, *, remedy: str = "", argument: str = "x") -> None:
    """Requires floating-point numbers with these axes, and with this many features on the last one.

    Args:
        x: the input.
        axes: such as ``(batch, …, in_size)``, where "…" stands for any number of axes.
        features: the size of the last axis, which the parameters have.
        remedy: what to do about another number of axes.
        argument: the name of the input.

    >>> check_input(jnp.ones((7, 2)), "(batch, …, in_size)", 3)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: x: expected 3 features on the last axis, got 2 (shape (7, 2)). Call init ...
    """
    check_floating(x, argument)
    if not _has_axes(x.shape, axes):
        raise InputError(argument, axes, f"shape {x.shape}", "Add a batch axis: x[None]." if x.ndim < 2 else remedy)
    if features is not None and x.shape[-1] != features:
        kind = "channels" if axes.endswith("channels)") else "features"
        is_flat = kind == "features" and "…" in axes
        flatten = " If x are images, put flatten() before this layer." if is_flat and x.ndim > 2 else ""
        given = f"{x.shape[-1]} (shape {x.shape})"
        raise InputError(
            argument, f"{features} {kind} on the last axis", given, f"Call init with this in_shape.{flatten}"
        )


def _has_axes(shape: Sequence[int], axes: str) -> bool:
    """Whether a shape has these axes, where "…" stands for any number of them.

    >>> [_has_axes(shape, "(batch, …, in_size)") for shape in ((7,), (7, 3), (7, 5, 3))]
    [False, True, True]
    """
    names = axes.strip("(,)").split(", ")
    return len(shape) >= len(names) - 1 if "…" in names else len(shape) == len(names)


def check_one_array(x: jax.Array, argument: str = "x") -> None:
    """Requires one array, for layers that take a single input."""
    if not is_array(x):
        raise InputError(argument, "one array", f"{len(x)} inputs" if isinstance(x, tuple) else shown(x))


def check_floating(x: jax.Array, argument: str = "x") -> None:
    """Requires one array of floating-point numbers. Images as uint8 would be used as values up to 255."""
    check_one_array(x, argument)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        remedy = "Convert images by functional_nn.data.scaled_bytes(x); put embedding() before it if x are tokens."
        raise InputError(argument, "floating-point numbers", f"{x.dtype} of shape {x.shape}", remedy)


def check_key(key: object) -> jax.Array:
    """Requires a PRNG key. JAX's old keys, arrays of integers, are accepted too."""
    remedy = "Pass key=jax.random.key(seed)."
    if key is None:
        raise InputError("key", "a key, since random numbers are drawn here", None, remedy)
    if is_array(key):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return key
        # How many integers an old key has depends on JAX's default generator.
        if key.dtype == jnp.uint32 and key.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape:
            return key
    raise InputError("key", "one key", shown(key), remedy)


def check_batch_is_whole() -> None:
    """Requires a whole batch, for layers whose output for one example depends on the others."""
    # If no such axis is mapped around this call, JAX raises a NameError.
    try:
        jax.lax.axis_index(EXAMPLES)
    except NameError:
        return
    remedy = "Use a layer that treats examples alone (layer_norm, group_norm), or train=False."
    raise InputError("x", "a whole batch, since this layer couples its examples", "single examples", remedy)
