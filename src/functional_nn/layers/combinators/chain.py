"""Combinators: chain, parallel, bidirectional, reversed and residual layers.

They use a layer only through the interface of ``Layer``. They handle names, random keys, state and residuals.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from functional_nn.activations.activation_types import Activation, VectorActivation
from functional_nn.core.errors import InputError, check
from functional_nn.core.layer import (
    Layer,
    Residuals,
    as_layer,
    backward_with_mask,
    check_no_other_names,
    child_backward,
    child_forward,
    child_init,
    child_keys,
    composed_forward,
    forward_with_mask,
    named_layers,
    put_entries,
    unique_names,
)
from functional_nn.core.masked import Masked, Value, values_of, with_mask_of
from functional_nn.core.shapes import Shapes, shape_of, stand_in
from functional_nn.core.validation import check_choice

Member: TypeAlias = Layer | Activation | VectorActivation | Callable[[Value], Value]
"""What a combinator takes as a layer."""

Tree = TypeVar("Tree")


def chain(*layers: Member, name: str = "chain", **named: Member) -> Layer:
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
        **named: layers with names of their own. They come after the others, in the order in which they are written.

    Layers without a name of their own are numbered, equal kinds in order: ``dense_0``, ``relu_0``, ``dense_1``. So the
    number of a layer changes if a layer of the same kind is inserted before it. A name given as a keyword does not
    change. A layer's random numbers depend on its name alone.

    >>> import functional_nn as fnn, jax
    >>> net = fnn.chain(fnn.dense(3), fnn.relu, head=fnn.dense(2))
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(params).items() if path.endswith("weight")}
    {'dense_0/weight': (4, 3), 'head/weight': (3, 2)}

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", section 6.5.2, algorithms 6.3 and 6.4.
    """
    return _of_branches(name, {"the layers": named_layers(layers, named)})


def parallel(*layers: Member, combine: str = "sum", name: str = "parallel", **named: Member) -> Layer:
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
        **named: layers with names of their own, after the others.

    Raises:
        InputError: for outputs whose shapes do not fit together, since nothing is broadcast; and if outputs without a
            feature axis are to be concatenated.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> both = fnn.parallel(fnn.relu, fnn.identity, combine="concatenate")
    >>> print(both.apply({}, {}, jnp.array([[-3.0]]), train=False)[0])
    [[ 0. -3.]]

    References:
        Szegedy et al. 2015, "Going deeper with convolutions" (concatenated branches).
    """
    check_choice("combine", combine, COMBINERS)
    children = _at_least_one(layers, named)
    return _of_branches(name, {child: {child: layer} for child, layer in children.items()}, combine)


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

    >>> import functional_nn as fnn, jax
    >>> params, _ = fnn.bidirectional(fnn.dense(2)).init(jax.random.key(0), (5, 3))
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

        An output is a sequence if it has as many axes as x. If x is ``Masked``, the output
        is a sequence only if it is ``Masked``, too.

    Gradient:
        r is linear and its own transpose: x_bar = r(backward(residuals, r(y_bar))).

    Raises:
        InputError: for an output with fewer or more axes than x that may still be a sequence: its second axis has as
            many elements as x has steps, and more axes follow.

    >>> import functional_nn as fnn, jax.numpy as jnp
    >>> layer = fnn.reverse_time(fnn.Layer("sum", lambda k, s: ({}, {}), lambda p, s, x, *, train, key=None:
    ...     (jnp.cumsum(x, 1), s, ()), None))
    >>> print(layer.apply({}, {}, jnp.array([[[1.0], [2.0], [3.0]]]), train=False)[0].ravel())
    [6. 5. 3.]
    """
    layer = as_layer(layer)

    def make_forward(layer):
        def forward(params, state, x, *, train, key=None):
            is_sequence = not are_several(x) and values_of(x).ndim >= 3
            check("x", x, "one sequence, (batch, time, features)", is_sequence)
            y, state, residuals = forward_with_mask(layer, params, state, _reversed(x), train=train, key=key)
            # A pytree of residuals holds arrays only, so "y is a sequence" is kept as () and "it is not" as None.
            if _is_sequence(y, x):
                return _reversed(y), state, (residuals, ())
            return y, state, (residuals, None)

        return forward

    def backward(all_residuals, y_bar):
        residuals, is_sequence = all_residuals
        if is_sequence is not None:
            y_bar = _reversed(y_bar)
        params_bar, x_bar = backward_with_mask(layer, residuals, y_bar)
        return params_bar, _reversed(x_bar)

    (child,) = unique_names([layer])
    forward = composed_forward(make_forward, (layer,))
    return Layer(name, layer.init, forward, backward, takes_mask=True, layers=((child, layer),))


