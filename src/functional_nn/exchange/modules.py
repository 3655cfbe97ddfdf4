"""Modules of Flax NNX and Equinox as layers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from functional_nn.core import trees, validation
from functional_nn.core.errors import InputError, check, failing_as, imported, inside, shown
from functional_nn.core.layer import Backward, Layer, check_name
from functional_nn.core.trees import PyTree

EXPECTED = "a Flax NNX or Equinox module, or a function of a key that makes one"


def layer_of(module: Any, *, name: str = "module", backward: Backward | None = None) -> Layer:
    """A module of Flax NNX or Equinox as a layer.

    The parameters of the layer are those that the library trains. Its state is what else the module remembers, such as
    the statistics of batch norm. Both are nested dicts of arrays.

    Modules of both libraries hold their values. So give a function of a key that makes the module: ``init`` calls it.
    If you give the module itself, ``init`` returns the values that it had at that time, whatever the key.

    Args:
        module: a module of Flax NNX or Equinox, or a function ``key -> module``. An Equinox module with state is a
            pair, as ``eqx.nn.make_with_state`` makes it. An Equinox module takes one example, and one of Flax a batch.
        name: used in parameter trees and in error messages.
        backward: the formula, ``backward(residuals, y_bar) -> (params_bar, x_bar)``. Its residuals are
            ``(params, state, x)``. Without a formula ``vjp`` raises ``FormulaMissing``; ``jax.grad`` works as always.

    Raises:
        InputError: if the object is none of these. The layer itself raises it if the module fails.

    >>> import equinox as eqx, functional_nn as fnn, jax  # doctest: +SKIP
    >>> layer = fnn.exchange.layer_of(lambda key: eqx.nn.MLP(784, 10, 64, 2, key=key))  # doctest: +SKIP
    >>> net = fnn.chain(fnn.flatten(), layer)  # doctest: +SKIP
    >>> params, state = net.init(jax.random.key(0), (28, 28))  # doctest: +SKIP
    >>> params["module_0"]["layers"]["0"]["weight"].shape  # doctest: +SKIP
    (64, 784)
    """
    check_name(name)
    if backward is not None:
        validation.check_function("backward", backward, "a function (residuals, y_bar) -> (params_bar, x_bar)")
    is_module = is_nnx_module(module) or is_equinox_module(module)
    check("module", module, EXPECTED, is_module or validation.is_function(module))
    if is_nnx_module(module):
        module = imported("flax.nnx", "module").clone(module)  # without a copy, later changes of it would be seen
    make = (lambda key: module) if is_module else module
    with failing_as("module", EXPECTED, "It is called with one argument, a key."):
        made = _example_of(make)
    if is_nnx_module(made):
        names, values_of, run = parts_of_nnx(make)
    elif is_equinox_module(made):
        names, values_of, run = parts_of_equinox(make)
    else:
        raise InputError("module", EXPECTED, f"a function that makes a {type(made).__name__}")

    def init(key, in_shape):
        validation.check_key(key)
        with failing_as("module", "one that can be initialized"):
            values = values_of(make(key))
        nested = tuple(trees.unflatten(_by_name(*pair)) for pair in zip(names, values, strict=True))
        # Copies, since training may reuse the memory of its parameters. This also makes weak types strong.
        return jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), nested)

    def forward(params, state, x, *, train, key=None):
        remedy = "If it draws random numbers, pass key=jax.random.key(seed)." if train and key is None else ""
        with failing_as("module", f"one that takes {', '.join(map(shown, jax.tree.leaves(x)))}", remedy):
            values = _with_leaves("params", names[0], params), _with_leaves("state", names[1], state)
            y, after = run(*values, x, train, key)
            # Some libraries compute statistics in the type of x. The state keeps its types. A module may add variables
            # during a call, such as intermediate values, which are not kept.
            new_state = trees.map_with_path(lambda path, old: jnp.asarray(after[path], old.dtype), dict(state))
        with inside(name):
            validation.check_arrays("y", y)
        return y, new_state, () if backward is None else (params, state, x)

    return Layer(name, init, forward, backward)


Run: TypeAlias = Callable[[PyTree, PyTree, PyTree, bool, jax.Array | None], tuple[PyTree, dict[str, Any]]]
"""``run(params, rest, x, train, key) -> (y, rest by name)``."""

ModuleParts: TypeAlias = tuple[tuple[PyTree, PyTree], Callable[[Any], tuple[PyTree, PyTree]], Run]
"""The parameters and the rest of a module, with the name of each array in its place; the function that gives both, with
the arrays; and how it is run."""


def _example_of(make: Callable[[jax.Array], Any], look: Callable[[Any], Any] = lambda made: made) -> Any:
    """What a function makes of a key, or what ``look`` sees of it. Its arrays have shapes and no values."""
    seen: list[Any] = []
    jax.eval_shape(lambda key: seen.append(look(make(key))), jax.random.key(0))
    return seen[0]


def _names(tree: PyTree, ending: str = "") -> PyTree:
    """The tree with its path in place of each array."""
    return trees.map_with_path(lambda path, _: path.removesuffix(ending), tree)


def _by_name(names: PyTree, tree: PyTree) -> dict[str, Any]:
    return dict(zip(jax.tree.leaves(names), jax.tree.leaves(tree), strict=True))


def _with_leaves(argument: str, names: PyTree, nested: Mapping[str, PyTree]) -> PyTree:
    """The tree with the leaves of a nested dict in place of their names."""
    leaves = trees.flatten(nested)
    validation.check_entries(argument, leaves, jax.tree.leaves(names))
    return jax.tree.map(leaves.__getitem__, names)


def is_nnx_module(value: object) -> bool:
    """Whether a value is a module of Flax NNX. The library is not imported for it."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module)


