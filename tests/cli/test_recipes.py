"""Recipes put values in the place of defaults, and flags stand above them."""

import pytest
from tests.cli.conftest import result_of

from functional_nn.cli.sweep import sweep
from functional_nn.cli.train import train
from functional_nn.configuration.settings import RECIPES, Configuration, flag_of


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("command", [train, sweep])
def test_a_recipe_is_its_flags_written_out(command, name):
    written_out = [part for flag, text in RECIPES[name].items() for part in (flag_of(flag), text)]
    by_name, by_hand, plain = (
        command.make_context(command.name, arguments).params for arguments in (["--recipe", name], written_out, [])
    )
    assert by_name == by_hand
    assert all(by_name[flag] != plain[flag] for flag in RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_a_network(name):
    fields = Configuration.__dataclass_fields__
    context = train.make_context("train", ["--recipe", name])
    config = Configuration(**{field: context.params[field] for field in fields}).completed()
    network = config.network(10)
    assert network.name == ("chain" if config.shift else config.model)
    config.transformation(60_000)


def test_flags_stand_above_the_recipe(tiny, tmp_path):
    command, *flags = tiny
    own = ["--model", "mlp", "--epochs", "1", "--quiet"]
    config = result_of([command, "--recipe", "best", *flags, *own], tmp_path)["config"]
    recipe = RECIPES["best"]
    assert [config["model"], config["epochs"], config["optimizer"]] == ["mlp", 1, "sgd"]
    assert [config["schedule"], config["dropout"], config["shift"]] == [recipe["schedule"], 0.25, int(recipe["shift"])]


def test_an_unknown_recipe(refused):
    refused(["train", "--recipe", "fats"], "Did you mean fast?")
