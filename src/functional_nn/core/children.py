"""Running the layers inside a combinator: names, random keys, masks, and marks in traced programs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from functional_nn.core.errors import InputError, check, inside
from functional_nn.core.layer import (
    Layer,
    Params,
    Residuals,
    State,
    as_layer,
    backward_of,
    checked_forward,
    checked_init,
    output_shape,
)
from functional_nn.core.masked import Masked, Value, check_mask, without_padding
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import check_key, is_array

MARK = "functional_nn:"
"""The prefix of the marks that combinators put on layers' outputs in traced programs; the layer's name follows."""

BACKWARD = "backward"
"""The name scope, inside a layer's own scope, of its hand-derived backward pass."""


def unique_names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Names with numbers, so that equal names differ: ``dense, relu, dense`` become ``dense_0, relu_0, dense_1``."""
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        check_name(layer.name)
        number = counts.get(layer.name, 0)
        counts[layer.name] = number + 1
        names.append(f"{layer.name}_{number}")
    return tuple(names)


def named_layers(layers: Sequence[object], named: Mapping[str, object]) -> dict[str, Layer]:
    """The layers inside a combinator by name: first those that get a kind and a number as their name, then the named.

    >>> import functional_nn as fnn
    >>> list(named_layers([fnn.dense(3), fnn.relu], {"head": fnn.dense(2)}))
    ['dense_0', 'relu_0', 'head']
    """
    unnamed = tuple(as_layer(layer) for layer in layers)
    members = dict(zip(unique_names(unnamed), unnamed, strict=True))
    for name, layer in named.items():
        check_name(name)
        if name in members:
            raise InputError("layers", "names that differ", f"{name} twice", "Choose another name.")
        members[name] = as_layer(layer)
    return members


def check_name(name: object) -> None:
    """Requires a name that can be a part of a path and of a scope in a traced program."""
    expected = f"a name without '/', which separates the names in a path, and not {BACKWARD!r}"
    check("name", name, expected, isinstance(name, str) and name not in ("", BACKWARD) and "/" not in name)


def put_entries(tree: dict[str, Params], name: str, entries: Params) -> None:
    """Puts a layer's parameters, state or cotangents into a combinator's tree, if it has any."""
    if entries:
        tree[name] = entries


def check_no_other_names(names: Sequence[str], **trees: Params) -> None:
    """Requires that parameters and state hold no entries of other layers."""
    for argument, tree in trees.items():
        if unknown := set(tree) - set(names):
            expected = f"entries for the layers {', '.join(names)}"
            given = f"also {', '.join(sorted(unknown))}"
            raise InputError(argument, expected, given, "Use the ones that this network's init returned.")


def child_keys(key: jax.Array | None, names: Sequence[str]) -> jax.Array | list[None]:
    """A random key for each name. It depends on the name alone, so a layer keeps its key when others are added.

    All keys are derived at once: one small program to compile, and none where no layer uses its key.
    """
    if key is None or not names:
        return [None] * len(names)
    check_key(key)
    # A checksum of the name, since Python's ``hash`` of a text differs from process to process.
    numbers = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def child_init(name: str, layer: Layer, key: jax.Array | None, in_shape: Shape) -> tuple[Params, State, Shape]:
    """Initializes one layer of a combinator: its parameters, its state and its output shape."""
    with inside(name):
        params, state = checked_init(layer, key, in_shape)
        return params, state, output_shape(layer, params, state, in_shape)


def child_forward(
    name: str, layer: Layer, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None
) -> tuple[Value, State, Residuals]:
    """The forward pass of one layer of a combinator, with its own parameters and state, marked with its name.

    The mark is in the traced program (``named_scope`` for the operations, ``checkpoint_name`` for the output), for
    summaries, profiles and rematerialization policies. It costs nothing at run time.
    """
    own_params, own_state = params.get(name, {}), state.get(name, {})
    with inside(name), jax.named_scope(name):
        y, new_state, residuals = forward_with_mask(layer, own_params, own_state, x, train=train, key=key)
        # The name of the child, as a mark in traced programs, is on the first array of its output.
        first, *others = jax.tree.leaves(y)
        y = jax.tree.unflatten(jax.tree.structure(y), [checkpoint_name(first, MARK + name), *others])
        return y, new_state, residuals


def child_backward(name: str, layer: Layer, residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
    """The backward pass of ``child_forward``, marked with the layer's name and as backward."""
    with inside(name), jax.named_scope(name), jax.named_scope(BACKWARD):
        return backward_with_mask(layer, residuals, y_bar)


def forward_with_mask(
    layer: Layer, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None
) -> tuple[Value, State, Residuals]:
    """The forward pass of any layer, also of a masked sequence.

    A layer that takes no mask gets the values alone, with 0 in place of padding. The mask is attached to its output.
    """
    if not isinstance(x, Masked) or layer.takes_mask:
        return checked_forward(layer, params, state, x, train=train, key=key)
    check_mask(x)
    y, state, residuals = checked_forward(layer, params, state, without_padding(x), train=train, key=key)
    expected = f"one array that keeps the axes (batch, time) = {x.mask.shape} of the mask"
    remedy = "Reduce the time axis by a layer that takes masks, such as a recurrent one, attention or global pooling."
    check("output", y, expected, is_array(y) and y.shape[:2] == x.mask.shape, remedy)
    return Masked(y, x.mask), state, (residuals, x.mask)


def backward_with_mask(layer: Layer, residuals: Residuals, y_bar: Value) -> tuple[Params, Value]:
    """The backward pass of ``forward_with_mask``. Padding did not reach the output, so its cotangent is 0."""
    if not isinstance(y_bar, Masked) or layer.takes_mask:
        return backward_of(layer)(residuals, y_bar)
    residuals, mask = residuals
    params_bar, x_bar = backward_of(layer)(residuals, y_bar.values)
    return params_bar, Masked(None if x_bar is None else without_padding(Masked(x_bar, mask)), None)
