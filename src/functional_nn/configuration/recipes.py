"""Recipes: named sets of values for flags. A flag on the command line overrides the recipe's value."""

from __future__ import annotations

import click

from functional_nn.configuration.flag_types import Named

RECIPES: dict[str, dict[str, str]] = {
    "fast": {"model": "lenet", "epochs": "1", "learning_rate": "0.02", "schedule": "one-cycle"},
    "best": {
        "model": "deep_cnn",
        "dropout": "0.25",
        "shift": "2",
        "deform": "0.2",
        "epochs": "15",
        "batch_size": "128",
        "optimizer": "adamw",
        "learning_rate": "0.003",
        "weight_decay": "0.01",
        "schedule": "one-cycle",
    },
}
"""Values by flag, written as on the command line. docs/reference/models.md has the measured accuracies and times."""


def use_recipe(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Replaces the defaults of the flags by the recipe's values."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **RECIPES[name]}


RECIPE = click.option(
    "--recipe",
    type=Named(RECIPES),
    is_eager=True,
    expose_value=False,
    callback=use_recipe,
    help="Values for flags that go together: fast, MNIST to 99% in seconds; best, to 99.6%.",
)
