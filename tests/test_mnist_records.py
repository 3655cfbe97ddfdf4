"""The records on MNIST: counted parameters, the command on few images, and the page, which is made from the results."""

import json
from importlib import import_module
from statistics import mean

import jax
import pytest
from benchmarks.mnist_records import page
from benchmarks.mnist_records.networks import separable, stored_numbers, two_convolutions
from benchmarks.mnist_records.settings import RECORDS

from functional_nn.configuration.flag_types import RECIPES

SMALL = ("parameters-99", "parameters-98")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Optax is not written for strict promotion, so training is tested without it."""


def recorded() -> list[dict]:
    return [json.loads(line) for line in page.RESULTS.read_text("utf-8").splitlines()]


def run(monkeypatch, results, *arguments: str) -> list[dict]:
    main = import_module("benchmarks.__main__")
    always = ["mnist-records", "--dataset", "mnist5k", "--seeds", "1", "--epochs", "1", "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["benchmarks", *always, *arguments])
    main.main()
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def test_parameters_of_two_convolutions_by_hand():
    first, second, dense = 5 * 5 * 12 + 12, 3 * 3 * 12 * 16 + 16, 2 * 2 * 16 * 10 + 10
    assert stored_numbers(two_convolutions(12, 16)) == first + second + dense


def test_parameters_of_separable_convolutions_by_hand():
    first, changing, block = 5 * 5 * 6 + 6, 3 * 3 * 6 + 6 * 8 + 8, 3 * 3 * 8 + 8 * 8 + 8
    places, dense = 3 * 3 * 8, 8 * 10 + 10
    assert stored_numbers(separable(6, 8, 1)) == first + changing + block + places + dense
    assert stored_numbers(separable(6, 8, 2)) == first + changing + 2 * block + places + dense


def test_the_smallest_networks_are_smaller_than_their_anchors():
    assert stored_numbers(RECORDS["parameters-99"].setting.network()) < 4862
    assert stored_numbers(RECORDS["parameters-98"].setting.network()) < 575


@pytest.mark.parametrize("line", recorded(), ids=lambda line: f"{line['record']}, {line['candidate']}")
def test_recorded_parameters_are_those_of_the_network(line):
    setting = RECORDS[line["record"]].candidates[line["candidate"]]
    assert line["parameters"] == stored_numbers(setting.network())
    assert len(line["accuracies"]) == len(line["seeds"])


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_have_no_state(name):
    """Running statistics would be stored numbers, too, and these networks need none."""
    for setting in RECORDS[name].candidates.values():
        _, state = setting.network().init(jax.random.key(0), (28, 28, 1))
        assert not state


def test_the_chosen_setting_of_best_is_the_recipe():
    setting, recipe = RECORDS["best"].setting, RECIPES["best"]
    assert setting.numbers() == {name: float(recipe[name]) for name in setting.numbers()}
    numbers = recipe["dropout"], recipe["shift"], recipe["deform"]
    assert RECORDS["best"].chosen == "dropout {}, shift {}, deformation {}".format(*numbers)


def test_the_command_runs_on_the_package_s_own_digits(monkeypatch, tmp_path):
    before = page.PAGE.read_text("utf-8")
    (line,) = run(monkeypatch, tmp_path / "found.jsonl", "--only", "parameters-98")
    assert line["evaluated_on"] == "test"
    assert line["seeds"] == [0]
    assert 0 <= line["accuracies"][0] <= 1
    assert page.PAGE.read_text("utf-8") == before  # only the full results are on the page


@pytest.mark.slow
def test_choices_are_made_on_validation_images(monkeypatch, tmp_path):
    lines = run(monkeypatch, tmp_path / "found.jsonl", "--only", "parameters-99", "--choose")
    assert [line["candidate"] for line in lines] == list(RECORDS["parameters-99"].candidates)
    assert {line["evaluated_on"] for line in lines} == {"validation"}


@pytest.mark.slow
def test_a_timed_record_has_the_seconds_of_each_process(monkeypatch, tmp_path):
    (line,) = run(monkeypatch, tmp_path / "found.jsonl", "--only", "time-99")
    names = ("training_seconds", "fit_seconds", "first_fit_seconds", "process_seconds")
    assert all(len(line[name]) == 1 and line[name][0] > 0 for name in names)


def test_the_tables_of_the_page_are_those_of_the_results():
    text = page.PAGE.read_text("utf-8")
    assert page.found_table(recorded()) in text
    assert page.choices_table(recorded()) in text


def test_a_run_with_other_settings_is_not_on_the_page():
    record = RECORDS["parameters-99"]
    line = {"record": "parameters-99", "candidate": record.chosen, "dataset": "mnist", "evaluated_on": "test"}
    assert page.newest([line | {"setting": record.setting.numbers()}], *line_names(line)) is not None
    fewer = record.setting.numbers() | {"epochs": 1}
    assert page.newest([line | {"setting": fewer}], *line_names(line)) is None
    assert page.newest([line | {"setting": fewer, "evaluated_on": "validation"}], *line_names(line)) is None
    assert page.newest([line | {"setting": fewer, "dataset": "mnist5k"}], *line_names(line)) is None


def line_names(line: dict) -> tuple[str, str, str]:
    return line["record"], line["candidate"], line["evaluated_on"]


def test_a_row_has_the_mean_and_the_seeds_that_reach_the_goal():
    record = RECORDS["best"]
    accuracies = [0.9982, 0.9984, 0.9986]
    line = {
        "record": "best",
        "candidate": record.chosen,
        "dataset": "mnist",
        "evaluated_on": "test",
        "setting": record.setting.numbers(),
        "parameters": 514,
        "seeds": [0, 1, 2],
        "accuracies": accuracies,
        "ensemble": 0.999,
        "seconds": 10.0,
        "date": "2026-01-02T00:00:00+00:00",
        "cpu": "a CPU",
        "cores": 2,
        "system": "Linux",
        "python": "3.11",
        "versions": {"jax": "0.10"},
        "load_average": 0.5,
    }
    row = next(row for row in page.found_table([line]).splitlines() if row.startswith("| `best`"))
    assert "| 514 | 0.9982, 0.9984, 0.9986; all together 0.9990 |" in row
    assert f"**{mean(accuracies):.4f}** | 2 of 3 |" in row
