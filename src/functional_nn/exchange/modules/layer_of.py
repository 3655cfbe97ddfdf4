"""A module of Flax NNX or Equinox as a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from functional_nn.core.children import check_name
from functional_nn.core.errors import InputError, inside, short_repr
from functional_nn.core.layer import Backward, Layer
from functional_nn.core.layer_checks import check_key
from functional_nn.core.validation import check_arrays, check_function, is_function
from functional_nn.exchange.modules.equinox_modules import functions_of_equinox, is_equinox_module
from functional_nn.exchange.modules.module_functions import MakeModule, ModuleFunctions, failing_as
from functional_nn.exchange.modules.nnx_modules import functions_of_nnx, is_nnx_module, with_values_of_nnx

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

    >>> import equinox as eqx, functional_nn as fnn  # doctest: +SKIP
    >>> layer = layer_of(lambda key: eqx.nn.MLP(784, 10, 64, 2, key=key))  # doctest: +SKIP
    >>> net = fnn.chain(fnn.flatten(), layer)  # doctest: +SKIP
    >>> params, state = net.init(jax.random.key(0), (28, 28))  # doctest: +SKIP
    >>> params["module_0"]["layers"]["0"]["weight"].shape  # doctest: +SKIP
    (64, 784)
    """
    check_name(name)
    if backward is not None:
        check_function("backward", backward, "a function (residuals, y_bar) -> (params_bar, x_bar)")
    functions = _functions_of(module)

    def init(key, in_shape):
        check_key(key)
        with failing_as("one that can be initialized", "one that raises"):
            params, state = functions.init(key, in_shape)
        # Copies, since training may reuse the memory of its parameters. This also makes weak types strong.
        return jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), (params, state))

    def forward(params, state, x, *, train, key=None):
        remedy = "If it draws random numbers, pass key=jax.random.key(seed)." if train and key is None else ""
        with failing_as(f"one that takes {_described(x)}", "one that raises", remedy):
            y, new_state = functions.run(params, state, x, train, key)
            # Some libraries compute statistics in the type of x. The state keeps its types.
            new_state = jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), dict(state), new_state)
        with inside(name):
            check_arrays("y", y)
        return y, new_state, () if backward is None else (params, state, x)

    return Layer(name, init, forward, backward)


def _functions_of(module: Any) -> ModuleFunctions:
    """How the library of a module initializes and runs it."""
    if is_nnx_module(module):
        return functions_of_nnx(with_values_of_nnx(module))
    if is_equinox_module(module):
        return functions_of_equinox(lambda key: module)
    if not is_function(module):
        raise InputError("module", EXPECTED, short_repr(module))
    made = _example_of(module)
    if is_nnx_module(made):
        return functions_of_nnx(module)
    if is_equinox_module(made):
        return functions_of_equinox(module)
    raise InputError("module", EXPECTED, f"a function that makes a {type(made).__name__}")


def _example_of(make: MakeModule) -> Any:
    """What a function makes of a key. Its arrays are not computed."""
    made: list[Any] = []

    def look(key: jax.Array) -> tuple[()]:
        made.append(make(key))
        return ()

    with failing_as(EXPECTED, "a function that raises", "It is called with one argument, a key."):
        jax.eval_shape(look, jax.random.key(0))
    return made[0]


def _described(x: Any) -> str:
    return ", ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in jax.tree.leaves(x))
