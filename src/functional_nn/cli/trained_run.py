"""A run after training, as it was at its best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import jax

from functional_nn.core.layer import Layer
from functional_nn.data.dataset import Dataset
from functional_nn.losses.classification import cross_entropy
from functional_nn.storage.checkpoints import restore_checkpoint
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.evaluate import (
    MetricFunction,
    as_numbers,
    evaluated_metrics,
    make_evaluate,
    number_of_labels,
)
from functional_nn.training.run import Run
from functional_nn.training.state import TrainState


def at_best_epoch(
    run: Run, checkpoints: Path, net: Layer, data: Dataset, metrics: Mapping[str, MetricFunction] | None
) -> tuple[Run, int]:
    """The run with the parameters and the test metrics of its best epoch, and the number of this epoch.

    It is the epoch with the lowest loss on validation examples, or else on test examples, of those that were saved. If
    no epoch has a finite loss, it is the last one, and a message says so.

    Args:
        run: what ``fit`` returned, with at least one epoch.
        checkpoints: the folder of its checkpoints.
        net: the network.
        data: what it was trained on.
        metrics: what was evaluated in addition to the loss.

    Raises:
        DataError: if the checkpoint is damaged.
    """
    losses = [epoch.deciding_loss for epoch in run.history]
    if not any(map(math.isfinite, losses)):
        click.echo("No epoch has a finite loss, so --keep-best keeps the last one.", err=True)
        return run, len(losses)
    best = restore_checkpoint(checkpoints, run.train_state, step="best", part="train_state")
    lowest = min(filter(math.isfinite, losses))
    if losses[best.step - 1] > lowest:
        # An earlier part of the run was without --keep-best, and saved after some minutes only.
        unsaved = losses.index(lowest) + 1
        click.echo(f"Epoch {unsaved} was better than epoch {best.step}, but it was not saved.", err=True)
    if best.step == len(losses):
        return run, best.step
    found = {name: value for name, value in run.history[best.step - 1].metrics.items() if name.startswith("test_")}
    # With validation examples, the test examples are evaluated once, and only if the run was not interrupted.
    if not found and run.test_metrics:
        found = _test_metrics(run, best.tree, net, data, metrics)
    return replace(run, train_state=best.tree, test_metrics=found), best.step


def _test_metrics(
    run: Run, train_state: TrainState, net: Layer, data: Dataset, metrics: Mapping[str, MetricFunction] | None
) -> dict[str, float]:
    split = data_for_network(net, cross_entropy, data)
    evaluate = jax.jit(make_evaluate(net, cross_entropy, metrics=metrics, precision=run.precision))
    evaluation = evaluate(train_state, split.test_x, split.test_labels)
    return as_numbers(evaluated_metrics("test", evaluation), number_of_labels(split.test_labels))
