"""Layers around one layer: ``repeat``, ``remat``, ``shared`` and ``frozen``.

``repeat`` compiles one block for all repetitions, ``remat`` recomputes values to save memory, ``shared`` uses the same
parameters in several places, and ``frozen`` leaves parameters as they are in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from functional_nn.core import trees
from functional_nn.core.errors import InputError, check, shown
from functional_nn.core.layer import (
    Backward,
    Forward,
    Layer,
    Params,
    State,
    as_layer,
    backward_of,
    check_no_other_names,
    checked_init,
    child_backward,
    child_forward,
    child_init,
    composed_forward,
    has_formula,
    leaves_and_none,
    unique_names,
)
from functional_nn.core.masked import Masked, values_of
from functional_nn.core.scan import scan
from functional_nn.core.shapes import cast, shape_of, stand_in
from functional_nn.core.trees import path_of
from functional_nn.core.validation import check_count, check_entries, check_function, check_key, check_trees


def repeat(layer: Layer, count: int, *, name: str = "repeat") -> Layer:
    """Applies a layer several times, each time with its own parameters, as a ``scan``. It is compiled only once.

    Math:
        y = f_{count-1}(… f₁(f₀(x))), where fᵢ is the layer with the i-th slice of the parameters

    Shapes:
        the layer keeps the shape of x; every parameter has a leading axis of size ``count``

    Gradient:
        The chain rule as in ``chain``, as a scan from the last slice to the first:

        (params_barᵢ, x_barᵢ) = backward(residualsᵢ, x_barᵢ₊₁), x_bar_count = y_bar

    Args:
        layer: the layer to repeat.
        count: the number of repetitions.
        name: used in parameter trees and in error messages.

    Raises:
        InputError: for a layer that changes the shape of its input.

    >>> import functional_nn as fnn, jax
    >>> params, _ = fnn.repeat(fnn.residual(fnn.dense(4)), 24).init(jax.random.key(0), (4,))
    >>> {path: leaf.shape for path, leaf in fnn.trees.flatten(params).items()}
    {'residual_0/dense_0/bias': (24, 4), 'residual_0/dense_0/weight': (24, 4, 4)}
    """
    layer = as_layer(layer)
    count = check_count("count", count)
    (child,) = unique_names([layer])

    def keys_from(key):
        if key is None:
            return None
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(check_key(key), jnp.arange(count, dtype=jnp.uint32))

    def init(key, in_shape):
        def init_one(key):
            params, state, out_shape = child_init(child, layer, key, in_shape)
            remedy = "Repeat a layer that keeps the shape, and put layers that change it before or after."
            keeps = out_shape == shape_of(stand_in(in_shape))
            check("layer", out_shape, f"an output of the input's shape {in_shape}", keeps, remedy)
            return params, state

        keys = keys_from(key)
        params, state = jax.vmap(init_one, in_axes=None if keys is None else 0, axis_size=count)(keys)
        return ({child: params} if params else {}), ({child: state} if state else {})

    @jax.jit
    def scanned_back(residuals, y_bar):
        def step(y_bar, residuals):
            params_bar, x_bar = child_backward(child, layer, residuals, y_bar)
            return x_bar, params_bar

        return scan(step, y_bar, residuals, length=count, reverse=True)

    def make_forward(layer):
        @partial(jax.jit, static_argnames="train")
        def scanned(params, state, keys, x, train):
            def step(x, entry):
                params, state, key = entry
                made = child_forward(child, layer, {child: params}, {child: state}, x, train=train, key=key)
                y, new_state, residuals = made
                remedy = "A repeated layer has to keep the shape and the type. Convert x or the parameters."
                check("x", x, f"an input like the output, {shown(y)}", shown(x) == shown(y), remedy)
                return y, (new_state, residuals)

            return scan(step, x, (params, state, keys), length=count)

        def forward(params, state, x, *, train, key=None):
            check_no_other_names((child,), params=params, state=state)
            for path, leaf in jax.tree_util.tree_leaves_with_path((params, state)):
                fits = jnp.shape(leaf)[:1] == (count,)
                check(path_of(path[1:]), leaf, f"a leading axis of {count}, one slice each", fits)
            child_params, child_state = params.get(child, {}), state.get(child, {})
            y, (new_state, residuals) = scanned(child_params, child_state, keys_from(key), x, train=bool(train))
            return y, ({child: new_state} if new_state else {}), residuals

        return forward

    def backward(residuals, y_bar):
        # A scan needs one structure in all steps. Layers give back cotangents without a mask, so it begins with one.
        if isinstance(y_bar, Masked):
            y_bar = Masked(y_bar.values, None)
        x_bar, params_bar = scanned_back(residuals, y_bar)
        return ({child: params_bar} if params_bar else {}), x_bar

    return Layer(
        name, init, composed_forward(make_forward, (layer,)), backward, takes_mask=True, layers=((child, layer),)
    )


def remat(layer: Layer, *, policy: Callable[..., bool] | None = None) -> Layer:
    """Computes a layer's inner values again in the backward pass instead of keeping them, which saves memory.

    Math:
        y = f(x); names and parameters do not change

    Gradient:
        The layer's own. Only parameters, state, input and key are kept as residuals. The backward pass first computes
        the layer's residuals from them again. ``jax.grad`` does the same by ``jax.checkpoint``.

    Args:
        layer: f.
        policy: the inner values that ``jax.grad`` may still keep, one of ``jax.checkpoint_policies``.

    The pullback calls the layer again. So if the layer has a traced hyper-parameter, the pullback can be used only
    inside the same trace.

    >>> import functional_nn as fnn, jax, jax.numpy as jnp
    >>> layer = fnn.remat(fnn.chain(fnn.dense(3), fnn.tanh))
    >>> params, state = layer.init(jax.random.key(0), (2,))
    >>> print(layer.vjp(params, state, jnp.ones((1, 2)), train=True)[2](jnp.ones((1, 3)))[1].shape)
    (1, 2)

    References:
        Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    layer = as_layer(layer)
    if policy is not None:
        check_function("policy", policy, "one of jax.checkpoint_policies")

    def make_forward(layer):
        def forward(params, state, x, *, train, key=None):
            def apply(params, state, x, key):
                return layer.apply(params, state, x, train=train, key=key)

            y, new_state = jax.checkpoint(apply, policy=policy)(params, state, x, key)
            # A pytree of residuals holds arrays only, so train=True is kept as () and train=False as None.
            return y, new_state, (params, state, x, key, () if train else None)

        return forward

    def backward(inputs, y_bar):
        params, state, x, key, in_training = inputs
        # Without the barrier the compiler recognizes the second forward pass and keeps the values of the first.
        params, x, y_bar = lax.optimization_barrier((params, x, y_bar))
        _, _, residuals = layer.forward(params, state, x, train=in_training is not None, key=key)
        return backward_of(layer)(residuals, y_bar)

    return _around(layer, make_forward, backward)


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
    >>> net = fnn.shared(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(3)), {"dense_1": "dense_0"})
    >>> sorted(fnn.trees.flatten(net.init(jax.random.key(0), (3,))[0]))
    ['dense_0/bias', 'dense_0/weight']

    References:
        Press and Wolf 2017, "Using the output embedding to improve language models".
    """
    layer = as_layer(layer)
    are_paths = isinstance(places, Mapping) and all(isinstance(path, str) for pair in places.items() for path in pair)
    check("places", places, "a dict from the path of each use to the path of its source", are_paths)
    for use, source in places.items():
        is_source = source not in places and use != source
        expected, remedy = f"a source for {use} that is not itself a use", "Give all uses the same source."
        check("places", source, expected, is_source, remedy)

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

    def make_forward(layer):
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

    return _around(layer, make_forward, backward)._replace(init=init)


def frozen(layer: Layer, paths: trees.Paths, *, start: Params | None = None) -> Layer:
    """Freezes chosen parameters: they have no gradient, no weight decay and no memory in the optimizer.

    They are not in the parameters but in the state (``state["frozen"]``), which training does not change.
    ``trees.merge(params, state["frozen"])`` puts the two back together. If the layer has a state itself, such as the
    statistics of batch norm, it is in ``state["state"]``. Its trained values go into ``fit`` as
    ``start=(params, {**state, "state": trained_state})``.

    Gradient:
        the layer's own, for the parameters that are not frozen

    Args:
        layer: the network.
        paths: the parameters to freeze, see ``trees.select``.
        start: trained parameters, which ``init`` gives in place of new ones. Parameters that it does not have, or that
            have another shape, such as those of a new last layer, start anew. They cannot be frozen.

    >>> import functional_nn as fnn, jax
    >>> net = fnn.frozen(fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2)), "dense_0/*")
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> sorted(params), sorted(fnn.trees.flatten(state["frozen"]))
    (['dense_1'], ['dense_0/bias', 'dense_0/weight'])

    References:
        Yosinski et al. 2014, "How transferable are features in deep neural networks?".
    """
    layer = as_layer(layer)
    paths = trees.check_paths(paths)
    if start is not None:
        check_trees(start, {})

    def init(key, in_shape):
        params, state = checked_init(layer, key, in_shape)
        chosen, rest = trees.partition(params, paths)
        if start is not None:
            params, anew = _started(params, start)
            if missing := sorted(anew & trees.flatten(chosen).keys()):
                expected = "trained values of all frozen parameters, in their shapes"
                raise InputError("start", expected, f"none for {', '.join(missing)}")
            chosen, rest = trees.partition(params, paths)
        frozen_state: dict[str, State] = {"frozen": chosen}
        if state:
            frozen_state["state"] = state
        return rest, frozen_state

    def make_forward(layer):
        def forward(params, state, x, *, train, key=None):
            check_entries("state", state, ("frozen",))
            # Training may cast params and x to another type, so the frozen parameters are cast too.
            types = [leaf.dtype for leaf in jax.tree.leaves((params, values_of(x)))]
            floating = [dtype for dtype in types if jnp.issubdtype(dtype, jnp.floating)]
            chosen = cast(state["frozen"], floating[0]) if floating else state["frozen"]
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

    return _around(layer, make_forward, backward)._replace(init=init)


def _around(layer: Layer, make_forward: Callable[..., Forward], backward: Backward) -> Layer:
    """A layer with other passes around its own. Without a formula it keeps its backward pass, which says so."""
    around = composed_forward(make_forward, (layer,))
    return layer._replace(forward=around, backward=backward if has_formula(layer) else layer.backward)


def _added(bar, other_bar):
    """The sum of two cotangents. None stands for no gradient."""
    if bar is None or other_bar is None:
        return other_bar if bar is None else bar
    return bar + other_bar


def _shapes_under(leaves, root):
    """The shapes of the leaves below a path, by the rest of their paths."""
    return {path.removeprefix(root): leaf.shape for path, leaf in leaves.items() if trees.is_under(path, root)}


def _listed(shapes):
    if not shapes:
        return "(nothing)"
    return "(" + ", ".join(f"{path.lstrip('/')} {shape}" for path, shape in shapes.items()) + ")"


def _started(params: Params, start: Params) -> tuple[Params, set[str]]:
    """Parameters with trained values where these fit, and the paths of those that start anew."""
    trained = {path: jnp.asarray(leaf) for path, leaf in trees.flatten(start).items()}
    shapes = {path: jnp.shape(leaf) for path, leaf in trained.items()}
    anew = {path for path, leaf in trees.flatten(params).items() if shapes.get(path) != jnp.shape(leaf)}

    def started(path: str, leaf: jax.Array) -> jax.Array:
        return leaf if path in anew else trained[path].astype(leaf.dtype)

    return trees.map_with_path(started, params), anew