def parts_of_nnx(make: Callable[[jax.Array], Any]) -> ModuleParts:
    """The parts of the modules that a function makes, and how these are run.

    Parameters are the variables of type ``nnx.Param``. The keys of random numbers are left out of the state, since each
    call of a layer gets a key.
    """
    nnx = imported("flax.nnx", "module")

    def parts(module: Any) -> tuple[Any, Any, Any, Any]:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    names_of = partial(_names, ending="/value")  # which NNX adds to the path of each variable

    def look(module: Any) -> tuple[Any, PyTree, tuple[PyTree, PyTree]]:
        graph, params, random, rest = parts(module)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), random)
        return graph, shapes, (names_of(params), names_of(rest))

    graph, random, names = _example_of(make, look)
    shapes, structure = jax.tree.flatten(random)

    def random_leaves(key: jax.Array) -> list[jax.Array]:
        """A key of its own for each random generator, and counts from 0. ``nnx.vmap`` makes arrays of generators."""
        return [
            jax.random.split(jax.random.fold_in(key, number), one.shape)
            if jnp.issubdtype(one.dtype, jax.dtypes.prng_key)
            else jnp.zeros(one.shape, one.dtype)
            for number, one in enumerate(shapes)
        ]

    def values_of(module):
        _, params, _, rest = parts(module)
        return params, rest

    def run(params, rest, x, train, key):
        if train and any(isinstance(variable, nnx.BatchStat) for _, variable in nnx.to_flat_state(rest)):
            validation.check_batch_is_whole()
        leaves = random_leaves(jax.random.key(0) if key is None else key)
        module = nnx.merge(graph, params, jax.tree.unflatten(structure, leaves), rest)
        if train:
            module.train()
        else:
            module.eval()
        y = module(x)
        _, _, random_after, rest = parts(module)
        # The count of a random generator that was used is another array; under ``jit`` its value is not known.
        pairs = zip(jax.tree.leaves(random_after), leaves, strict=True)
        if train and key is None and any(new is not old for new, old in pairs):
            validation.check_key(key)
        return y, _by_name(names_of(rest), rest)

    return names, values_of, run


BATCH = "batch"
"""The name of the axis over examples, for ``eqx.nn.BatchNorm(…, axis_name="batch")``."""


def is_equinox_module(value: object) -> bool:
    """Whether a value is an Equinox module, or a pair of one and its state. The library is not imported for it."""
    eqx = sys.modules.get("equinox")
    if eqx is None:
        return False
    if isinstance(value, tuple) and len(value) == 2:
        return isinstance(value[0], eqx.Module) and isinstance(value[1], eqx.nn.State)
    return isinstance(value, eqx.Module)


def parts_of_equinox(make: Callable[[jax.Array], Any]) -> ModuleParts:
    """The parts of the modules that a function makes, and how these are run.

    Parameters are the arrays of floating-point numbers. The state has all other arrays and, by their places, those of
    ``eqx.nn.State``.
    """
    eqx = imported("equinox", "module")

    def is_index(node: object) -> bool:
        return isinstance(node, eqx.nn.StateIndex)

    def parts(made: Any) -> tuple[PyTree, PyTree, PyTree]:
        """The parameters; the other arrays with those of the state; and what is no array."""
        module, memory = made if isinstance(made, tuple) else (made, None)
        params, others = eqx.partition(module, eqx.is_inexact_array)
        arrays, fixed = eqx.partition(others, validation.is_array)
        return params, (arrays, memory), fixed

    def look(made: Any) -> tuple[tuple[PyTree, PyTree], PyTree]:
        params, (arrays, memory), fixed = parts(made)
        if memory is None and any(map(is_index, jax.tree.leaves(fixed, is_index))):
            remedy = "Make it by lambda key: eqx.nn.make_with_state(…)(…, key=key)."
            raise InputError("module", "an Equinox module with its state", "one without", remedy)
        names_of_memory = _names({"state": memory})["state"]
        return (_names(params), (_names(arrays), names_of_memory)), fixed

    names, fixed = _example_of(make, look)
    takes_key = "key" in inspect.signature(type(fixed).__call__).parameters

    def run(params, rest, x, train, key):
        arrays, memory = rest
        if train and memory is not None:
            validation.check_batch_is_whole()
        module = eqx.nn.inference_mode(eqx.combine(params, arrays, fixed), value=not train)
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

        def of_one(x, key):
            options = {"key": key} if takes_key else {}
            return (module(x, **options), None) if memory is None else module(x, memory, **options)

        y, new_memory = jax.vmap(of_one, axis_name=BATCH, out_axes=(0, None))(x, keys)
        return y, _by_name(names[1], (arrays, new_memory))

    return names, lambda made: parts(made)[:2], run
