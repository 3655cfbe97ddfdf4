"""What a sweep came to: rows, curves, the best, tables on paper and on disk."""

import csv
import json
import math
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from tests.sweeps.made_up_results import member, over_seeds, result

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.reports.sweep_report import write_page
from functional_nn.sweeps.results import Member, columns


@pytest.fixture
def mixed():
    return result(
        member(0, {"rate": 0.1, "hidden": (8, 4), "seed": 0}, 0.9),
        member(1, {"rate": 0.01, "hidden": (8, 4), "seed": 1}, 0.99, status="non-finite", epochs=1),
        member(2, {"rate": 0.01, "hidden": (8, 4), "seed": 0}, 0.95, status="stopped early", epochs=2),
        member(3, {"rate": 0.1, "hidden": (8, 4), "seed": 1}, math.nan),
        member(4, {"rate": 0.1, "hidden": (8, 4), "seed": 2}, 0.0, status="not run", epochs=0),
        plan={"name": "map"},
        compilations=2,
        seconds={"compile": 1.0, "train": 9.0, "total": 10.0},
        message="Interrupted.",
    )


def test_rows_are_flat_and_say_how_each_ended(mixed):
    rows = mixed.rows()
    assert rows[0] == {
        **{"number": 0, "rate": 0.1, "hidden": (8, 4), "seed": 0, "status": "finished", "bad_step": None},
        **{"epochs_run": 3, "test_accuracy": 0.9, "test_loss": pytest.approx(0.1), "train_loss": pytest.approx(0.05)},
        "seconds_per_epoch": 0.0,
    }
    assert (rows[1]["status"], rows[1]["bad_step"], rows[1]["epochs_run"]) == ("non-finite", 7, 1)
    assert rows[4]["epochs_run"] == 0
    assert math.isnan(rows[4]["test_accuracy"])


class CountedPasses(tuple):
    """Members that count how often somebody goes through them."""

    passes = 0

    def __iter__(self):
        CountedPasses.passes += 1
        return super().__iter__()


def test_a_printed_result_does_not_go_through_all_members_for_each_of_them():
    """It did, so the page of 49,000 members took minutes."""
    passes = []
    for count in (3, 300):
        made = result(*over_seeds([0.5] * count, rate=0.1))
        CountedPasses.passes = 0
        assert f"the first of {count} equal ones" in str(replace(made, members=CountedPasses(made.members)))
        passes.append(CountedPasses.passes)
    assert passes[0] == passes[1] > 0


def test_all_tables_have_the_same_columns(mixed, tmp_path):
    """What a column says stands in rows and in CSV, in the printed table and the notebook's, and on the page."""
    mixed.save(tmp_path / "members.csv")
    write_page(tmp_path / "page.html", mixed, {"grid": [{"rate": 0.1}]})
    page = (tmp_path / "page.html").read_text("utf-8")
    table, shown = columns(mixed.members), [column for column in columns(mixed.members) if column.is_shown]
    in_rows = [column.name for column in table if column.of_member]
    assert in_rows == list(mixed.rows()[0]) == (tmp_path / "members.csv").read_text().splitlines()[0].split(",")
    of_settings = [column.title for column in shown if column.of_setting]
    assert "".join(of_settings).split() == "".join(re.split("  +", str(mixed).splitlines()[0].strip())).split()
    assert of_settings == re.findall("<th>(.*?)</th>", mixed._repr_html_())
    heads = re.findall('<button type="button" class="sort">(.*?)<span', page)
    assert heads == ["rank", *(column.title for column in shown if column.of_member)]
    assert re.findall('<th scope="col">([^<]*)</th>', page) == of_settings


def test_curves_end_in_nan_where_a_member_ran_no_further(mixed):
    curves = mixed.curves("test_accuracy")
    assert curves.shape == (5, 3)
    assert np.isnan(curves).sum(axis=1).tolist() == [0, 2, 1, 3, 3]
    np.testing.assert_array_equal(curves[2, :2], mixed.members[2].curves["test_accuracy"])


def test_nan_and_members_that_are_not_finite_never_win(mixed):
    assert mixed.best().number == 2
    assert mixed.best("test_loss").number == 2
    assert [m.number for m in mixed.ranked()][:2] == [2, 0]
    assert {m.number for m in mixed.ranked()[2:]} == {1, 3, 4}


def test_a_member_that_halving_left_out_wins_only_if_no_other_can():
    halved = member(0, {"seed": 0}, 0.9, status="halved")
    made = result(halved, member(1, {"seed": 1}, 0.8), member(2, {"seed": 2}, 0.95, status="non-finite"))
    assert [m.number for m in made.ranked()] == [1, 0, 2]
    assert result(halved, member(1, {"seed": 1}, 0.8, status="non-finite")).best() is halved


