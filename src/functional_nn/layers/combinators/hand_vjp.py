"""Training with hand-derived gradients: ``with_hand_vjp`` replaces automatic differentiation of a layer."""

from __future__ import annotations

from collections.abc import Callable

import jax

from functional_nn.core.errors import inside
from functional_nn.core.layer import (
    Layer,
    Residuals,
    State,
    TypesByPath,
    as_layer,
    backward_of,
    cast_cotangents,
    check_cotangents,
    checked_forward,
    cotangents_of,
    for_hand_vjp,
)
from functional_nn.core.masked import Value


def with_hand_vjp(layer: Layer) -> Layer:
    """Makes ``jax.grad`` of a layer's ``apply`` use its hand-derived backward pass.

    ``jax.grad`` then calls ``layer.backward`` and does not differentiate the code. Use it to train on a formula, or
    where the formula is faster: in backpropagation through time, for example, the weight gradient is one product over
    all time steps. Names and parameters do not change. Without ``with_hand_vjp`` JAX differentiates a layer
    automatically, so the two can be compared.

    A convolution inside the layer is computed by XLA's own convolution if that is faster. Automatic differentiation of
    XLA's convolution is slow, so a layer without ``with_hand_vjp`` computes it as a matrix product.

    Gradient:
        The layer's own. The new state and the residuals count as constants: no gradient flows through them. Second
        derivatives work: ``jax.grad`` of ``jax.grad`` differentiates the hand-derived backward pass. Forward mode does
        not: ``jax.jvp`` raises JAX's error for ``custom_vjp``. So for a Hessian-vector product, take the gradient of
        the product of gradient and vector.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> plain = fnn.dense(2)
    >>> params, state = plain.init(jax.random.key(0), (3,))
    >>> loss = lambda layer: lambda p: layer.apply(p, state, jnp.ones((4, 3)), train=True)[0].sum()
    >>> a, b = (jax.grad(loss(layer))(params)["bias"] for layer in (plain, with_hand_vjp(plain)))
    >>> print(a, b)
    [4. 4.] [4. 4.]
    """
    layer = as_layer(layer)
    # JAX does not differentiate the forward pass. Layers with two versions of it have one for this use.
    layer = for_hand_vjp(layer)

    def with_mode(train: bool) -> Callable[..., tuple[Value, State, Residuals]]:
        """The forward pass in training or in evaluation. ``custom_vjp`` takes arrays only, so train is fixed here."""

        def run(params, state, x, key):
            return checked_forward(layer, params, state, x, train=train, key=key)

        def run_forward(params, state, x, key):
            outputs = run(params, state, x, key)
            _, _, residuals = outputs
            return outputs, (residuals, TypesByPath.of(params, x))

        def run_backward(residuals_and_types, cotangents):
            residuals, types = residuals_and_types
            # JAX gives booleans and integers (a mask) cotangents of type float0; here they are None.
            y_bar = jax.tree.map(lambda leaf: None if leaf.dtype == jax.dtypes.float0 else leaf, cotangents[0])
            # JAX's own message about a wrong shape does not name the layer.
            with inside(layer.name):
                params_bar, x_bar = cotangents_of(backward_of(layer)(residuals, y_bar))
                check_cotangents(types, params_bar, x_bar)
                params_bar, x_bar = cast_cotangents(types, params_bar, x_bar)
            return params_bar, None, x_bar, None

        function = jax.custom_vjp(run)
        function.defvjp(run_forward, run_backward)
        return function

    in_training, in_evaluation = with_mode(True), with_mode(False)

    def forward(params, state, x, *, train, key=None):
        function = in_training if train else in_evaluation
        return function(params, state, x, key)

    return layer._replace(forward=forward)
