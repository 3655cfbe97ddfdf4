"""The parameters that recurrent layers start with."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from functional_nn.core.layer_checks import check_key
from functional_nn.layers.initializers import Initializer, weight_and_bias

Size = TypeVar("Size", int, str)
"""A size, or the name of one that depends on the input."""


def parameter_shapes(
    in_size: Size, hidden_size: int, gates: int, *, hidden_bias: bool = False
) -> dict[str, tuple[Size | int, ...]]:
    """The shapes of W (in_size, gates · H), U (H, gates · H), b (gates · H) and, if wanted, of a hidden bias (H)."""
    width = gates * hidden_size
    shapes: dict[str, tuple[Size | int, ...]] = {
        "input_weight": (in_size, width),
        "hidden_weight": (hidden_size, width),
        "bias": (width,),
    }
    return {**shapes, "hidden_bias": (hidden_size,)} if hidden_bias else shapes


def starting_parameters(
    key: jax.Array, in_size: int, hidden_size: int, gates: int, initializer: Initializer, *, hidden_bias: bool = False
) -> dict[str, jax.Array]:
    """Draws W (in_size, gates · H), U (H, gates · H), b (gates · H) and, if wanted, a hidden bias (H).

    W comes from the initializer, separately for each gate. Each gate's part of U is orthogonal, so that repeated
    products neither grow nor shrink h. Biases are zero. ``"pytorch"`` draws everything from U(±1/√H), as PyTorch's
    recurrent layers do.
    """
    shapes = parameter_shapes(in_size, hidden_size, gates, hidden_bias=hidden_bias)
    check_key(key)
    if isinstance(initializer, str) and initializer == "pytorch":
        bound = hidden_size**-0.5
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.uniform(name_key, shape, minval=-bound, maxval=bound)
            for name_key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
    keys = jax.random.split(key, (2, gates))
    orthogonal = jax.nn.initializers.orthogonal()
    input_weights = [weight_and_bias(initializer, gate_key, (in_size, hidden_size))[0] for gate_key in keys[0]]
    hidden_weights = [orthogonal(gate_key, (hidden_size, hidden_size)) for gate_key in keys[1]]
    biases = {name: jnp.zeros(shape) for name, shape in shapes.items() if name.endswith("bias")}
    weights = {"input_weight": jnp.concatenate(input_weights, 1), "hidden_weight": jnp.concatenate(hidden_weights, 1)}
    return weights | biases
