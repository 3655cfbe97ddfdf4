"""The origin of a NaN or an infinite number in a step of a run that was stopped."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from functional_nn.core.argument_names import path_name
from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.non_finite.find import find_origin
from functional_nn.jaxprs.non_finite.report import NonFinite
from functional_nn.training.find_non_finite import loss_and_gradient, network_origin
from functional_nn.training.programs.compile import Programs
from functional_nn.training.random_keys import derived_key
from functional_nn.training.state import TrainState
from functional_nn.training.step import TrainStep, is_number, numbers


def origin_in_step(
    programs: Programs, before: TrainState, x: Value, labels: PyTree, number: jax.Array, bad_step: int
) -> NonFinite | None:
    """Finds the origin in the loss, the gradient or the update of a step; None if the search finds nothing.

    It is a help for the user, who needs the message of the run in any case. So an error in it is no error of the run,
    and no search is made if it would take long.

    Args:
        programs: the programs of the run.
        before: the train state before the step.
        x, labels: all training examples.
        number: the number of the epoch.
        bad_step: the number of the step in the epoch.
    """
    try:
        found = _search(programs, before, x, labels, number, bad_step)
    except Exception:
        return None
    return found if found else None


def _search(
    programs: Programs, before: TrainState, x: Value, labels: PyTree, number: jax.Array, bad_step: int
) -> NonFinite:
    spec = programs.compiled.spec
    recipe = spec.recipe_for(programs.hyperparameters)
    full, rest = programs.compiled.draw_order(before.key, number)
    rows = full[bad_step] if bad_step < len(full) else rest
    batch = jax.tree.map(lambda array: array[rows], (x, labels))
    before, (x, labels) = jax.device_put((before, batch), jax.local_devices()[0])

    key = derived_key(before.key, "noise", before.step)
    function = loss_and_gradient(
        recipe.net, recipe.loss, recipe.penalty, recipe.gradient, spec.precision, train=True, key=key
    )
    found = network_origin(recipe.net, function, before.params, before.state, x, labels, only_if_quick=True)
    if found.argument.split("/")[0] in ("x", "labels"):
        return replace(found, note=f"In the training data this is example {rows[found.index[0]]}.")
    if found:
        return found
    found = _search_in_update(recipe.train_step(spec.precision, keep_finite=False), before, x, labels)
    return replace(found, stage="optimizer's update")


def _search_in_update(train_step: TrainStep, before: TrainState, x: Value, labels: PyTree) -> NonFinite:
    def update(train_state: TrainState, x: Value, labels: PyTree) -> dict[str, PyTree]:
        after, _ = train_step(train_state, x, labels)
        # The states of some optimizers contain infinite numbers from the start, and random keys are no numbers.
        pairs = zip(numbers(train_state), numbers(after), strict=True)
        paths = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(after) if is_number(leaf)]
        return {path: jnp.where(jnp.isfinite(old), new, 0) for path, (old, new) in zip(paths, pairs, strict=True)}

    return find_origin(update, (before, x, labels), ("train state", "x", "labels"), only_if_quick=True)
