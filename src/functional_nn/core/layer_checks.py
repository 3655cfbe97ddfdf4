"""Checks of what layers are given: parameters, state, shapes, types and random keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functional_nn.core.errors import InputError
from functional_nn.core.shapes import Shape, is_shape
from functional_nn.core.validation import is_array, is_numeric, shown

EXAMPLES = "functional_nn:examples"
"""The mapped axis under which every example is alone; see ``check_batch_is_whole``."""


def check_trees(params: Any, state: Any) -> None:
    """Refuses what are no nested dicts of arrays."""
    for argument, tree in (("params", params), ("state", state)):
        if not isinstance(tree, Mapping):
            raise InputError(argument, "a dict, as init gave it", shown(tree))
        for leaf in jax.tree.leaves(tree):
            if not is_array(leaf) or not is_numeric(leaf):
                raise InputError(argument, "a nested dict of arrays", f"one with {shown(leaf)}")


def is_concrete(*values: Any) -> bool:
    """Whether values can be looked at now: under ``jit``, ``grad`` or ``vmap`` they cannot."""
    return not any(isinstance(value, Tracer) for value in values)


def check_entries(argument: str, tree: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses parameters or state of another layer."""
    if not isinstance(tree, Mapping) or any(name not in tree for name in names):
        given = ", ".join(map(str, tree)) or "nothing" if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise InputError(argument, f"entries {', '.join(names)}", given, "Use what this network's own init gave.")
    for name in names:
        if tree[name] is None:
            raise InputError(f"{argument}/{name}", "an array, or a dict of arrays", "None")


def check_shape(in_shape: Shape, expected: str) -> Shape:
    """Refuses what is no shape of at least one axis."""
    if not is_shape(in_shape) or not in_shape or min(in_shape) < 1:
        raise InputError("in_shape", expected, repr(in_shape), "It leaves out the batch axis: (784,) or (28, 28, 1).")
    return tuple(in_shape)


def check_floating(x: jax.Array, expected: str = "floating-point numbers") -> None:
    """Refuses integers where a layer computes: images as uint8 would be taken for values up to 255."""
    if not is_array(x):
        raise InputError("x", "one array", f"{len(x)} inputs" if isinstance(x, tuple) else shown(x))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError("x", expected, f"{x.dtype} of shape {x.shape}", "Convert it: images as x / 255.")


def check_key(key: Any) -> jax.Array:
    """Refuses to draw without a key, or from what is none; JAX's old keys, two numbers, are taken too."""
    remedy = "Pass key=jax.random.key(seed)."
    if key is None:
        raise InputError("key", "a key, since random numbers are drawn here", None, remedy)
    is_key = is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    is_old_key = is_array(key) and key.dtype == jnp.uint32 and key.ndim == 1
    if not is_key and not is_old_key:
        raise InputError("key", "one key", shown(key), remedy)
    return key


def check_batch_is_whole() -> None:
    """Called by layers that couple the examples of a batch: refuses where every example is taken alone."""
    try:
        jax.lax.axis_index(EXAMPLES)
    except NameError:
        return
    remedy = "Use a layer that treats examples alone (layer_norm, group_norm), or train=False."
    raise InputError("x", "a whole batch, since this layer couples its examples", "single examples", remedy)
