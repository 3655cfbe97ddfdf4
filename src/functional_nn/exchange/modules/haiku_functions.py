"""Transformed functions of Haiku as layers."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from functional_nn.core import trees
from functional_nn.core.layer_checks import check_batch_is_whole
from functional_nn.core.trees import PyTree
from functional_nn.exchange.modules.module_functions import (
    ModuleFunctions,
    first_input,
    train_argument_of,
    train_option,
)


def is_haiku_function(value: object) -> bool:
    """Whether ``hk.transform`` or ``hk.transform_with_state`` returned a value. Haiku is not imported for it."""
    haiku = sys.modules.get("haiku")
    return haiku is not None and isinstance(value, haiku.Transformed | haiku.TransformedWithState)


def functions_of_haiku(function: Any, train_argument: str | None) -> ModuleFunctions:
    """How a transformed function is initialized and run. A module ``mlp/~/linear_0`` is a nested dict here."""
    has_state = isinstance(function, sys.modules["haiku"].TransformedWithState)
    takes_key = "rng" in inspect.signature(function.apply).parameters
    call = list(inspect.signature(function.init).parameters.values())
    argument = train_argument_of(call[2:], train_argument)

    def init(key, in_shape):
        def initialize(x):
            made = function.init(key, x, **train_option(argument, True))
            params, state = made if has_state else (made, {})
            return _nested(params), _nested(state)

        return initialize(first_input(initialize, in_shape))

    def run(params, state, x, train, key):
        if train and state:
            check_batch_is_whole()
        trees_of_haiku = (_by_module(params), _by_module(state)) if has_state else (_by_module(params),)
        key_of_haiku = (key,) if takes_key else ()
        result = function.apply(*trees_of_haiku, *key_of_haiku, x, **train_option(argument, train))
        y, new_state = result if has_state else (result, {})
        return y, _nested(new_state)

    return ModuleFunctions(init, run)


def _nested(modules: PyTree) -> dict[str, PyTree]:
    """The trees of Haiku, ``{"mlp/~/linear_0": {"w": array}}``, as nested dicts."""
    return trees.unflatten(trees.flatten(modules))


def _by_module(nested: PyTree) -> dict[str, dict[str, PyTree]]:
    """The inverse of ``_nested``."""
    modules: dict[str, dict[str, PyTree]] = {}
    for path, leaf in trees.flatten(nested).items():
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    return modules
