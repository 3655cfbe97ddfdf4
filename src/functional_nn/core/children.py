"""How combinators run the layers inside them: names, keys, masks, and marks in traced programs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from functional_nn.core.errors import InputError, inside
from functional_nn.core.layer import Layer, Params, Residuals, State
from functional_nn.core.layer_checks import check_key
from functional_nn.core.masked import Masked
from functional_nn.core.output_shape import output_shape
from functional_nn.core.shapes import Shape
from functional_nn.core.validation import shown

MARK = "functional_nn:"
"""Before a layer's name in the marks that combinators leave in traced programs."""


BACKWARD = "backward"
"""The scope, within a layer's, of the work of its hand-derived backward pass."""


def unique_names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Numbers equal names in their order: ``dense, relu, dense`` become ``dense_0, relu_0, dense_1``."""
    seen: dict[str, int] = {}
    names = []
    for layer in layers:
        if not isinstance(layer.name, str) or not layer.name or "/" in layer.name:
            raise InputError("name", "a name without '/', which separates the names in a path", shown(layer.name))
        count = seen.get(layer.name, 0)
        seen[layer.name] = count + 1
        names.append(f"{layer.name}_{count}")
    return tuple(names)


def child_keys(key: jax.Array | None, names: Sequence[str]) -> Any:
    """A key for each name. It depends on the name alone, so a layer whose name stays keeps its key.

    All are derived at once: one small program to compile, and none where no layer uses its key.
    """
    if key is None or not names:
        return [None] * len(names)
    check_key(key)
    numbers = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def child_init(name: str, layer: Layer, key: Any, in_shape: Shape) -> tuple[Params, State, Shape]:
    """Initializes one layer of a combinator: its parameters, its state and its output's shape."""
    with inside(name):
        made = layer.init(key, in_shape)
        if not isinstance(made, tuple) or len(made) != 2:
            raise InputError("init", "(params, state) to come back", type(made).__name__)
        params, state = made
        return params, state, output_shape(layer, params, state, in_shape)


def child_forward(
    name: str, layer: Layer, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None
) -> tuple[Any, State, Residuals]:
    """Runs one layer of a combinator with its own parameters and state, and marks its work with its name.

    The mark stands in the traced program (``named_scope`` for the operations, ``checkpoint_name`` for the
    output), where summaries, profiles and rematerialization policies find it; it costs nothing at run time.
    """
    with inside(name), jax.named_scope(name):
        y, state, residuals = run(layer, params.get(name, {}), state.get(name, {}), x, train=train, key=key)
        return _marked(y, MARK + name), state, residuals


def run(
    layer: Layer, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None
) -> tuple[Any, State, Residuals]:
    """The forward pass. Of a masked sequence a layer that takes no mask gets the values, 0 where they are padding."""
    mask = x.mask if isinstance(x, Masked) and not layer.takes_mask else None
    made = layer.forward(params, state, x if mask is None else _real(mask, x.values), train=train, key=key)
    if not isinstance(made, tuple) or len(made) != 3:
        raise InputError("forward", "(y, state, residuals) to come back", type(made).__name__)
    if mask is None:
        return made
    y, state, residuals = made
    if y.shape[:2] != mask.shape:
        expected = f"outputs that keep the axes (batch, time) = {mask.shape} of the mask"
        remedy = "Reduce the time axis by a layer that knows masks: a recurrent one, attention, global pooling."
        raise InputError("x", expected, f"outputs of shape {y.shape}", remedy)
    return Masked(y, mask), state, (residuals, mask)


def run_backward(layer: Layer, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    """The backward pass of ``run``: what stood on padding has no part in the output."""
    if not isinstance(y_bar, Masked) or layer.takes_mask:
        return layer.backward(residuals, y_bar)
    residuals, mask = residuals
    params_bar, x_bar = layer.backward(residuals, y_bar.values)
    return params_bar, Masked(None if x_bar is None else _real(mask, x_bar), None)


def child_backward(name: str, layer: Layer, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    """The backward pass of ``child_forward``, its work marked with the layer's name and as backward."""
    with jax.named_scope(name), jax.named_scope(BACKWARD):
        return run_backward(layer, residuals, y_bar)


def _real(mask: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.where(jnp.expand_dims(mask, range(2, values.ndim)), values, jnp.zeros((), values.dtype))


def _marked(y: Any, mark: str) -> Any:
    """Marks an output, the first one where there are several."""
    first, *others = jax.tree.leaves(y)
    return jax.tree.unflatten(jax.tree.structure(y), [checkpoint_name(first, mark), *others])