def are_several(x: Value) -> bool:
    """Whether a value is a tuple or a dict of arrays."""
    return isinstance(x, tuple | Mapping) and not isinstance(x, Masked)


def _is_sequence(y: Value, x: Value) -> bool:
    """Whether an output is a sequence like its input. Raises an InputError if its shape does not tell."""
    if isinstance(x, Masked):
        return isinstance(y, Masked)
    if y.ndim != x.ndim and y.ndim > 2 and y.shape[1] == x.shape[1]:
        expected = f"an output of {x.ndim} axes if it is a sequence, as x is"
        remedy = "Put layers that change the number of axes, such as flatten(keep=1), after it."
        raise InputError("layer", expected, f"shapes {x.shape} of x and {y.shape} of the output", remedy)
    return y.ndim == x.ndim


def _reversed(x: Tree) -> Tree:
    """The sequences with their time axis reversed, masks included."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, axis=1), x)


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

    >>> import functional_nn as fnn, jax
    >>> net = fnn.residual(fnn.dense(4), fnn.relu, output=fnn.dense(4))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(net.init(jax.random.key(0), (4,))[0]).items()}
    {'dense_0/bias': (4,), 'dense_0/weight': (4, 4), 'output/bias': (4,), 'output/weight': (4, 4)}
    >>> wider = fnn.residual(fnn.dense(8), fnn.relu, shortcut=fnn.dense(8, bias=False))  # from 4 to 8 features
    >>> sorted(wider.init(jax.random.key(0), (4,))[0])
    ['dense_0', 'shortcut']

    References:
        He et al. 2016, "Deep residual learning for image recognition".
    """
    branches = {"the layers": _at_least_one(layers, named)}
    if shortcut is None:
        branches["the input"] = {}
    else:
        branches["the shortcut"] = {SHORTCUT: as_layer(shortcut)}
    return _of_branches(name, branches, "sum")


def _at_least_one(layers: Sequence[Member], named: Mapping[str, Member]) -> dict[str, Layer]:
    children = named_layers(layers, named)
    check("layers", (), "at least one layer", children)
    return children


def _of_branches(name: str, branches: Mapping[str, dict[str, Layer]], combine: str = "") -> Layer:
    """A layer of one branch, or of several that get the same input and whose outputs are combined.

    Args:
        name: the name of the layer.
        branches: for each branch, the layers that it applies one after the other. Messages call it by its key.
        combine: one of ``COMBINERS``; empty for a single branch, whose output is that of the layer.
    """
    children = {child: layer for branch in branches.values() for child, layer in branch.items()}
    names = tuple(children)

    def keys_of_children(key):
        return dict(zip(names, child_keys(key, names), strict=True))

    def init(key, in_shape):
        keys = keys_of_children(key)
        params, state, shapes = {}, {}, {}
        for label, branch in branches.items():
            shapes[label] = in_shape if branch else shape_of(stand_in(in_shape))
            for child, layer in branch.items():
                child_params, child_state, shapes[label] = child_init(child, layer, keys[child], shapes[label])
                put_entries(params, child, child_params)
                put_entries(state, child, child_state)
        if combine:
            check_shapes_fit(shapes, combine)
        return params, state

    def make_forward(*members):
        layers = dict(zip(names, members, strict=True))

        def forward(params, state, x, *, train, key=None):
            check_no_other_names(names, params=params, state=state)
            keys = keys_of_children(key)
            new_state, residuals, outputs = {}, {}, []
            for branch in branches.values():
                y = x
                for child in branch:
                    made = child_forward(child, layers[child], params, state, y, train=train, key=keys[child])
                    y, child_state, residuals[child] = made
                    put_entries(new_state, child, child_state)
                outputs.append(y)
            if not combine:
                return outputs[0], new_state, (residuals, ())
            values = [values_of(y) for y in outputs]
            shapes = dict(zip(branches, (jax.tree.map(jnp.shape, y) for y in values), strict=True))
            check_shapes_fit(shapes, combine, batch_axes=1)
            y, combined = COMBINERS[combine].forward(values)
            return with_mask_of(outputs[0], y), new_state, (residuals, combined)

        return forward

    def backward(all_residuals, y_bar):
        residuals, combined = all_residuals
        output_bars = [y_bar]
        if combine:
            bars = COMBINERS[combine].backward(combined, values_of(y_bar), len(branches))
            output_bars = [with_mask_of(y_bar, bar) for bar in bars]
        params_bar, x_bars = {}, []
        for branch, bar in zip(branches.values(), output_bars, strict=True):
            for child in reversed(branch):
                child_bar, bar = child_backward(child, children[child], residuals[child], bar)
                put_entries(params_bar, child, child_bar)
            x_bars.append(bar)
        return params_bar, reduce(partial(jax.tree.map, jnp.add), x_bars)

    forward = composed_forward(make_forward, tuple(children.values()))
    return Layer(name, init, forward, backward, takes_mask=True, layers=tuple(children.items()))