def test_the_best_of_equal_ones_is_the_first_and_they_are_counted():
    made = result(*over_seeds([0.9, 0.95, 0.95]), member(3, {"rate": 0.1, "seed": 3}, 0.95, status="halved"))
    assert made.best().number == 1
    assert "test accuracy 0.9500 (chosen on test data); the first of 2 equal ones" in str(made)


def test_no_best_of_none():
    with pytest.raises(InputError, match="got no members"):
        result().best()
    with pytest.raises(InputError, match="got 2 non-finite"):
        result(*(member(i, {"seed": i}, 0.9, status="non-finite") for i in range(2))).best()


def test_a_long_name_of_a_metric_is_not_repeated_whole():
    long = "x" * 500
    losing = Member(0, {}, "finished", None, {long: np.array([np.nan]), "validation_loss": np.ones(1)})
    for metric, words in ((long, "one with a finite xxx"), (f"test_{long}", "one of xxx")):
        with pytest.raises(InputError, match=rf"expected {words}.{{,300}}$"):
            result(losing).best(metric)


def test_where_chooses_and_leaves_the_time_of_all_behind(mixed):
    part = mixed.where(rate=0.01)
    assert [m.number for m in part.members] == [1, 2]
    assert [m.number for m in mixed.where(hidden=[8, 4], seed=1).members] == [1, 3]
    assert part.seconds == {}
    assert part.to_dict()["seconds_per_model_epoch"] is None
    assert "models a second" not in str(part)


def test_cells_that_spreadsheets_would_run_are_texts(tmp_path):
    formulas = ["=1+1", "\uff1d1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-1-1"]
    texts = [*formulas, "-0.5", "+1e-3", "relu", "a=1"]
    made = result(*(member(i, {"=name": text, "rate": -0.5, "seed": i}, 0.5) for i, text in enumerate(texts)))
    made.save(tmp_path / "members.csv")
    with open(tmp_path / "members.csv", newline="") as file:
        names, *rows = csv.reader(file)
    assert names[1:3] == ["'=name", "rate"]
    assert [row[1] for row in rows] == [*(f"'{text}" for text in formulas), *texts[9:]]
    assert {row[2] for row in rows} == {"-0.5"}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_has_null_where_a_number_is_not_finite(suffix, mixed, tmp_path):
    path = tmp_path / f"members{suffix}"
    mixed.save(path)
    text = path.read_text()

    def loads(line):
        return json.loads(line, parse_constant=lambda name: pytest.fail(name))

    rows = loads(text) if suffix == ".json" else [loads(line) for line in text.splitlines()]
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["hidden"] == [8, 4]
    assert rows[3]["test_accuracy"] is None
    assert rows[0]["test_accuracy"] == 0.9


@pytest.mark.parametrize("name", ["members.xls", "members", ".csv"])
def test_another_suffix_is_refused(name, mixed, tmp_path):
    with pytest.raises(InputError, match=r"\.csv, \.jsonl, \.json"):
        mixed.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_printed_table_folds_seeds_and_has_the_best_first():
    made = result(*over_seeds([0.90, 0.92, 0.94], rate=0.1), *over_seeds([0.95, 0.95, 0.98], start=3, rate=0.01))
    head, first, second, best, counts = str(made).splitlines()
    assert head.split() == ["rate", "models", "test", "accuracy", "±", "95%", "not", "finite"]
    assert first.split() == ["0.01", "3", "0.9600", "0.0430"]  # 4.3027 × 0.017321 / √3
    assert second.split() == ["0.1", "3", "0.9200", "0.0497"]  # 4.3027 × 0.02 / √3
    assert best == "best: member 5 (rate 0.01, seed 2), test accuracy 0.9800 (chosen on test data)"
    assert counts == "6 finished"


def test_printed_tables_and_members_have_no_control_characters():
    hostile = "\x1b]0;name\x07\nfalse"
    first = member(0, {hostile: hostile, "seed": 0}, 0.9, status=hostile)
    made = result(first, member(1, {hostile: "a", "seed": 1}, 0.8))
    lines = str(made).splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() for line in (*lines, repr(first)))


def test_the_rate_is_that_of_the_members_that_this_call_trained(mixed):
    part = result(*mixed.members, seconds={"train": 9.0, "total": 10.0}, restored=(0, 3))
    assert (part.to_dict()["restored_members"], part.to_dict()["seconds_per_model_epoch"]) == (2, 9.0 / (1 + 2))


def test_a_members_network(mixed):
    def model(h):
        return fnn.dense(h["hidden"][0 if h["rate"] > 0.05 else 1])

    made = result(*mixed.members, model=model)
    for chosen, size in ((made.members[0], 8), (made.members[2], 4)):
        params, _ = made.network(chosen).init(jax.random.key(0), (4,))
        assert params["weight"].shape == (4, size)
    with pytest.raises(InputError, match="The seed makes the run's key"):
        result(*mixed.members, model=lambda h: fnn.dense(h["seed"])).network(mixed.members[0])
    assert result(*mixed.members, model=fnn.relu).network(mixed.members[0]).name == "relu"
