"""Modules of Equinox as layers."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import jax

from functional_nn.core import trees
from functional_nn.core.errors import InputError, imported
from functional_nn.core.layer_checks import check_batch_is_whole
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.exchange.modules.module_functions import MakeModule, ModuleFunctions, NamedLeaves, name_leaves

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


def functions_of_equinox(make: MakeModule) -> ModuleFunctions:
    """How the modules that a function makes are initialized and run.

    Parameters are the arrays of floating-point numbers. The state has all other arrays and those of ``eqx.nn.State``.
    """
    eqx = imported("equinox", "equinox", "module")

    def parts(made: Any) -> tuple[PyTree, PyTree, PyTree]:
        """The parameters; the other arrays with those of the state; and what is no array."""
        module, memory = made if isinstance(made, tuple) else (made, None)
        params, others = eqx.partition(module, eqx.is_inexact_array)
        arrays, fixed = eqx.partition(others, is_array)
        return params, (arrays, memory), fixed

    kept: list[tuple[NamedLeaves, NamedLeaves, PyTree, bool]] = []

    def look(key: jax.Array) -> tuple[()]:
        # The arrays have no values here, so only structures are kept.
        made = make(key)
        params, (arrays, memory), fixed = parts(made)
        paths = name_leaves(arrays).paths + _paths_of_memory(fixed, memory)
        rest = NamedLeaves(paths, jax.tree.structure((arrays, memory)))
        kept.append((name_leaves(params), rest, fixed, memory is not None))
        return ()

    jax.eval_shape(look, jax.random.key(0))
    ((named_params, named_rest, fixed, has_memory),) = kept
    takes_key = "key" in inspect.signature(type(fixed).__call__).parameters

    def init(key, in_shape):
        params, rest, _ = parts(make(key))
        return named_params.nested(params), named_rest.nested(rest)

    def run(params, state, x, train, key):
        if train and has_memory:
            check_batch_is_whole()
        arrays, memory = named_rest.tree("state", state)
        module = eqx.combine(named_params.tree("params", params), arrays, fixed)
        module = eqx.nn.inference_mode(module, value=not train)
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

        def of_one(x, key):
            options = {"key": key} if takes_key else {}
            return module(x, memory, **options) if has_memory else (module(x, **options), None)

        y, new_memory = jax.vmap(of_one, axis_name=BATCH, out_axes=(0, None))(x, keys)
        return y, named_rest.nested((arrays, new_memory))

    return ModuleFunctions(init, run)


def _paths_of_memory(module: PyTree, memory: Any) -> tuple[str, ...]:
    """The paths of the arrays of an ``eqx.nn.State``: that of the index by which the module reads each.

    Raises:
        InputError: if a module has such indices and no state is given.
    """
    eqx = imported("equinox", "equinox", "module")

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
