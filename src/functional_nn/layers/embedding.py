"""Embedding of tokens as vectors, and unembedding, which gives a logit for each token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.core.layer_checks import check_entry_shapes, check_floating, check_shape, is_concrete
from functional_nn.core.shapes import is_shape, wide_type
from functional_nn.core.summed_product import summed_product
from functional_nn.core.validation import as_array, check_count
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

    >>> layer = embedding(3, 2)
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
        if not is_shape(in_shape):
            raise InputError("in_shape", "a tuple of sizes", repr(in_shape), "It leaves out the batch axis: (time,).")
        return {"weight": _draw(initializer, key, count, out_size)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (count, out_size)})
        x = as_array("x", x)
        _check_tokens(x, count)
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

    >>> layer = unembedding(3)
    >>> weight = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> print(layer.apply({"weight": weight}, {}, jnp.array([[1.0, 0.0]]), train=False)[0])
    [[0. 2. 4.]]

    References:
        Press and Wolf 2017, "Using the output embedding to improve language models".
    """
    count = check_count("count", count)

    def init(key, in_shape):
        in_size = check_shape(in_shape, "at least a feature axis, (…, in_size)")[-1]
        return {"weight": _draw(initializer, key, count, in_size)}, {}

    def forward(params, state, x, *, train, key=None):
        check_entry_shapes("params", params, {"weight": (count, "in_size")})
        check_floating(x)
        weight = params["weight"]
        if x.ndim < 2 or x.shape[-1] != weight.shape[1]:
            raise InputError("x", f"(batch, …, {weight.shape[1]})", f"shape {x.shape}")
        return x @ weight.T, state, (x, weight)

    def backward(residuals, y_bar):
        x, weight = residuals
        return {"weight": summed_product(y_bar, x)}, y_bar @ weight

    return Layer(name, init, forward, backward)


def _draw(initializer, key, count, size):
    """Draws a weight (count, size) like that of a dense layer with size inputs and count outputs."""
    return weight_and_bias(initializer, key, (size, count))[0].T


def _check_tokens(x: jax.Array, count: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        given = f"{x.dtype} of shape {x.shape}"
        remedy = "Give tokens as int32, x.astype(int). fit converts uint8 to floating-point numbers, x / 255."
        raise InputError("x", "integers, the numbers of tokens", given, remedy)
    if not is_concrete(x):
        return
    host = np.asarray(x)
    bad = (host < 0) | (host >= count)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError("x", f"tokens from 0 to {count - 1}", f"{host[where]} at index {where}")
