"""Combinators: chain, parallel, residual, bidirectional and reversed layers.

They use a layer only through the interface of ``Layer``. They handle names, random keys, state and residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.core.children import (
    backward_with_mask,
    child_backward,
    child_forward,
    child_init,
    child_keys,
    forward_with_mask,
    unique_names,
)
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import composed_forward
from functional_nn.core.layer import Layer, Params, as_layer, stateless
from functional_nn.core.masked import Masked, Value, values_of, with_mask_of
from functional_nn.core.validation import check_choice
from functional_nn.layers.combinators.combining import COMBINERS, check_shapes_fit

Member: TypeAlias = Layer | Activation | VectorActivation | Callable[[Value], Value]
"""What a combinator takes as a layer."""

Tree = TypeVar("Tree")


def chain(*layers: Member, name: str = "chain") -> Layer:
    """Applies layers one after the other: a feed-forward network.

    Math:
        y = fₖ(… f₂(f₁(x)))

    Shapes:
        those of the layers; the output shape of each layer is the input shape of the next

    Gradient:
        The chain rule, from the last layer to the first: with x₀ = x and xᵢ = fᵢ(xᵢ₋₁),

        (params_barᵢ, x_barᵢ₋₁) = backwardᵢ(residualsᵢ, x_barᵢ), x_barₖ = y_bar

    Args:
        *layers: layers, activations, or any functions of one array (which have no hand-derived formula).
        name: used in parameter trees and in error messages.

    Equal names are numbered in order, so the parameters below are ``dense_0/weight``, ``dense_0/bias``,
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

    def init(key, in_shape):
        params, state = {}, {}
        for child, layer, child_key in zip(names, members, child_keys(key, names), strict=True):
            child_params, child_state, in_shape = child_init(child, layer, child_key, in_shape)
            _put(params, child, child_params)
            _put(state, child, child_state)
        return params, state

    def make_forward(members):
        def forward(params, state, x, *, train, key=None):
            _check_names(names, params=params, state=state)
            new_state, residuals = {}, {}
            for child, layer, child_key in zip(names, members, child_keys(key, names), strict=True):
                made = child_forward(child, layer, params, state, x, train=train, key=child_key)
                x, child_state, residuals[child] = made
                _put(new_state, child, child_state)
            return x, new_state, residuals

        return forward

    def backward(residuals, y_bar):
        params_bar = {}
        for child, layer in zip(reversed(names), reversed(members), strict=True):
            child_bar, y_bar = child_backward(child, layer, residuals[child], y_bar)
            _put(params_bar, child, child_bar)
        return params_bar, y_bar

    return Layer(name, init, composed_forward(make_forward, members), backward, takes_mask=True, layers=members)


def parallel(*layers: Member, combine: str = "sum", name: str = "parallel") -> Layer:
    """Applies several layers to the same input and combines their outputs.

    Math:
        y = Σᵢ fᵢ(x) (``"sum"``), y = ∏ᵢ fᵢ(x) element by element (``"product"``), or the fᵢ(x) concatenated on the last
        axis (``"concatenate"``)

    Shapes:
        the outputs have the same shape; for ``"concatenate"`` the last axes may differ

    Gradient:
        Every fᵢ(x) gets its cotangent yᵢ_bar: y_bar itself (sum), y_bar ∏ⱼ≠ᵢ fⱼ(x) (product), or its slice of y_bar
        (concatenate). x is used by all of them, so

        x_bar = Σᵢ backwardᵢ(residualsᵢ, yᵢ_bar)

    Args:
        *layers: layers, activations, or any functions of one array.
        combine: ``"sum"``, ``"product"`` or ``"concatenate"``.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for outputs whose shapes do not fit together; nothing is broadcast.

    >>> import functional_nn as fnn
    >>> both = parallel(fnn.relu, fnn.identity, combine="concatenate")
    >>> print(both.apply({}, {}, jnp.array([[-3.0]]), train=False)[0])
    [[ 0. -3.]]

    References:
        Szegedy et al. 2015, "Going deeper with convolutions" (concatenated branches).
    """
    combiner = COMBINERS[check_choice("combine", combine, COMBINERS)]
    if not layers:
        raise InputError("layers", "at least one layer", "none")
    members = tuple(as_layer(layer) for layer in layers)
    names = unique_names(members)

    def init(key, in_shape):
        params, state, shapes = {}, {}, {}
        for child, layer, child_key in zip(names, members, child_keys(key, names), strict=True):
            child_params, child_state, shapes[child] = child_init(child, layer, child_key, in_shape)
            _put(params, child, child_params)
            _put(state, child, child_state)
        check_shapes_fit(shapes, combine)
        return params, state

    def make_forward(members):
        def forward(params, state, x, *, train, key=None):
            _check_names(names, params=params, state=state)
            new_state, residuals, outputs = {}, {}, []
            for child, layer, child_key in zip(names, members, child_keys(key, names), strict=True):
                made = child_forward(child, layer, params, state, x, train=train, key=child_key)
                y, child_state, residuals[child] = made
                _put(new_state, child, child_state)
                outputs.append(y)
            if any(map(_are_several, outputs)):
                raise InputError("layers", "layers with one output each", "a layer with several outputs")
            values = [values_of(y) for y in outputs]
            check_shapes_fit(dict(zip(names, (y.shape for y in values), strict=True)), combine)
            y, combined = combiner.forward(values)
            return with_mask_of(outputs[0], y), new_state, (residuals, combined)

        return forward

    def backward(all_residuals, y_bar):
        residuals, combined = all_residuals
        params_bar, x_bar = {}, None
        output_bars = combiner.backward(combined, values_of(y_bar), len(names))
        for child, layer, output_bar in zip(names, members, output_bars, strict=True):
            cotangent = Masked(output_bar, None) if isinstance(y_bar, Masked) else output_bar
            child_bar, child_x_bar = child_backward(child, layer, residuals[child], cotangent)
            _put(params_bar, child, child_bar)
            x_bar = child_x_bar if x_bar is None else jax.tree.map(jnp.add, x_bar, child_x_bar)
        return params_bar, x_bar

    return Layer(name, init, composed_forward(make_forward, members), backward, takes_mask=True, layers=members)


