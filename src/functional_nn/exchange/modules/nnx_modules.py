"""Modules of Flax NNX as layers."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.core import trees
from functional_nn.core.errors import InputError, imported
from functional_nn.core.layer_checks import check_batch_is_whole
from functional_nn.exchange.modules.module_functions import MakeModule, ModuleFunctions, NamedLeaves, name_leaves


def is_nnx_module(value: object) -> bool:
    """Whether a value is a module of Flax NNX. The library is not imported for it."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module)


def with_values_of_nnx(module: Any) -> MakeModule:
    """The function that makes a module with the values that the given one has at this time."""
    nnx = imported("flax.nnx", "flax", "module")
    graph, values = nnx.split(nnx.clone(module))  # without a copy, later changes of the module would be seen
    return lambda key: nnx.merge(graph, values)


def functions_of_nnx(make: MakeModule) -> ModuleFunctions:
    """How the modules that a function makes are initialized and run.

    Parameters are the variables of type ``nnx.Param``. The keys of random numbers are left out of the state, since each
    call of a layer gets a key.
    """
    nnx = imported("flax.nnx", "flax", "module")

    def parts(module: Any) -> tuple[Any, Any, Any, Any]:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    kept: list[tuple[Any, NamedLeaves, NamedLeaves, Any, bool]] = []

    def look(key: jax.Array) -> Any:
        # The arrays have no values here, so only structures are kept.
        graph, params, random, rest = parts(make(key))
        couples_examples = any(isinstance(leaf, nnx.BatchStat) for _, leaf in nnx.to_flat_state(rest))
        kept.append((graph, _name(params), _name(rest), jax.tree.structure(random), couples_examples))
        return random

    random_shapes = jax.tree.leaves(jax.eval_shape(look, jax.random.key(0)))
    ((graph, named_params, named_rest, random_structure, couples_examples),) = kept

    def random_leaves(key: jax.Array) -> list[jax.Array]:
        """A key of its own for each random generator, and counts from 0."""
        return [
            _keys(jax.random.fold_in(key, number), one.shape)
            if jnp.issubdtype(one.dtype, jax.dtypes.prng_key)
            else jnp.zeros(one.shape, one.dtype)
            for number, one in enumerate(random_shapes)
        ]

    def init(key, in_shape):
        _, params, _, rest = parts(make(key))
        return named_params.nested(params), named_rest.nested(rest)

    def run(params, state, x, train, key):
        if train and couples_examples:
            check_batch_is_whole()
        leaves = random_leaves(jax.random.key(0) if key is None else key)
        random = jax.tree.unflatten(random_structure, leaves)
        module = nnx.merge(graph, named_params.tree("params", params), random, named_rest.tree("state", state))
        if train:
            module.train()
        else:
            module.eval()
        y = module(x)
        _, _, random_after, rest = parts(module)
        if train and key is None and _were_used(leaves, random_after):
            raise InputError("key", "a key, since random numbers are drawn here", None)
        # A module may add variables during a call, such as intermediate values, which are not kept.
        after = trees.flatten(_name(rest).nested(rest))
        return y, trees.map_with_path(lambda path, leaf: after[path], state)

    return ModuleFunctions(init, run)


def _name(variables: Any) -> NamedLeaves:
    """The paths of variables, without the ``value`` that NNX adds to each."""
    named = name_leaves(variables)
    return named._replace(paths=tuple(path.removesuffix("/value") for path in named.paths))


def _keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A key, or an array of keys for modules that ``nnx.vmap`` or ``nnx.scan`` made."""
    return jax.random.split(key, shape) if shape else key


def _were_used(leaves: list[jax.Array], random_after: Any) -> bool:
    """Whether a random generator was used. Its count is another array then; under ``jit`` its value is not known."""
    return any(new is not old for new, old in zip(jax.tree.leaves(random_after), leaves, strict=True))
