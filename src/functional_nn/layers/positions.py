"""Position encodings for sequences, sinusoidal and learned. Attention alone ignores the order of steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.layer_checks import check_entries, check_entry_shapes, check_floating, check_key
from functional_nn.core.shapes import is_shape
from functional_nn.core.validation import check_count

MOST_NUMBERS = 2**25
"""The largest number of sines and cosines, time x features. They are constants of the program, also where only shapes
are computed, so that a short configuration could take all memory."""


def sinusoidal_positions(*, name: str = "sinusoidal_positions") -> Layer:
    """Adds sines and cosines of the position to the features of each step.

    Math:
        y_{t,2n} = x_{t,2n} + sin(t ωₙ), y_{t,2n+1} = x_{t,2n+1} + cos(t ωₙ), ωₙ = 10000^(-2n/features)

    Shapes:
        x and y (batch, time, features), features even

    Gradient:
        What is added does not depend on x: x_bar = y_bar

    Args:
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for an odd number of features, and for more than 33,554,432 numbers in an example.

    >>> print(sinusoidal_positions().apply({}, {}, jnp.zeros((1, 2, 2)), train=False)[0][0].round(3))
    [[0.    1.   ]
     [0.841 0.54 ]]

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """

    def forward(x):
        _check_sequence(x)
        _, time, features = x.shape
        if features % 2:
            raise InputError(
                "x", "an even number of features, since sines and cosines come in pairs", f"shape {x.shape}"
            )
        if time * features > MOST_NUMBERS:
            expected = f"at most {MOST_NUMBERS:,} numbers in an example, time x features"
            raise InputError("x", expected, f"shape {x.shape}", "Use shorter sequences or fewer features.")
        # NumPy computes in float64. In float32 the angle of a late position would lose the digits that its sine needs.
        angles = np.outer(np.arange(time), 10_000.0 ** (-2 * np.arange(features // 2) / features))
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(1, time, features)
        return x + jnp.asarray(waves, x.dtype), ()

    return stateless(name, forward, lambda nothing, y_bar: y_bar)


def learned_positions(max_time: int, *, name: str = "learned_positions") -> Layer:
    """Adds a learned vector for each position to the step's features.

    Math:
        yₜ = xₜ + Wₜ

    Shapes:
        x and y (batch, time, features) with time ≤ max_time, weight (max_time, features)

    Gradient:
        Wₜ is added to step t of every example n. Rows of W beyond the length of the sequence are not used:

        weight_barₜ = Σₙ y_barₙₜ for t < time, else 0; x_bar = y_bar

    Args:
        max_time: the length of the longest sequence. Weights are drawn from a normal distribution of deviation 0.02.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for sequences longer than max_time.

    >>> params = {"weight": jnp.array([[1.0], [2.0], [3.0]])}
    >>> print(learned_positions(3).apply(params, {}, jnp.zeros((1, 2, 1)), train=False)[0].ravel())
    [1. 2.]

    References:
        Gehring et al. 2017, "Convolutional sequence to sequence learning", section 3.1.
    """
    max_time = check_count("max_time", max_time)

    def init(key, in_shape):
        if not is_shape(in_shape) or len(in_shape) != 2:
            raise InputError("in_shape", "(time, features)", repr(in_shape), "It leaves out the batch axis.")
        return {"weight": 0.02 * jax.random.normal(check_key(key), (max_time, in_shape[1]))}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (max_time, "features")})
        weight = params["weight"]
        _check_sequence(x)
        _, time, features = x.shape
        if features != weight.shape[1]:
            raise InputError("x", f"{weight.shape[1]} features on the last axis", f"shape {x.shape}")
        if time > max_time:
            raise InputError("x", f"at most max_time = {max_time} steps", f"{time} (shape {x.shape})")
        return x + weight[None, :time], state, ()

    def backward(nothing, y_bar):
        unused = int(max_time) - y_bar.shape[1]
        return {"weight": jnp.pad(jnp.sum(y_bar, axis=0), ((0, unused), (0, 0)))}, y_bar

    return Layer(name, init, forward, backward)


def continued_positions(positions: Layer, max_time: int) -> Layer:
    """The same position encoding for new steps after earlier ones. The number of earlier steps is in the state.

    It is for generation: it has no backward pass.

    Args:
        positions: a layer that adds a vector to each step, which depends on the position only.
        max_time: the largest number of steps, earlier and new ones.
    """

    def init(key, in_shape):
        params, _ = positions.init(key, in_shape)
        return params, {"position": jnp.zeros((), jnp.int32)}

    def forward(params, state, x, *, train, key=None):
        check_entries("state", state, ("position",))
        _check_sequence(x)
        _, time, features = x.shape
        # What the layer adds at each position is its output for zeros.
        table, _ = positions.apply(params, {}, jnp.zeros((1, max_time, features), x.dtype), train=train)
        vectors = lax.dynamic_slice_in_dim(table, state["position"], time, axis=1)
        return x + vectors, {"position": state["position"] + time}, ()

    return Layer(positions.name, init, forward)


def _check_sequence(x: jax.Array) -> None:
    check_floating(x)
    if x.ndim != 3:
        raise InputError("x", "sequences, (batch, time, features)", f"shape {x.shape}")
