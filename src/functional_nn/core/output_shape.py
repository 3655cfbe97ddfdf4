"""The output shape of a layer, found by tracing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shapes, shape_of, traced

Result = TypeVar("Result")


def with_key_if_needed(function: Callable[[jax.Array | None], Result]) -> Result:
    """``function(None)``; if a layer draws random numbers in evaluation, so that it needs a key, ``function(key)``."""
    try:
        return function(None)
    except InputError as error:
        if error.argument != "key":
            raise
        return function(jax.random.key(0))


def output_shape(
    layer: Layer, params: Params, state: State, in_shape: Shapes, dtype: DTypeLike | None = None
) -> Shapes:
    """The shape of one example's output, without the batch axis. ``apply`` is traced, and nothing is computed."""

    def apply(x):
        return with_key_if_needed(
            lambda key: jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False, key=key)[0], params, state, x)
        )

    return shape_of(traced(apply, in_shape, dtype))
