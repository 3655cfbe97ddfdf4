"""Parameter sharing and parameter freezing."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.core.cotangents import leaves_and_none
from functional_nn.core.errors import InputError
from functional_nn.core.forward_versions import composed_forward
from functional_nn.core.layer import Layer, State, as_layer, backward_of, checked_init
from functional_nn.core.layer_checks import check_entries
from functional_nn.core.masked import values_of
from functional_nn.core.validation import shown


def shared(layer: Layer, places: Mapping[str, str]) -> Layer:
    """Uses one set of parameters in several places of a network.

    Math:
        f(x; θ) with θ_use = θ_source for every use. The parameters contain the source only.

    Gradient:
        θ_source is used in several places, so its cotangent is the sum over them:

        θ_source_bar = Σ_places θ_place_bar

    Args:
        layer: the network.
        places: maps the path of each use to the path of its source. Both are paths of subtrees, or both of arrays. The
            parameters at the source are kept, those at the uses are left out.

    Raises:
        InputError: at ``init``, if a path does not exist, or if use and source differ in parameters or shapes.

    >>> import functional_nn as fnn, jax
    >>> net = shared(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(3)), {"dense_1": "dense_0"})
    >>> sorted(fnn.trees.flatten(net.init(jax.random.key(0), (3,))[0]))
    ['dense_0/bias', 'dense_0/weight']

    References:
        Press and Wolf 2017, "Using the output embedding to improve language models".
    """
    layer = as_layer(layer)
    if not isinstance(places, Mapping) or not all(isinstance(path, str) for pair in places.items() for path in pair):
        raise InputError("places", "a dict from the path of each use to the path of its source", shown(places))
    for use, source in places.items():
        if source in places or use == source:
            remedy = "Give all uses the same source."
            raise InputError("places", f"a source for {use} that is not itself a use", repr(source), remedy)

    def uses_and_sources(leaves: Mapping[str, trees.PyTree]) -> list[tuple[str, str]]:
        """The path of each use of an array, with the path of its source."""
        return [
            (use + path.removeprefix(source), path)
            for use, source in places.items()
            for path in leaves
            if trees.is_under(path, source)
        ]

    def init(key, in_shape):
        params, state = checked_init(layer, key, in_shape)
        leaves = trees.flatten(params)
        for use, source in places.items():
            use_shapes, source_shapes = _shapes_under(leaves, use), _shapes_under(leaves, source)
            if not use_shapes or use_shapes != source_shapes:
                given = f"{use} {_listed(use_shapes)} and {source} {_listed(source_shapes)}"
                known = f"There are: {', '.join(leaves)}."
                raise InputError("places", "two paths with the same parameters and shapes", given, known)
        uses = {use for use, _ in uses_and_sources(leaves)}
        return trees.unflatten({path: leaf for path, leaf in leaves.items() if path not in uses}), state

    def make_forward(layers):
        (layer,) = layers

        def forward(params, state, x, *, train, key=None):
            leaves = trees.flatten(params)
            copies = {use: leaves[source] for use, source in uses_and_sources(leaves)}
            return layer.forward(trees.unflatten({**leaves, **copies}), state, x, train=train, key=key)

        return forward

    def backward(residuals, y_bar):
        params_bar, x_bar = backward_of(layer)(residuals, y_bar)
        bars = leaves_and_none(params_bar)
        for use, source in places.items():
            for path in [path for path in bars if trees.is_under(path, use)]:
                place = source + path.removeprefix(use)
                bars[place] = _added(bars.get(place), bars.pop(path))
        return trees.unflatten(bars), x_bar

    return layer._replace(init=init, forward=composed_forward(make_forward, (layer,)), backward=backward)


def frozen(layer: Layer, paths: trees.Paths) -> Layer:
    """Freezes chosen parameters: they have no gradient, no weight decay and no memory in the optimizer.

    They are not in the parameters but in the state (``state["frozen"]``), which training does not change. To freeze
    parameters that are already trained, use ``chosen, params = trees.partition(trained, paths)`` and
    ``state = {"frozen": chosen}``. ``trees.merge`` puts the two back together. If the layer has a state itself, such as
    the statistics of batch norm, it is in ``state["state"]``: use ``{"frozen": chosen, "state": trained_state}``.

    Gradient:
        the layer's own, for the parameters that are not frozen

    Args:
        layer: the network.
        paths: the parameters to freeze, see ``trees.select``.

    >>> import functional_nn as fnn, jax
    >>> net = frozen(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)), "dense_0/*")
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> sorted(params), sorted(fnn.trees.flatten(state["frozen"]))
    (['dense_1'], ['dense_0/bias', 'dense_0/weight'])

    References:
        Yosinski et al. 2014, "How transferable are features in deep neural networks?".
    """
    layer = as_layer(layer)
    paths = trees.check_paths(paths)

    def init(key, in_shape):
        params, state = checked_init(layer, key, in_shape)
        chosen, rest = trees.partition(params, paths)
        frozen_state: dict[str, State] = {"frozen": chosen}
        if state:
            frozen_state["state"] = state
        return rest, frozen_state

    def make_forward(layers):
        (layer,) = layers

        def forward(params, state, x, *, train, key=None):
            check_entries("state", state, ("frozen",))
            # Training may cast params and x to another type, so the frozen parameters are cast too.
            chosen = _cast(_dtype_of(params, values_of(x)), state["frozen"])
            all_params = trees.merge(params, chosen)
            y, inner_state, residuals = layer.forward(all_params, state.get("state", {}), x, train=train, key=key)
            if inner_state:
                state = {**state, "state": inner_state}
            return y, state, residuals

        return forward

    def backward(residuals, y_bar):
        params_bar, x_bar = backward_of(layer)(residuals, y_bar)
        bars = leaves_and_none(params_bar)
        is_frozen = trees.matcher(paths)
        return trees.unflatten({path: bar for path, bar in bars.items() if not is_frozen(path)}), x_bar

    return layer._replace(init=init, forward=composed_forward(make_forward, (layer,)), backward=backward)


def _added(bar, other_bar):
    """The sum of two cotangents. None stands for no gradient."""
    if bar is None or other_bar is None:
        return other_bar if bar is None else bar
    return bar + other_bar


def _dtype_of(*trees_of_arrays):
    """The type to compute in: the first floating-point type among the trained parameters and the input."""
    leaves = (leaf.dtype for leaf in jax.tree.leaves(trees_of_arrays))
    return next((dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)), None)


def _cast(dtype, params):
    """The floating-point arrays in this type, and integers as they are."""

    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return params if dtype is None else jax.tree.map(cast, params)


def _shapes_under(leaves, root):
    """The shapes of the leaves below a path, by the rest of their paths."""
    return {path.removeprefix(root): leaf.shape for path, leaf in leaves.items() if trees.is_under(path, root)}


def _listed(shapes):
    if not shapes:
        return "(nothing)"
    return "(" + ", ".join(f"{path.lstrip('/')} {shape}" for path, shape in shapes.items()) + ")"
