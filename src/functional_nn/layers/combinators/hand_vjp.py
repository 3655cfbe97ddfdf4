"""Training with hand-derived gradients: ``with_hand_vjp`` replaces automatic differentiation of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from functional_nn.core.errors import inside
from functional_nn.core.layer import (
    Layer,
    Params,
    Residuals,
    State,
    as_layer,
    backward_of,
    cast_cotangents,
    checked_forward,
    cotangents_of,
    for_hand_vjp,
    types_of,
)
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree


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

    >>> import functional_nn as fnn, jax.numpy as jnp, jax
    >>> plain = fnn.dense(2)
    >>> params, state = plain.init(jax.random.key(0), (3,))
    >>> loss = lambda layer: lambda p: layer.apply(p, state, jnp.ones((4, 3)), train=True)[0].sum()
    >>> a, b = (jax.grad(loss(layer))(params)["bias"] for layer in (plain, fnn.with_hand_vjp(plain)))
    >>> print(a, b)
    [4. 4.] [4. 4.]
    """
    layer = as_layer(layer)
    if isinstance(layer.forward, ByFormula):
        return layer
    # JAX does not differentiate the forward pass. Layers with two versions of it have one for this use.
    layer = for_hand_vjp(layer)
    return layer._replace(forward=ByFormula(layer, layer.name))


@dataclass(frozen=True)
class ByFormula:
    """A layer's forward pass, of which JAX takes the hand-derived backward pass as the derivative.

    Two of the same layer are equal, so that programs that were compiled for one serve the other.

    Args:
        layer: the layer.
        name: its name in error messages.
    """

    layer: Layer
    name: str

    def __call__(
        self, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Value, State, Residuals]:
        # The residuals of two calls may have different structures, and ``jax.custom_vjp`` requires one structure from
        # both functions below. So they give the arrays alone, and the structure is noted.
        structure = []

        def run_forward(params, state, x, key):
            y, new_state, residuals = checked_forward(self.layer, params, state, x, train=train, key=key)
            leaves, tree = jax.tree.flatten(residuals)
            structure[:] = [tree]
            return (y, new_state, leaves), residuals

        types = types_of(params, x)

        def run_backward(residuals, cotangents):
            # JAX's own message about a wrong shape does not name the layer.
            with inside(self.name):
                bars = cotangents_of(backward_of(self.layer)(residuals, none_for_integers(cotangents[0])), types)
                params_bar, x_bar = cast_cotangents(types, *bars)
            return params_bar, None, x_bar, None

        function = jax.custom_vjp(lambda *arguments: run_forward(*arguments)[0])
        function.defvjp(run_forward, run_backward)
        y, new_state, leaves = function(params, state, x, key)
        return y, new_state, jax.tree.unflatten(structure[0], leaves)


def none_for_integers(bars: PyTree) -> PyTree:
    """Cotangents with None in place of those of booleans and integers, such as a mask. JAX gives them type float0."""
    return jax.tree.map(lambda bar: None if bar.dtype == jax.dtypes.float0 else bar, bars)
