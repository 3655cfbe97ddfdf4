"""The output shape of a layer, found by tracing it."""

from __future__ import annotations

import jax
from jax.typing import DTypeLike

from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shapes, shape_of, traced


def output_shape(
    layer: Layer, params: Params, state: State, in_shape: Shapes, dtype: DTypeLike | None = None
) -> Shapes:
    """The shape of one example's output, without the batch axis. ``apply`` is traced, and nothing is computed."""

    def apply(x):
        return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, train=False)[0], params, state, x)

    return shape_of(traced(apply, in_shape, dtype))
