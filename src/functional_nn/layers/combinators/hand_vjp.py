"""Training on the formula: the one place where a hand-derived backward pass becomes the derivative."""

from __future__ import annotations

import jax

from functional_nn.core.layer import Layer, as_layer
from functional_nn.layers.convolution.lowering import differentiated_by_hand


def with_hand_vjp(layer: Layer) -> Layer:
    """The same layer, whose ``apply`` is differentiated by its hand-derived backward pass.

    ``jax.grad`` then calls ``layer.backward`` where it would have differentiated the code: to train on a formula, or
    where the formula is faster, as in backpropagation through time, whose weight gradient is one product over all time
    steps. Names and parameters stay. A layer without ``with_hand_vjp`` is differentiated automatically, so that the two
    can be compared.

    Gradient:
        the layer's own. The new state and the residuals are taken for constants: no gradient flows through them.
        Reverse mode only: ``jax.jvp`` and a second derivative through it raise JAX's error for ``custom_vjp``.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> plain = fnn.dense(2)
    >>> params, state = plain.init(jax.random.key(0), (3,))
    >>> loss = lambda layer: lambda p: layer.apply(p, state, jnp.ones((4, 3)), train=True)[0].sum()
    >>> a, b = (jax.grad(loss(layer))(params)["bias"] for layer in (plain, with_hand_vjp(plain)))
    >>> print(a, b)
    [4. 4.] [4. 4.]
    """
    layer = as_layer(layer)

    def of_mode(train):
        def run(params, state, x, key):
            with differentiated_by_hand():
                return layer.forward(params, state, x, train=train, key=key)

        def run_forward(params, state, x, key):
            made = run(params, state, x, key)
            return made, made[2]

        def run_backward(residuals, cotangents):
            y_bar = jax.tree.map(lambda leaf: None if leaf.dtype == jax.dtypes.float0 else leaf, cotangents[0])
            params_bar, x_bar = layer.backward(residuals, y_bar)
            return params_bar, None, x_bar, None

        by_hand = jax.custom_vjp(run)
        by_hand.defvjp(run_forward, run_backward)
        return by_hand

    runs = {train: of_mode(train) for train in (False, True)}

    def forward(params, state, x, *, train, key=None):
        return runs[bool(train)](params, state, x, key)

    return layer._replace(forward=forward)