def residual(layer: Member, *, shortcut: Member | None = None, name: str = "residual") -> Layer:
    """Adds the output of a layer to its input, so that the layer learns the difference.

    Math:
        y = f(x) + s(x), where s(x) = x if no shortcut is given

    Shapes:
        f keeps the shape of x, or s gives the shape of f(x)

    Gradient:
        x_bar = y_bar + backward(residuals, y_bar). The first term reaches x unchanged, without passing through f.

    Args:
        layer: f.
        shortcut: s, needed if f changes the shape; for example a 1×1 convolution.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn
    >>> net = residual(fnn.chain(fnn.dense(4), fnn.relu))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(net.init(jax.random.key(0), (4,))[0]).items()}
    {'chain_0/dense_0/bias': (4,), 'chain_0/dense_0/weight': (4, 4)}

    References:
        He et al. 2016, "Deep residual learning for image recognition".
    """
    if shortcut is not None:
        return parallel(layer, shortcut, combine="sum", name=name)
    direct = stateless("shortcut", lambda x: (x, ()), lambda nothing, y_bar: y_bar)
    both = parallel(layer, direct, combine="sum", name=name)
    return both._replace(layers=both.layers[:1])


def bidirectional(forward_layer: Layer, backward_layer: Layer | None = None, *, name: str = "bidirectional") -> Layer:
    """Runs one layer forward in time and another backward in time, and concatenates their outputs.

    Math:
        y = [f(x), r(g(r(x)))] on the last axis, where r reverses time. If g gives no sequence, there is no outer r.

    Shapes:
        x (batch, time, in_size); y (batch, time, 2 · out_size) for sequences, (batch, 2 · out_size) for last states

    Gradient:
        r is its own inverse and its own transpose. With y_bar = [u, v], x_bar is the sum of f's cotangent from u and of
        the reversed cotangent of g from r(v).

    Args:
        forward_layer: f, a recurrent layer.
        backward_layer: g; by default the same layer as f, with its own parameters.
        name: used in parameter trees and in error messages.

    >>> import functional_nn as fnn
    >>> params, _ = bidirectional(fnn.dense(2)).init(jax.random.key(0), (5, 3))
    >>> sorted(params)
    ['dense_0', 'reversed_0']

    References:
        Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    """
    backwards = reverse_time(forward_layer if backward_layer is None else backward_layer)
    return parallel(forward_layer, backwards, combine="concatenate", name=name)


def reverse_time(layer: Layer, *, name: str = "reversed") -> Layer:
    """Reverses time before a layer, and again after it if the output is a sequence.

    Math:
        y = r(f(r(x))) with r(x)ₜ = x_{T-1-t}, or y = f(r(x)) if f gives no sequence

    Gradient:
        r is linear and its own transpose: x_bar = r(backward(residuals, r(y_bar))).

    >>> layer = reverse_time(Layer("sum", lambda k, s: ({}, {}), lambda p, s, x, *, train, key=None:
    ...     (jnp.cumsum(x, 1), s, ()), None))
    >>> print(layer.apply({}, {}, jnp.array([[[1.0], [2.0], [3.0]]]), train=False)[0].ravel())
    [6. 5. 3.]
    """
    layer = as_layer(layer)

    def make_forward(members):
        (layer,) = members

        def forward(params, state, x, *, train, key=None):
            expected = "one sequence, (batch, time, features)"
            if _are_several(x):
                raise InputError("x", expected, f"{len(x)} inputs")
            if values_of(x).ndim < 3:
                raise InputError("x", expected, f"shape {values_of(x).shape}")
            y, state, residuals = forward_with_mask(layer, params, state, _reversed(x), train=train, key=key)
            # A pytree of residuals holds arrays only, so "y is a sequence" is kept as () and "it is not" as None.
            if values_of(y).ndim == values_of(x).ndim:
                return _reversed(y), state, (residuals, ())
            return y, state, (residuals, None)

        return forward

    def backward(all_residuals, y_bar):
        residuals, is_sequence = all_residuals
        if is_sequence is not None:
            y_bar = _reversed(y_bar)
        params_bar, x_bar = backward_with_mask(layer, residuals, y_bar)
        return params_bar, _reversed(x_bar)

    return Layer(name, layer.init, composed_forward(make_forward, (layer,)), backward, takes_mask=True, layers=(layer,))


def _are_several(x: Value) -> bool:
    """Whether a value is a tuple of arrays."""
    return isinstance(x, tuple) and not isinstance(x, Masked)


def _reversed(x: Tree) -> Tree:
    """The sequences with their time axis reversed, masks included."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, axis=1), x)


def _put(tree: dict[str, Params], name: str, entries: Params) -> None:
    """Puts a layer's entries under its name, if it has any."""
    if entries:
        tree[name] = entries


def _check_names(names: tuple[str, ...], **trees: Params) -> None:
    for argument, tree in trees.items():
        if unknown := set(tree) - set(names):
            expected = f"entries for the layers {', '.join(names)}"
            given = f"also {', '.join(sorted(unknown))}"
            raise InputError(argument, expected, given, "Use the ones that this network's init returned.")
