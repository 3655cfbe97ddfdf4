"""The residual combinator: layers whose output is added to their input."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from functional_nn.core.children import (
    check_no_other_names,
    child_backward,
    child_forward,
    child_init,
    child_keys,
    named_layers,
    put_entries,
)
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import composed_forward
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.masked import values_of, with_mask_of
from functional_nn.core.shapes import shape_of, stand_in
from functional_nn.layers.combinators.chain import (
    Member,
    are_several,
    backward_in_order,
    forward_in_order,
    init_in_order,
)
from functional_nn.layers.combinators.combining import check_shapes_fit

SHORTCUT = "shortcut"
"""The name of the shortcut in parameter trees."""


def residual(*layers: Member, shortcut: Member | None = None, name: str = "residual", **named: Member) -> Layer:
    """Adds the output of layers, applied one after the other, to their input, so that they learn the difference.

    Math:
        y = f(x) + s(x), where f applies the layers in order, and s(x) = x if no shortcut is given

    Shapes:
        f keeps the shape of x, or s gives the shape of f(x)

    Gradient:
        x_bar = y_bar + backward(residuals, y_bar). The first term reaches x unchanged, without passing through f.

    Args:
        *layers: the layers of f.
        shortcut: s, needed if f changes the shape; for example a 1×1 convolution.
        name: used in parameter trees and in error messages.
        **named: more layers of f, with names of their own, after the others.

    >>> import functional_nn as fnn
    >>> net = residual(fnn.dense(4), fnn.relu, output=fnn.dense(4))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(net.init(jax.random.key(0), (4,))[0]).items()}
    {'dense_0/bias': (4,), 'dense_0/weight': (4, 4), 'output/bias': (4,), 'output/weight': (4, 4)}

    References:
        He et al. 2016, "Deep residual learning for image recognition".
    """
    children = named_layers(layers, named)
    if not children:
        raise InputError("layers", "at least one layer", "none")
    shortcut_layer = None if shortcut is None else as_layer(shortcut)
    names = tuple(children) if shortcut_layer is None else (*children, SHORTCUT)

    def init(key, in_shape):
        params, state, out_shape = init_in_order(children, key, in_shape)
        shortcut_shape = shape_of(stand_in(in_shape))
        if shortcut_layer is not None:
            (shortcut_key,) = child_keys(key, (SHORTCUT,))
            made = child_init(SHORTCUT, shortcut_layer, shortcut_key, in_shape)
            shortcut_params, shortcut_state, shortcut_shape = made
            put_entries(params, SHORTCUT, shortcut_params)
            put_entries(state, SHORTCUT, shortcut_state)
        check_sum(out_shape, shortcut_shape)
        return params, state

    def check_sum(out_shape, shortcut_shape):
        added = "the input" if shortcut_layer is None else "the shortcut"
        check_shapes_fit({"the layers": out_shape, added: shortcut_shape}, "sum")

    def make_forward(members):
        inner = dict(zip(names, members, strict=True))
        shortcut_layer = inner.pop(SHORTCUT, None)

        def forward(params, state, x, *, train, key=None):
            check_no_other_names(names, params=params, state=state)
            y, new_state, residuals = forward_in_order(inner, params, state, x, train=train, key=key)
            added = x
            if shortcut_layer is not None:
                (shortcut_key,) = child_keys(key, (SHORTCUT,))
                made = child_forward(SHORTCUT, shortcut_layer, params, state, x, train=train, key=shortcut_key)
                added, shortcut_state, residuals[SHORTCUT] = made
                put_entries(new_state, SHORTCUT, shortcut_state)
            if are_several(y) or are_several(added):
                raise InputError("layers", "layers with one output each", "a layer with several outputs")
            values, added_values = values_of(y), values_of(added)
            check_sum(values.shape, added_values.shape)
            return with_mask_of(y, values + added_values), new_state, residuals

        return forward

    def backward(residuals, y_bar):
        params_bar, x_bar = backward_in_order(children, residuals, y_bar)
        shortcut_bar = y_bar
        if shortcut_layer is not None:
            child_bar, shortcut_bar = child_backward(SHORTCUT, shortcut_layer, residuals[SHORTCUT], y_bar)
            put_entries(params_bar, SHORTCUT, child_bar)
        return params_bar, jax.tree.map(jnp.add, x_bar, shortcut_bar)

    members = tuple(children.values()) if shortcut_layer is None else (*children.values(), shortcut_layer)
    layers_by_name = tuple(zip(names, members, strict=True))
    return Layer(name, init, composed_forward(make_forward, members), backward, takes_mask=True, layers=layers_by_name)
