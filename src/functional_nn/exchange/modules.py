"""Modules of Flax NNX and Equinox as layers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

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
    if is_nnx_module(module):
        nnx = imported("flax.nnx", "module")
        graph, values = nnx.split(nnx.clone(module))  # without a copy, later changes of the module would be seen
        make = lambda key: nnx.merge(graph, values)  # noqa: E731
    elif is_equinox_module(module):
        make = lambda key: module  # noqa: E731
    else:
        check("module", module, EXPECTED, validation.is_function(module))
        make = module
    with failing_as("module", EXPECTED, "It is called with one argument, a key."):
        made = _example_of(make)
    if is_nnx_module(made):
        named_params, named_rest, values_of, run = parts_of_nnx(make)
    elif is_equinox_module(made):
        named_params, named_rest, values_of, run = parts_of_equinox(make)
    else:
        raise InputError("module", EXPECTED, f"a function that makes a {type(made).__name__}")

    def init(key, in_shape):
        validation.check_key(key)
        with failing_as("module", "one that can be initialized"):
            params, rest = values_of(make(key))
        nested = trees.unflatten(named_params.by_path(params)), trees.unflatten(named_rest.by_path(rest))
        # Copies, since training may reuse the memory of its parameters. This also makes weak types strong.
        return jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), nested)

    def forward(params, state, x, *, train, key=None):
        remedy = "If it draws random numbers, pass key=jax.random.key(seed)." if train and key is None else ""
        with failing_as("module", f"one that takes {', '.join(map(shown, jax.tree.leaves(x)))}", remedy):
            values = named_params.tree("params", params), named_rest.tree("state", state)
            y, after = run(*values, x, train, key)
            # Some libraries compute statistics in the type of x. The state keeps its types. A module may add variables
            # during a call, such as intermediate values, which are not kept.
            new_state = trees.map_with_path(lambda path, old: jnp.asarray(after[path], old.dtype), dict(state))
        with inside(name):
            validation.check_arrays("y", y)
        return y, new_state, () if backward is None else (params, state, x)

    return Layer(name, init, forward, backward)


def _example_of(make: MakeModule, look: Callable[[Any], Any] = lambda made: made) -> Any:
    """What a function makes of a key, or what ``look`` sees of it. Its arrays have shapes and no values."""
    seen: list[Any] = []
    jax.eval_shape(lambda key: seen.append(look(make(key))), jax.random.key(0))
    return seen[0]


def is_nnx_module(value: object) -> bool:
    """Whether a value is a module of Flax NNX. The library is not imported for it."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module)


def parts_of_nnx(make: MakeModule) -> ModuleParts:
    """The parts of the modules that a function makes, and how these are run.

    Parameters are the variables of type ``nnx.Param``. The keys of random numbers are left out of the state, since each
    call of a layer gets a key.
    """
    nnx = imported("flax.nnx", "module")

    def parts(module: Any) -> tuple[Any, Any, Any, Any]:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    def structures(module: Any) -> tuple[Any, NamedLeaves, NamedLeaves, Any, list[jax.ShapeDtypeStruct], bool]:
        graph, params, random, rest = parts(module)
        couples_examples = any(isinstance(leaf, nnx.BatchStat) for _, leaf in nnx.to_flat_state(rest))
        leaves, structure = jax.tree.flatten(random)
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        return graph, _name(params), _name(rest), structure, shapes, couples_examples

    made = _example_of(make, structures)
    graph, named_params, named_rest, random_structure, random_shapes, couples_examples = made

    def random_leaves(key: jax.Array) -> list[jax.Array]:
        """A key of its own for each random generator, and counts from 0. ``nnx.vmap`` makes arrays of generators."""
        return [
            jax.random.split(jax.random.fold_in(key, number), one.shape)
            if jnp.issubdtype(one.dtype, jax.dtypes.prng_key)
            else jnp.zeros(one.shape, one.dtype)
            for number, one in enumerate(random_shapes)
        ]

    def values_of(module):
        _, params, _, rest = parts(module)
        return params, rest

    def run(params, rest, x, train, key):
        if train and couples_examples:
            validation.check_batch_is_whole()
        leaves = random_leaves(jax.random.key(0) if key is None else key)
        module = nnx.merge(graph, params, jax.tree.unflatten(random_structure, leaves), rest)
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
        return y, _name(rest).by_path(rest)

    return named_params, named_rest, values_of, run


def _name(variables: Any) -> NamedLeaves:
    """The paths of variables, without the ``value`` that NNX adds to each."""
    named = name_leaves(variables)
    return named._replace(paths=tuple(path.removesuffix("/value") for path in named.paths))


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


