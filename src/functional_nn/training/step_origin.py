"""The step that ended a run because of a NaN or an infinite number, and the origin of this number."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from functional_nn.core.functions import path_name
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.non_finite.find import find_origin
from functional_nn.jaxprs.non_finite.report import NonFinite
from functional_nn.training.find_non_finite import loss_and_gradient, network_origin
from functional_nn.training.non_finite import BadStep
from functional_nn.training.precision import Precision
from functional_nn.training.programs import ProgramSpec
from functional_nn.training.recipe import Hyperparameters, Recipe
from functional_nn.training.state import TrainState
from functional_nn.training.step import TrainStep, is_number, numbers


def origin_in_step(spec: ProgramSpec, hyperparameters: Hyperparameters, step: BadStep) -> NonFinite | None:
    """Finds the origin in the loss, the gradient or the update of a step; None if the search finds nothing.

    The search is only a help for the user, who needs the message of the run in any case. So an error in the search does
    not stop the run, and a long search is not made.
    """
    try:
        found = _search(spec.recipe_for(hyperparameters), spec.precision, step)
    except Exception:
        return None
    return found if found else None


def _search(recipe: Recipe, precision: Precision, step: BadStep) -> NonFinite:
    arguments = dict(step.arguments)
    key = arguments.pop("key")
    function = loss_and_gradient(
        recipe.net, recipe.loss, recipe.penalty, recipe.gradient, precision, train=True, key=key
    )
    found = network_origin(recipe.net, function, **arguments, only_if_quick=True)
    if found.argument.split("/")[0] in ("x", "labels"):
        found = replace(found, in_batch=True)
        if step.rows is None:
            return found
        return replace(found, note=f"In the training data this is example {step.rows[found.index[0]]}.")
    if found:
        return found
    # Loss and gradient are finite, so the optimizer made the number. Steps that keep the finite state would hide it.
    train_step = recipe.train_step(precision, keep_finite=False)
    found = _search_in_update(train_step, step.before, step.x, step.labels)
    return replace(found, stage="optimizer's update")


def _search_in_update(train_step: TrainStep, before: TrainState, x: Value, labels: PyTree) -> NonFinite:
    def update(train_state: TrainState, x: Value, labels: PyTree) -> dict[str, PyTree]:
        after, _ = train_step(train_state, x, labels)
        # The states of some optimizers contain infinite numbers from the start, and random keys are not numbers.
        pairs = zip(numbers(train_state), numbers(after), strict=True)
        paths = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(after) if is_number(leaf)]
        return {path: jnp.where(jnp.isfinite(old), new, 0) for path, (old, new) in zip(paths, pairs, strict=True)}

    return find_origin(update, (before, x, labels), ("train state", "x", "labels"), only_if_quick=True)