class Combiner(NamedTuple):
    """A way to combine outputs.

    Args:
        forward: ``forward(outputs) -> (y, residuals)``.
        backward: ``backward(residuals, y_bar, count) -> output_bars``, one cotangent for each of count outputs.
    """

    forward: Callable[[list[jax.Array]], tuple[jax.Array, Residuals]]
    backward: Callable[[Residuals, jax.Array, int], list[jax.Array]]


def check_shapes_fit(shapes: Mapping[str, Shapes], combine: str, *, batch_axes: int = 0) -> None:
    """Requires outputs whose shapes fit together; nothing is broadcast. The first ``batch_axes`` are batch axes."""
    joined = combine == "concatenate"
    check("layers", shapes, "layers with one output each", not any(map(_have_several_inputs, shapes.values())))
    have_features = not joined or min(map(len, shapes.values())) > batch_axes
    remedy = "Give neuron() a feature axis by reshape((1,)), or use dense(1)."
    check("layers", shapes, "outputs with a feature axis, which is joined", have_features, remedy)
    first, *others = (shape[:-1] if joined else shape for shape in shapes.values())
    expected = "outputs of equal shapes, except on the last axis" if joined else "outputs of equal shapes"
    remedy = "Nothing is broadcast: give a shortcut or a projection."
    check("layers", shapes, expected, all(shape == first for shape in others), remedy)


def _have_several_inputs(shape: Shapes) -> bool:
    """Whether shapes are those of several outputs, in a dict or a tuple."""
    return isinstance(shape, Mapping) or any(isinstance(part, tuple | Mapping) for part in shape)


def _product(outputs: list[jax.Array]) -> tuple[jax.Array, Residuals]:
    return reduce(operator.mul, outputs), tuple(outputs)


def _product_backward(outputs: Residuals, y_bar: jax.Array, count: int) -> list[jax.Array]:
    # Not y / outputs[i], which would be 0 / 0 where an output is 0.
    others = [outputs[:i] + outputs[i + 1 :] for i in range(count)]
    return [reduce(operator.mul, factors, y_bar) for factors in others]


def _concatenate(outputs: list[jax.Array]) -> tuple[jax.Array, Residuals]:
    # The residuals are empty arrays: the backward pass needs only the sizes of the last axes.
    return jnp.concatenate(outputs, axis=-1), tuple(y[:0] for y in outputs)


def _concatenate_backward(no_examples: Residuals, y_bar: jax.Array, count: int) -> list[jax.Array]:
    *ends, _ = itertools.accumulate(y.shape[-1] for y in no_examples)
    return jnp.split(y_bar, ends, axis=-1)


COMBINERS = {
    "sum": Combiner(lambda outputs: (reduce(operator.add, outputs), ()), lambda nothing, y_bar, count: [y_bar] * count),
    "product": Combiner(_product, _product_backward),
    "concatenate": Combiner(_concatenate, _concatenate_backward),
}
"""The ways to combine outputs, by name."""