def parts_of_equinox(make: MakeModule) -> ModuleParts:
    """The parts of the modules that a function makes, and how these are run.

    Parameters are the arrays of floating-point numbers. The state has all other arrays and those of ``eqx.nn.State``.
    """
    eqx = imported("equinox", "module")

    def parts(made: Any) -> tuple[PyTree, PyTree, PyTree]:
        """The parameters; the other arrays with those of the state; and what is no array."""
        module, memory = made if isinstance(made, tuple) else (made, None)
        params, others = eqx.partition(module, eqx.is_inexact_array)
        arrays, fixed = eqx.partition(others, validation.is_array)
        return params, (arrays, memory), fixed

    def structures(made: Any) -> tuple[NamedLeaves, NamedLeaves, PyTree, bool]:
        params, (arrays, memory), fixed = parts(made)
        paths = name_leaves(arrays).paths + _paths_of_memory(fixed, memory)
        rest = NamedLeaves(paths, jax.tree.structure((arrays, memory)))
        return name_leaves(params), rest, fixed, memory is not None

    named_params, named_rest, fixed, has_memory = _example_of(make, structures)
    takes_key = "key" in inspect.signature(type(fixed).__call__).parameters

    def run(params, rest, x, train, key):
        if train and has_memory:
            validation.check_batch_is_whole()
        arrays, memory = rest
        module = eqx.nn.inference_mode(eqx.combine(params, arrays, fixed), value=not train)
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

        def of_one(x, key):
            options = {"key": key} if takes_key else {}
            return module(x, memory, **options) if has_memory else (module(x, **options), None)

        y, new_memory = jax.vmap(of_one, axis_name=BATCH, out_axes=(0, None))(x, keys)
        return y, named_rest.by_path((arrays, new_memory))

    return named_params, named_rest, lambda made: parts(made)[:2], run


def _paths_of_memory(module: PyTree, memory: Any) -> tuple[str, ...]:
    """The paths of the arrays of an ``eqx.nn.State``: that of the index by which the module reads each.

    Raises:
        InputError: if a module has such indices and no state is given.
    """
    eqx = imported("equinox", "module")

    def is_index(node: object) -> bool:
        return isinstance(node, eqx.nn.StateIndex)

    nodes = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_index)[0]
    indices = [(path, node) for path, node in nodes if is_index(node)]
    if memory is None:
        if indices:
            remedy = "Make it by lambda key: eqx.nn.make_with_state(…)(…, key=key)."
            raise InputError("module", "an Equinox module with its state", "one without", remedy)
        return ()
    leaves, structure = jax.tree.flatten(memory)
    positions = jax.tree.unflatten(structure, range(len(leaves)))
    paths = [f"state/{position}" for position in range(len(leaves))]
    for path, index in indices:
        for below, position in jax.tree_util.tree_flatten_with_path(positions.get(index))[0]:
            paths[position] = trees.path_of((*path, *below))
    return tuple(paths)


MakeModule: TypeAlias = Callable[[jax.Array], Any]
"""A function of a key that makes a module with its initial values."""


class NamedLeaves(NamedTuple):
    """The structure of a tree of another library, with a readable path for each leaf."""

    paths: tuple[str, ...]
    structure: Any

    def by_path(self, tree: PyTree) -> dict[str, Any]:
        """The leaves of a tree of this structure by their paths."""
        return dict(zip(self.paths, jax.tree.leaves(tree), strict=True))

    def tree(self, argument: str, nested: Mapping[str, PyTree]) -> PyTree:
        """The tree with the leaves of a nested dict.

        Raises:
            InputError: if the nested dict lacks a leaf.
        """
        leaves = trees.flatten(nested)
        validation.check_entries(argument, leaves, self.paths)
        return jax.tree.unflatten(self.structure, [leaves[path] for path in self.paths])


ModuleParts: TypeAlias = tuple[
    NamedLeaves,
    NamedLeaves,
    Callable[[Any], tuple[PyTree, PyTree]],
    Callable[[PyTree, PyTree, PyTree, bool, jax.Array | None], tuple[PyTree, dict[str, Any]]],
]
"""The structures of the parameters and of the rest of a module; ``values_of(module) -> (params, rest)``; and
``run(params, rest, x, train, key) -> (y, rest by path)``."""


def name_leaves(tree: PyTree) -> NamedLeaves:
    """The structure of a tree, with the paths that JAX gives to its leaves."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return NamedLeaves(tuple(trees.path_of(path) for path, _ in leaves), structure)
