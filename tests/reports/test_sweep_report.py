"""The page of a sweep: its table and its charts; in a browser, sorting by keyboard and highlights."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.sweeps.made_up_results import member, result

from functional_nn.reports.plots.sweep import parallel_axis
from functional_nn.reports.sweep_report import MOST_DRAWN, drawn_members, write_page
from functional_nn.sweeps.results import Member

SETTINGS = {
    "grid": [{"learning_rate": 0.1, "seed": 0, "data": ""}],
    "identity": {"model": "<mlp>\x1b\u202e"},
    "epochs": 4,
}


def rated(number: int, accuracy: float, status: str = "finished", **hyperparameters) -> Member:
    return member(number, {"learning_rate": 0.1 / (number + 1), **hyperparameters}, accuracy, epochs=4, status=status)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A sweep of 300 models, among them one that is not finite, one that was not run, and one with a hostile name."""
    names = ["relu", "<script>alert(1)</script>"]
    members = [rated(number, 0.5 + number / 1000, activation=names[number == 3]) for number in range(298)]
    members.append(rated(298, np.nan, "non-finite", activation="relu"))
    members.append(Member(299, {"learning_rate": 1e-9, "activation": "relu"}, "not run", None))
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, result(*members), SETTINGS)
    return path


def rows_of(text: str) -> list[str]:
    return re.findall(r"<tr data-model=.*?</tr>", text, re.DOTALL)


def test_the_best_models_come_first_and_those_without_a_number_last(page):
    rows = rows_of(page.read_text("utf-8"))
    assert len(rows) == 300
    models = [re.search(r'data-model="(\d+)"', row)[1] for row in rows]
    assert models[:3] == ["297", "296", "295"]
    assert set(models[-2:]) == {"298", "299"}
    assert any('<td class="wrong">non-finite</td><td class="n" data-value="7">7</td>' in row for row in rows)
    assert sum(" hidden" in row for row in rows) == 100


def test_at_most_200_models_are_drawn_and_the_page_says_which(page):
    text = page.read_text("utf-8")
    assert f"{MOST_DRAWN} of 300 models are drawn, here and below: the best 100, and 100 that are spread" in text
    drawn = set(re.findall(r'<path data-model="(\d+)"', text))
    assert len(drawn) == MOST_DRAWN
    assert {"297", "198"} <= drawn
    ranks = re.findall(r'<path data-model="(297|198)" style="--rank:(\d+)%"', text)
    assert set(ranks) == {("297", "0"), ("198", "50")}  # of the 200, in each chart
    assert len(drawn_members([rated(number, 0.5) for number in range(2000)])) == MOST_DRAWN
    assert len(text) < 400_000


def test_texts_of_users_are_escaped(page):
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert r"&lt;mlp&gt;\x1b\u202e" in text  # codes for a terminal, and letters from right to left
    assert text.count("<script>") == 1


def test_axes_are_even_for_few_values_and_logarithmic_for_many_that_span_decades():
    assert parallel_axis("batch_size", [64, 16, 32]).places == {16: 0.0, 32: 0.5, 64: 1.0}
    many = parallel_axis("rate", [10.0**-number for number in range(20)])
    assert many.places[1e-10] - many.places[1e-19] == pytest.approx(many.places[1.0] - many.places[1e-9])
    uniform = parallel_axis("dropout", [0.001, *np.linspace(0.1, 0.9, 20).tolist()])
    assert uniform.places[0.9] - uniform.places[0.1] > 0.8
    assert all(0 <= place <= 1 for axis in (many, uniform) for place, _ in axis.ticks)
    metric = parallel_axis("accuracy", [0.944, *np.linspace(0.912, 0.94, 20).tolist()])
    assert metric.ticks[-1] == (1.0, "0.944")
    assert parallel_axis("name", ["b", "$x$"]).ticks == [(0.0, "b"), (1.0, r"\$x\$")]


# In a browser


@pytest.fixture
def tab(browser, page):
    tab = browser.new_page()
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(page.as_uri())
    yield tab
    assert requests == [page.as_uri()]
    assert errors == []
    tab.close()


def column(tab, name: str) -> list[str]:
    place = tab.eval_on_selector_all("#table thead th", "all => all.map(one => one.textContent.trim())").index(name)
    visible = "(all, place) => all.filter(row => !row.hidden).map(row => row.cells[place].textContent)"
    return tab.eval_on_selector_all("#table tbody tr", visible, place)


def lit(tab) -> set[str]:
    return set(tab.eval_on_selector_all(".lit", "all => all.map(one => one.dataset.model)"))


@pytest.mark.browser
def test_the_table_is_sorted_by_keyboard(tab):
    button = tab.get_by_role("button", name="learning_rate")
    button.focus()
    tab.keyboard.press("Enter")
    rates = [float(text) for text in column(tab, "learning_rate")]
    assert rates == sorted(rates)
    assert rates[0] == 1e-9
    assert len(rates) == 200
    tab.keyboard.press("Space")
    rates = [float(text) for text in column(tab, "learning_rate")]
    assert rates == sorted(rates, reverse=True)
    sorted_heads = tab.locator("th[aria-sort]")
    assert sorted_heads.count() == 1
    assert sorted_heads.get_attribute("aria-sort") == "descending"
    tab.get_by_role("button", name="Show all 300 models").press("Enter")
    assert len(column(tab, "rank")) == 300
    for _ in range(2):  # models without a number are last in both directions
        tab.get_by_role("button", name="test accuracy").press("Enter")
        assert set(column(tab, "test accuracy")[-2:]) == {"not finite", "–"}
    tab.get_by_role("button", name="activation").press("Enter")
    assert column(tab, "activation")[0].startswith("<script>")


@pytest.mark.browser
def test_a_row_highlights_its_model_in_all_charts_and_a_line_has_a_tooltip(tab):
    tab.get_by_role("button", name="290", exact=True).focus()
    assert lit(tab) == {"290"}
    assert tab.locator(".models-chart path.lit").count() == 4
    tab.locator("tr[data-model='280']").hover()
    assert lit(tab) == {"280"}
    assert "learning_rate" in tab.locator("path[data-model='297'] title").first.text_content()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_a_phone(browser, page, scheme, serious_faults):
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 375, "height": 800})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert not serious_faults(tab)
    tab.close()
