"""Layers made of layers. They know only ``Layer``, and thread all names, keys, state and residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functional_nn.activation_types import Activation
from functional_nn.errors import InputError
from functional_nn.layer import Layer, as_layer, child_forward, child_init, child_keys, unique_names


def chain(*layers: Layer | Activation | Callable[[Any], Any], name: str = "chain") -> Layer:
    """One layer after the other: a feed-forward network.

    Math:
        y = fₖ(… f₂(f₁(x)))

    Shapes:
        whatever the layers do; each one's output shape is the next one's input shape

    Gradient:
        The chain rule, from the last layer to the first: with x₀ = x and xᵢ = fᵢ(xᵢ₋₁),

        (params_barᵢ, x_barᵢ₋₁) = backwardᵢ(residualsᵢ, x_barᵢ), x_barₖ = y_bar

    Args:
        *layers: layers, activations, or any functions of one array (which have no hand-derived formula).
        name: used in parameter trees and in error messages.

    Equal names are numbered in their order, so the parameters below are ``dense_0/weight``, ``dense_0/bias``,
    ``dense_1/weight``, ``dense_1/bias``. A layer's random numbers depend on its name alone.

    >>> import functional_nn as fnn, jax
    >>> net = chain(fnn.dense(3), fnn.relu, fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(params).items() if path.endswith("weight")}
    {'dense_0/weight': (4, 3), 'dense_1/weight': (3, 2)}

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 6.5.2, algorithms 6.3 and 6.4.
    """
    members = tuple(as_layer(layer) for layer in layers)
    names = unique_names(members)
    children = tuple(zip(names, members, strict=True))

    def init(key, in_shape):
        params, state = {}, {}
        for (child, layer), child_key in zip(children, child_keys(key, names), strict=True):
            child_params, child_state, in_shape = child_init(child, layer, child_key, in_shape)
            if child_params:
                params[child] = child_params
            if child_state:
                state[child] = child_state
        return params, state

    def forward(params, state, x, *, train, key=None):
        _check_names("params", params, names)
        _check_names("state", state, names)
        new_state, residuals = {}, {}
        for (child, layer), child_key in zip(children, child_keys(key, names), strict=True):
            x, child_state, residuals[child] = child_forward(child, layer, params, state, x, train=train, key=child_key)
            if child_state:
                new_state[child] = child_state
        return x, new_state, residuals

    def backward(residuals, y_bar):
        params_bar = {}
        for child, layer in reversed(children):
            child_bar, y_bar = layer.backward(residuals[child], y_bar)
            if child_bar:
                params_bar[child] = child_bar
        return params_bar, y_bar

    return Layer(name, init, forward, backward)


def _check_names(argument: str, tree: Any, names: tuple[str, ...]) -> None:
    unknown = set(tree) - set(names)
    if unknown:
        expected = f"entries for the layers {', '.join(names)}"
        raise InputError(argument, expected, f"also {', '.join(sorted(unknown))}", "Use this network's own.")
