"""The network of a folder that is meant: a member of a sweep, the best epoch of a run; and its test metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import click
import jax

from functional_nn.core.errors import escaped
from functional_nn.data.dataset import Dataset
from functional_nn.exchange.saved_networks import chosen_run
from functional_nn.storage.checkpoints import restore_checkpoint
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.evaluate import as_numbers, evaluated_metrics, make_evaluate
from functional_nn.training.precision import Precision
from functional_nn.training.recipe import Recipe
from functional_nn.training.run import Run
from functional_nn.training.state import TrainState


def named_member(folder: Path, member: int | None) -> int | None:
    """The number of the member of a sweep that is taken, after its name was printed; None for the folder of a run."""
    _, chosen, _ = chosen_run(folder, member)
    if chosen is None:
        return None
    click.echo(escaped(f"{folder}: {chosen}"), err=True)
    return chosen.number


def at_best_epoch(run: Run, folder: Path, recipe: Recipe, data: Dataset) -> tuple[Run, int]:
    """The run with the parameters and the test metrics of its best epoch, and the number of this epoch.

    It is the epoch with the lowest loss on validation examples, or else on test examples, of those that were saved. If
    no epoch has a finite loss, it is the last one, and a message says so.

    Args:
        run: what ``fit`` returned, with at least one epoch.
        folder: the folder of its checkpoints.
        recipe: what was trained.
        data: what it was trained on.

    Raises:
        DataError: if all checkpoints are damaged.
    """
    losses = [epoch.deciding_loss for epoch in run.history]
    if not any(map(math.isfinite, losses)):
        click.echo("No epoch has a finite loss, so --keep-best keeps the last one.", err=True)
        return run, len(losses)
    best = restore_checkpoint(folder, run.train_state, step="best", part="train_state")
    lowest = min(filter(math.isfinite, losses))
    if losses[best.step - 1] > lowest:
        # The file is damaged. Or an earlier part of the run was without --keep-best, and saved after some minutes only.
        lost = losses.index(lowest) + 1
        click.echo(f"Epoch {lost} was better than epoch {best.step}, but it has no checkpoint that is whole.", err=True)
    if best.step == len(losses):
        return run, best.step
    found = {name: value for name, value in run.history[best.step - 1].metrics.items() if name.startswith("test_")}
    # With validation examples, the test examples are evaluated once, and only if the run was not interrupted.
    if not found and run.test_metrics:
        found = test_metrics(recipe, best.tree, data, run.precision)
    return replace(run, train_state=best.tree, test_metrics=found), best.step


def test_metrics(
    recipe: Recipe, train_state: TrainState, data: Dataset, precision: str | Precision
) -> dict[str, float]:
    """The loss and the metrics of a network on the test examples."""
    split = data_for_network(recipe.net, recipe.loss, data)
    named = None if recipe.metrics is None else dict(recipe.metrics)
    evaluate = jax.jit(make_evaluate(recipe.net, recipe.loss, metrics=named, precision=precision))
    evaluation = evaluate(train_state, split.test_x, split.test_labels)
    return as_numbers(evaluated_metrics("test", evaluation))[0]
