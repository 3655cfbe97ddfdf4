"""Modules of Flax Linen as layers."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from functional_nn.core.extras import imported
from functional_nn.core.layer_checks import check_batch_is_whole
from functional_nn.exchange.modules.module_functions import (
    ModuleFunctions,
    first_input,
    train_argument_of,
    train_option,
)


def is_linen_module(value: object) -> bool:
    """Whether a value is a module of Flax Linen. The library is not imported for it."""
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(value, linen.Module)


def functions_of_linen(module: Any, train_argument: str | None) -> ModuleFunctions:
    """How a module is initialized and run. The state has all collections except the parameters."""
    linen = imported("flax.linen", "flax", "module")
    core = imported("flax.core", "flax", "module")
    call = list(inspect.signature(module.__call__).parameters.values())
    argument = train_argument_of(call[1:], train_argument)

    def init(key, in_shape):
        def initialize(x):
            variables = core.unfreeze(module.init(key, x, **train_option(argument, True)))
            params = linen.meta.unbox(variables.pop("params", {}))
            return params, linen.meta.unbox(variables)

        return initialize(first_input(initialize, in_shape))

    def run(params, state, x, train, key):
        if train and "batch_stats" in state:
            check_batch_is_whole()
        # Random numbers of any name are derived from this key, since Linen takes "params" for those that are not given.
        random = None if key is None else {"params": key}
        variables = {"params": params, **state}
        options = train_option(argument, train)
        y, new_state = module.apply(variables, x, mutable=list(state), rngs=random, **options)
        return y, dict(state) | linen.meta.unbox(core.unfreeze(new_state))

    return ModuleFunctions(init, run)
