"""The output shape of a layer, from tracing it."""

from __future__ import annotations

from typing import Any

import jax

from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import shape_of, traced


def output_shape(layer: Layer, params: Params, state: State, in_shape: Any, dtype: Any = None) -> Any:
    """The shape of one example's output, without the batch axis, from tracing ``apply``; nothing is computed."""

    def apply(x):
        return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False)[0], params, state, x)

    return shape_of(traced(apply, in_shape, dtype))
