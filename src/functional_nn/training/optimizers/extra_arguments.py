"""Arguments beyond gradient, state and parameters that some Optax transformations take, such as the loss's value."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from functional_nn.core.trees import PyTree


def update_with(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    optimizer_state: PyTree,
    params: PyTree,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Computes an optimizer's updates and its new state. It gets those of the extra arguments that it takes by name.

    >>> rule = optax.sgd(1.0)
    >>> updates, _ = update_with(rule, 2.0, rule.init(0.0), 0.0, {"value": 3.0})
    >>> print(updates)
    -2.0
    """
    takes_any = optax.with_extra_args_support(optimizer)
    parameters = inspect.signature(takes_any.update).parameters
    # A function with **extra takes every name. Another one would raise an error for a name that it does not know.
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        extra = {name: value for name, value in extra.items() if name in parameters}
    return takes_any.update(gradient, optimizer_state, params, **extra)
