"""Optimizers around another one: its update with extra arguments, and a share that multiplies its updates."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError, shortened
from functional_nn.core.functions import cached_if_hashable
from functional_nn.core.trees import PyTree


def update_with(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    optimizer_state: PyTree,
    params: PyTree,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """Computes an optimizer's updates and its new state. It gets those of the extra arguments that it takes by name.

    Extra arguments are those beyond gradient, state and parameters, such as the loss's value.

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
    with explaining_optimizer(optimizer):
        return takes_any.update(gradient, optimizer_state, params, **extra)


@contextmanager
def explaining_optimizer(optimizer: optax.GradientTransformation) -> Iterator[None]:
    """Raises an InputError if a transformation of Optax fails: Optax uses its arguments only here.

    The errors of a user's own transformation stay as they are.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError) or not _is_of_optax(optimizer.update):
            raise
        given = f"one that raises {type(error).__name__}: {shortened(error).rstrip('.')}"
        remedy = "Look at its arguments, such as the learning rate in optax.adam(1e-3)."
        raise InputError("optimizer", "an Optax transformation that can compute updates", given, remedy) from error


def _is_of_optax(function: object) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "optax"


class RateShare(NamedTuple):
    """The state of an optimizer whose updates are multiplied by ``share``, which ``fit`` lowers."""

    optimizer_state: PyTree
    share: jax.Array


# Cached, so that a second run with the same optimizer has an equal recipe and finds its compiled programs.
@cached_if_hashable(maxsize=32)
def with_rate_share(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer with its updates multiplied by a share, which starts at 1.

    >>> rule = with_rate_share(optax.sgd(1.0))
    >>> state = rule.init(jnp.zeros(1))
    >>> print(rule.update(jnp.ones(1), state._replace(share=jnp.float32(0.5)))[0])
    [-0.5]
    """

    def init(params):
        return RateShare(optimizer.init(params), jnp.ones((), jnp.float32))

    def update(updates, state, params=None, **extra):
        updates, optimizer_state = update_with(optimizer, updates, state.optimizer_state, params, extra)
        scaled = jax.tree.map(lambda leaf: leaf * state.share.astype(leaf.dtype), updates)
        return scaled, RateShare(optimizer_state, state.share)

    return optax.GradientTransformationExtraArgs(init, update)
