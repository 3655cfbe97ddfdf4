"""Combinators: chain, parallel, residual, bidirectional and reversed layers.

They use nothing of a layer but ``Layer``, and pass on its name, random key, state and residuals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

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
from functional_nn.core.layer import Layer, as_layer, stateless
from functional_nn.core.masked import Masked, values_of, with_mask_of
from functional_nn.core.validation import check_choice

Member: TypeAlias = Layer | Activation | VectorActivation | Callable[[Any], Any]


def chain(*layers: Member, name: str = "chain") -> Layer:
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
    """Several layers of the same input, their outputs combined.

    Math:
        y = Σᵢ fᵢ(x) (``"sum"``), y = ∏ᵢ fᵢ(x) element by element (``"product"``), or the fᵢ(x) one after the other on
        the last axis (``"concatenate"``)

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
        InputError: where the outputs' shapes do not go together; nothing is broadcast.

    >>> import functional_nn as fnn
    >>> both = parallel(fnn.relu, fnn.identity, combine="concatenate")
    >>> print(both.apply({}, {}, jnp.array([[-3.0]]), train=False)[0])
    [[ 0. -3.]]

    References:
        Szegedy et al. 2015, "Going deeper with convolutions" (concatenated branches).
    """
    check_choice("combine", combine, COMBINERS)
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
        _check_together(shapes, combine)
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
                raise InputError("layers", "one output each, to be combined", "several of one layer")
            values = [values_of(y) for y in outputs]
            _check_together(dict(zip(names, (y.shape for y in values), strict=True)), combine)
            y, combined = COMBINERS[combine][0](values)
            return with_mask_of(outputs[0], y), new_state, (residuals, combined)

        return forward

    def backward(all_residuals, y_bar):
        residuals, combined = all_residuals
        params_bar, x_bar = {}, None
        shares = COMBINERS[combine][1](combined, values_of(y_bar), len(names))
        for child, layer, share in zip(names, members, shares, strict=True):
            cotangent = Masked(share, None) if isinstance(y_bar, Masked) else share
            child_bar, part = child_backward(child, layer, residuals[child], cotangent)
            _put(params_bar, child, child_bar)
            x_bar = part if x_bar is None else jax.tree.map(jnp.add, x_bar, part)
        return params_bar, x_bar

    return Layer(name, init, composed_forward(make_forward, members), backward, takes_mask=True, layers=members)


def residual(layer: Member, *, shortcut: Member | None = None, name: str = "residual") -> Layer:
    """A layer whose output is added to its input, so that it learns the difference.

    Math:
        y = f(x) + s(x), where s(x) = x unless a shortcut is given

    Shapes:
        f keeps the shape of x, or s gives the shape of f(x)

    Gradient:
        x_bar = y_bar + backward(residuals, y_bar): the cotangent reaches x undiminished beside f.

    Args:
        layer: f.
        shortcut: s, where f changes the shape: a 1×1 convolution, for instance.
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
    """One layer over time as it runs and one from the end, their outputs concatenated.

    Math:
        y = [f(x), r(g(r(x)))] on the last axis, where r turns time around; the outer r only where g gives a sequence

    Shapes:
        x (batch, time, in_size); y (batch, time, 2 · out_size) for sequences, (batch, 2 · out_size) for last states

    Gradient:
        r is its own inverse and its own transpose, so x_bar = f's + r(g's), with y_bar's halves, the second turned
        around.

    Args:
        forward_layer: f, a recurrent layer.
        backward_layer: g; by default one like f with parameters of its own.
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
    """A layer that reads time from the end; an output that has a time axis is turned back.

    Math:
        y = r(f(r(x))) with r(x)ₜ = x_{T-1-t}; y = f(r(x)) where f gives no sequence

    Gradient:
        r is linear and its own transpose: x_bar = r(backward(residuals, r(y_bar))).

    >>> layer = reverse_time(Layer("sum", lambda k, s: ({}, {}), lambda p, s, x, *, train, key=None:
    ...     (jnp.cumsum(x, 1), s, ()), None))
    >>> print(layer.apply({}, {}, jnp.array([[[1.0], [2.0], [3.0]]]), train=False)[0].ravel())
    [6. 5. 3.]
    """
    layer = as_layer(layer)

    def init(key, in_shape):
        return layer.init(key, in_shape)

    def make_forward(members):
        (layer,) = members

        def forward(params, state, x, *, train, key=None):
            given = f"{len(x)} inputs" if _are_several(x) else f"shape {values_of(x).shape}"
            if _are_several(x) or values_of(x).ndim < 3:
                raise InputError("x", "one sequence, (batch, time, features)", given)
            y, state, residuals = forward_with_mask(layer, params, state, _reversed(x), train=train, key=key)
            # A pytree of residuals holds arrays only, so "y is a sequence" is kept as () and "it is not" as None.
            if values_of(y).ndim == values_of(x).ndim:
                return _reversed(y), state, (residuals, ())
            return y, state, (residuals, None)

        return forward

    def backward(all_residuals, y_bar):
        residuals, is_sequence = all_residuals
        params_bar, x_bar = backward_with_mask(layer, residuals, y_bar if is_sequence is None else _reversed(y_bar))
        return params_bar, _reversed(x_bar)

    return Layer(name, init, composed_forward(make_forward, (layer,)), backward, takes_mask=True, layers=(layer,))


def _are_several(x: Any) -> bool:
    return isinstance(x, tuple) and not isinstance(x, Masked)


def _reversed(x: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.flip(leaf, axis=1), x)


def _sum(outputs):
    return sum(outputs[1:], outputs[0]), ()


def _sum_shares(nothing, y_bar, count):
    return [y_bar] * count


def _product(outputs):
    return math.prod(outputs[1:], start=outputs[0]), tuple(outputs)


def _product_shares(outputs, y_bar, count):
    others = [outputs[:i] + outputs[i + 1 :] for i in range(count)]
    return [math.prod(factors, start=y_bar) for factors in others]


def _concatenate(outputs):
    return jnp.concatenate(outputs, axis=-1), tuple(y[:0] for y in outputs)


def _concatenate_shares(no_examples, y_bar, count):
    sizes = [y.shape[-1] for y in no_examples]
    ends = [sum(sizes[: i + 1]) for i in range(count)]
    return [y_bar[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


COMBINERS = {
    "sum": (_sum, _sum_shares),
    "product": (_product, _product_shares),
    "concatenate": (_concatenate, _concatenate_shares),
}
"""Outputs to one with its residuals, and those with a cotangent to one cotangent each."""


def _put(tree: dict[str, Any], name: str, entries: Mapping[str, Any]) -> None:
    """Leaves no empty entry behind."""
    if entries:
        tree[name] = entries


def _check_names(names: tuple[str, ...], **trees: Mapping[str, Any]) -> None:
    for argument, tree in trees.items():
        if unknown := set(tree) - set(names):
            expected = f"entries for the layers {', '.join(names)}"
            raise InputError(argument, expected, f"also {', '.join(sorted(unknown))}", "Use this network's own.")


def _check_together(shapes: Mapping[str, Any], combine: str) -> None:
    joined = combine == "concatenate"
    if len({shape[:-1] if joined else shape for shape in shapes.values()}) > 1:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        axes = "of one shape but for the last axis" if joined else "of one shape"
        raise InputError("layers", f"outputs {axes}", given, "Nothing is broadcast: give a shortcut or a projection.")
