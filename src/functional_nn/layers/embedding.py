"""Embedding of tokens as vectors, unembedding, which gives a logit for each token, and position encodings.

Attention alone ignores the order of steps. Sinusoidal or learned positions tell it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from functional_nn.core.errors import check
from functional_nn.core.layer import Layer, stateless
from functional_nn.core.products import summed_product
from functional_nn.core.shapes import is_shape, wide_type
from functional_nn.core.validation import (
    as_array,
    check_count,
    check_elements,
    check_entries,
    check_entry_shapes,
    check_input,
    check_key,
    check_shape,
)
from functional_nn.layers.initializers import Initializer, weight_and_bias


def embedding(count: int, out_size: int, *, initializer: Initializer = "lecun", name: str = "embedding") -> Layer:
    """Looks up a vector for each token. There are ``count`` tokens, numbered from 0.

    Math:
        yₙ = W[xₙ], row xₙ of W

    Shapes:
        x (batch, …) integers from 0 to count - 1, weight (count, out_size), y (batch, …, out_size)

    Gradient:
        yₙⱼ = Σᵢ [xₙ = i] Wᵢⱼ, so ∂yₙⱼ/∂Wᵢⱼ = [xₙ = i]. The cotangent of a row is the sum of the cotangents at
        the positions of its token (n runs over the batch and all other axes of x):

        weight_barᵢ = Σₙ [xₙ = i] y_barₙ; x_bar is None, since integers have no gradient

    Under ``jit`` a number that is not a token cannot raise an error. There its vector is NaN, and so is the loss.

    Args:
        count: the number of tokens.
        out_size: the size of a vector.
        initializer: see ``initializers``. The weight is drawn like that of a dense layer with out_size inputs and count
            outputs. The default has the variance 1 / out_size, so that vectors have a length of about 1.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for floating-point inputs, and for numbers that are not tokens.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.embedding(3, 2)
    >>> weight = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> print(layer.apply({"weight": weight}, {}, jnp.array([2, 0]), train=False)[0])
    [[4. 5.]
     [0. 1.]]

    References:
        Bengio et al. 2003, "A neural probabilistic language model", section 2.
    """
    count = check_count("count", count)
    out_size = check_count("out_size", out_size)

    def init(key, in_shape):
        remedy = "It leaves out the batch axis: (time,)."
        check("in_shape", in_shape, "a tuple of sizes", is_shape(in_shape), remedy)
        return {"weight": _draw(initializer, key, count, out_size)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (count, out_size)})
        x = as_array("x", x)
        remedy = "Give tokens as int32, x.astype(int). fit converts uint8 to floating-point numbers, x / 255."
        check("x", x, "integers, the numbers of tokens", jnp.issubdtype(x.dtype, jnp.integer), remedy)
        check_elements("x", x, lambda tokens: (tokens >= 0) & (tokens < count), f"tokens from 0 to {count - 1}")
        y = params["weight"].at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return y, state, x

    def backward(x, y_bar):
        # A frequent token sums up many rows, which 16-bit numbers could not hold.
        rows = y_bar.reshape(-1, y_bar.shape[-1]).astype(wide_type(y_bar.dtype))
        return {"weight": jax.ops.segment_sum(rows, x.ravel(), count).astype(y_bar.dtype)}, None

    return Layer(name, init, forward, backward)


def unembedding(count: int, *, initializer: Initializer = "lecun", name: str = "unembedding") -> Layer:
    """A logit for each of ``count`` tokens: the dot product of x and the token's vector.

    The weight has the shape of an embedding's, so that the two can be shared:
    ``shared(net, {"unembedding_0": "embedding_0"})``.

    Math:
        y = x Wᵀ

    Shapes:
        x (batch, …, in_size), weight (count, in_size), y (batch, …, count)

    Gradient:
        yₙᵢ = Σⱼ xₙⱼ Wᵢⱼ, so ∂yₙᵢ/∂Wᵢⱼ = xₙⱼ, ∂yₙᵢ/∂xₙⱼ = Wᵢⱼ (n runs over the batch and all middle axes):

        weight_bar = y_barᵀ x, x_bar = y_bar W

    Args:
        count: the number of tokens.
        initializer: see ``initializers``.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.unembedding(3)
    >>> weight = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> print(layer.apply({"weight": weight}, {}, jnp.array([[1.0, 0.0]]), train=False)[0])
    [[0. 2. 4.]]

    References:
        Press and Wolf 2017, "Using the output embedding to improve language models".
    """
    count = check_count("count", count)

    def init(key, in_shape):
        in_size = check_shape(in_shape, "(…, in_size)")[-1]
        return {"weight": _draw(initializer, key, count, in_size)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (count, "in_size")})
        weight = params["weight"]
        check_input(x, "(batch, …, in_size)", weight.shape[1])
        return x @ weight.T, state, (x, weight)

    def backward(residuals, y_bar):
        x, weight = residuals
        return {"weight": summed_product(y_bar, x)}, y_bar @ weight

    return Layer(name, init, forward, backward)


def _draw(initializer, key, count, size):
    """Draws a weight (count, size) like that of a dense layer with size inputs and count outputs."""
    return weight_and_bias(initializer, key, (size, count))[0].T


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

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> print(fnn.sinusoidal_positions().apply({}, {}, jnp.zeros((1, 2, 2)), train=False)[0][0].round(3))
    [[0.    1.   ]
     [0.841 0.54 ]]

    References:
        Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """

    def forward(x):
        check_input(x, "(batch, time, features)")
        _, time, features = x.shape
        check("x", x, "an even number of features, since sines and cosines come in pairs", features % 2 == 0)
        expected = f"at most {MOST_NUMBERS:,} numbers in an example, time x features"
        check("x", x, expected, time * features <= MOST_NUMBERS, "Use shorter sequences or fewer features.")
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

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> params = {"weight": jnp.array([[1.0], [2.0], [3.0]])}
    >>> print(fnn.learned_positions(3).apply(params, {}, jnp.zeros((1, 2, 1)), train=False)[0].ravel())
    [1. 2.]

    References:
        Gehring et al. 2017, "Convolutional sequence to sequence learning", section 3.1.
    """
    max_time = check_count("max_time", max_time)

    def init(key, in_shape):
        _, features = check_shape(in_shape, "(time, features)")
        return {"weight": 0.02 * jax.random.normal(check_key(key), (max_time, features))}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (max_time, "features")})
        weight = params["weight"]
        check_input(x, "(batch, time, features)", weight.shape[1])
        time = x.shape[1]
        check("x", x, f"at most max_time = {max_time} steps", time <= max_time)
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
        check_input(x, "(batch, time, features)")
        _, time, features = x.shape
        # What the layer adds at each position is its output for zeros.
        table, _ = positions.apply(params, {}, jnp.zeros((1, max_time, features), x.dtype), train=train)
        vectors = lax.dynamic_slice_in_dim(table, state["position"], time, axis=1)
        return x + vectors, {"position": state["position"] + time}, ()

    return Layer(positions.name, init, forward)
