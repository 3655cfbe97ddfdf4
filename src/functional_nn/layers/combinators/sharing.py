"""Sharing and freezing parameters."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import composed_forward
from functional_nn.core.layer import Layer, as_layer
from functional_nn.core.layer_checks import check_entries
from functional_nn.core.masked import values_of
from functional_nn.core.validation import shown


def shared(layer: Layer, places: Mapping[str, str]) -> Layer:
    """The same network with one set of parameters used in several places.

    Math:
        f(x; θ) with θ_use = θ_source for every use: the parameters hold the source alone

    Gradient:
        θ_source is used in all of its places, so its cotangent is the sum over them:

        θ_source_bar = Σ_places θ_place_bar

    Args:
        layer: the network.
        places: for each use's path its source's, both of subtrees or both of arrays. The source's stays.

    Raises:
        InputError: at ``init``, where a path does not exist or the two do not have the same parameters and shapes.

    >>> import functional_nn as fnn, jax
    >>> net = shared(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(3)), {"dense_1": "dense_0"})
    >>> sorted(fnn.trees.flatten(net.init(jax.random.key(0), (3,))[0]))
    ['dense_0/bias', 'dense_0/weight']

    References:
        Press and Wolf 2017, "Using the output embedding to improve language models".
    """
    layer = as_layer(layer)
    if not isinstance(places, Mapping) or not all(isinstance(path, str) for pair in places.items() for path in pair):
        raise InputError("places", "a dict from each use's path to its source's", shown(places))
    for use, source in places.items():
        if source in places or use == source:
            remedy = "Name the same source for all uses."
            raise InputError("places", f"a source for {use} that is no use itself", repr(source), remedy)

    def pairs(leaves):
        """(a use's path, its source's path) for every array that is used more than once."""
        for use, source in places.items():
            yield from ((use + path.removeprefix(source), path) for path in leaves if trees.is_under(path, source))

    def init(key, in_shape):
        params, state = layer.init(key, in_shape)
        leaves = trees.flatten(params)
        for use, source in places.items():
            found = [
                {path.removeprefix(root): leaf.shape for path, leaf in leaves.items() if trees.is_under(path, root)}
                for root in (use, source)
            ]
            if not found[0] or found[0] != found[1]:
                given = f"{use}{_named(found[0])} and {source}{_named(found[1])}"
                known = f"There are: {', '.join(leaves)}."
                raise InputError("places", "two paths with the same parameters and shapes", given, known)
        uses = {use for use, _ in pairs(leaves)}
        return trees.unflatten({path: leaf for path, leaf in leaves.items() if path not in uses}), state

    def make_forward(layers):
        (layer,) = layers

        def forward(params, state, x, *, train, key=None):
            leaves = trees.flatten(params)
            everywhere = trees.unflatten({**leaves, **{use: leaves[source] for use, source in pairs(leaves)}})
            return layer.forward(everywhere, state, x, train=train, key=key)

        return forward

    def backward(residuals, y_bar):
        params_bar, x_bar = layer.backward(residuals, y_bar)
        leaves = trees.flatten(params_bar)
        for use, source in list(pairs(leaves)):
            leaves[source] = leaves[source] + leaves.pop(use)
        return trees.unflatten(leaves), x_bar

    return layer._replace(init=init, forward=composed_forward(make_forward, (layer,)), backward=backward)


def frozen(layer: Layer, paths: trees.Paths) -> Layer:
    """The same network with chosen parameters left alone: no gradient, no decay, no memory in the optimizer.

    They are in the state (``state["frozen"]``), which training carries along, and not in the parameters.
    ``trees.partition`` and ``trees.merge`` bring trained parameters in and out:
    ``chosen, params = trees.partition(trained, paths)``, ``state = {**state, "frozen": chosen}``.

    Gradient:
        the layer's own for the parameters that are left

    Args:
        layer: the network.
        paths: which parameters, see ``trees.select``.

    >>> import functional_nn as fnn, jax
    >>> net = frozen(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)), "dense_0/*")
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> sorted(params), sorted(fnn.trees.flatten(state["frozen"]))
    (['dense_1'], ['dense_0/bias', 'dense_0/weight'])

    References:
        Yosinski et al. 2014, "How transferable are features in deep neural networks?".
    """

    layer, paths = as_layer(layer), trees.check_paths(paths)

    def init(key, in_shape):
        params, state = layer.init(key, in_shape)
        chosen, rest = trees.partition(params, paths)
        return rest, {"frozen": chosen, "state": state} if state else {"frozen": chosen}

    def make_forward(layers):
        (layer,) = layers

        def forward(params, state, x, *, train, key=None):
            check_entries("state", state, ("frozen",))
            everything = trees.merge(params, _computed_in(_dtype_of(params, values_of(x)), state["frozen"]))
            y, inner, residuals = layer.forward(everything, state.get("state", {}), x, train=train, key=key)
            return y, {**state, "state": inner} if inner else state, residuals

        return forward

    def backward(residuals, y_bar):
        params_bar, x_bar = layer.backward(residuals, y_bar)
        return trees.partition(params_bar, paths)[1], x_bar

    return layer._replace(init=init, forward=composed_forward(make_forward, (layer,)), backward=backward)


def _dtype_of(*trees_of_arrays):
    """The type to compute in: that of the parameters that are left, which training casts, else of the input."""
    leaves = (leaf.dtype for leaf in jax.tree.leaves(trees_of_arrays))
    return next((dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)), None)


def _computed_in(dtype, params):
    return params if dtype is None else trees.map_with_path(lambda path, leaf: leaf.astype(dtype), params)


def _named(shapes):
    return " (nothing)" if not shapes else " (" + ", ".join(f"{p.lstrip('/')} {s}" for p, s in shapes.items()) + ")"
