"""Pictures of a sweep, on the edges of what a sweep can be."""

import math
import tracemalloc

import numpy as np
import pytest
from tests.reports.figures import drawn, texts
from tests.sweeps.made_up_results import member, over_seeds, result

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.reports.page import as_svg

random = np.random.default_rng(0)


def swept(settings, seeds=3, deviation=0.003):
    """Settings with their accuracies, each with so many seeds."""
    members = []
    for h, accuracy in settings:
        values = random.normal(accuracy, deviation, seeds)
        members += over_seeds(values, start=len(members), **h)
    return result(*members)


@pytest.fixture
def rates():
    return swept([({"rate": rate}, accuracy) for rate, accuracy in ((1e-4, 0.9), (1e-3, 0.96), (1e-2, 0.95))], 4)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_curves_are_means_in_a_band(rates):
    figure = drawn(fnn.plots.plot_curves(rates))
    assert list(lines(figure)) == ["0.001", "0.01", "0.0001"]
    assert not any(line.get_clip_on() for line in lines(figure).values())  # an accuracy of 1 is on the edge
    np.testing.assert_allclose(
        lines(figure)["0.001"].get_ydata(), rates.where(rate=1e-3).curves("test_accuracy").mean(axis=0)
    )
    (row,) = fnn.sweeps.summarize(rates.where(rate=1e-3))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 3][:, 1].max() == pytest.approx(row.high)
    assert band[band[:, 0] == 3][:, 1].min() == pytest.approx(row.low)
    assert {"rate", "epoch", "test accuracy", "mean of 4 members, and its 95% interval"} <= set(texts(figure))


def test_a_member_that_is_not_finite_is_in_no_mean_but_in_the_legend():
    bad = member(9, {"rate": 0.1, "seed": 2}, 0.1, status="non-finite", epochs=2)
    worse = member(10, {"rate": 9.0, "seed": 0}, math.nan, status="non-finite", epochs=1)
    figure = drawn(fnn.plots.plot_curves(result(*over_seeds([0.8, 0.9], rate=0.1), bad, worse)))
    line = lines(figure)["0.1 (1 of 3 not finite)"]
    assert line.get_ydata()[-1] == pytest.approx(0.85)
    assert len(lines(figure)["9 (1 of 1 not finite)"].get_ydata()) == 0


def test_curves_do_not_jump_where_a_member_ends():
    """Who stopped early keeps its value; where halving took one, the mean of the others would be another line."""
    early = member(1, {"seed": 1}, 0.5, status="stopped early", epochs=1)
    (line,) = lines(fnn.plots.plot_curves(result(member(0, {"seed": 0}, 0.9), early))).values()
    np.testing.assert_allclose(line.get_ydata(), [(0.45 + 0.5) / 2, (0.675 + 0.5) / 2, 0.7])
    halved = member(1, {"seed": 1}, 0.2, status="halved", epochs=2)
    (line,) = lines(fnn.plots.plot_curves(result(member(0, {"seed": 0}, 0.9), halved))).values()
    assert len(line.get_ydata()) == 2


@pytest.mark.parametrize("status", ["finished", "stopped early"])
def test_one_long_curve_makes_no_table_of_that_length_for_all(status, rates):
    fnn.plots.plot_curves(rates)  # which imports what it needs
    members = [member(i, {"seed": i}, 0.9, epochs=1 if i else 10**6, status=status) for i in range(40)]
    tracemalloc.start()
    figure = fnn.plots.plot_curves(result(*members))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**8
    (line,) = lines(figure).values()
    assert list(line.get_xdata()[[0, -1]]) == [1, 1 if status == "finished" else 10**6]


def cells(figure):
    return {tuple(map(float, text.get_position())): text.get_text() for text in figure.axes[0].texts}


def frame(figure):
    (rectangle,) = (patch for patch in figure.axes[0].patches)
    return rectangle.get_x() + 0.5, rectangle.get_y() + 0.5


def test_a_heat_map_has_every_mean_and_a_frame_around_the_best():
    made = swept([({"rate": r, "hidden": h}, r * 3 + h / 100) for r in (0.2, 0.1) for h in (16, 8)], 3, deviation=0)
    figure = drawn(fnn.plots.plot_heat_map(made, "rate", "hidden"))
    assert cells(figure) == {(0, 0): "0.380", (0, 1): "0.460", (1, 0): "0.680", (1, 1): "0.760"}
    assert frame(figure) == (1, 1)
    assert frame(fnn.plots.plot_heat_map(made, "hidden", "rate", "test_loss")) == (1, 1)
    assert {"rate", "hidden", "0.1", "0.2", "8", "16", "test accuracy, mean of 3 members a cell"} <= set(texts(figure))


@pytest.mark.parametrize(("metric", "limits"), [("test_accuracy", (0.875, 0.92)), ("test_loss", (0.08, 0.125))])
def test_the_colors_of_a_heat_map_leave_out_a_very_bad_cell(metric, limits):
    uneven = swept([({"a": a, "b": 1}, accuracy) for a, accuracy in enumerate((0.2, 0.9, 0.91, 0.92))], deviation=0)
    (image,) = fnn.plots.plot_heat_map(uneven, "a", "b", metric).axes[0].images
    assert image.get_clim() == pytest.approx(limits)


def test_a_heat_map_says_what_is_not_finite():
    made = result(
        *over_seeds([0.8, 0.9], a=1, b=1),
        member(2, {"a": 1, "b": 1, "seed": 2}, 0.99, status="non-finite"),
        member(3, {"a": 2, "b": 2, "seed": 0}, 0.99, status="non-finite"),
        member(4, {"a": 2, "b": 1, "seed": 0}, 0.2),
    )
    figure = drawn(fnn.plots.plot_heat_map(made, "a", "b"))
    assert sorted(cells(figure).values()) == ["0.200", "0.850", "1 not finite", "not\nfinite"]
    assert frame(figure) == (0, 0)
    drawn(fnn.plots.plot_heat_map(result(*made.members[3:4]), "a", "b"))


def test_what_is_no_heat_map_is_refused(rates):
    with pytest.raises(InputError, match=r"got 'rat'\. Did you mean rate"):
        fnn.plots.plot_heat_map(rates, "rat", "seed")
    with pytest.raises(InputError, match="another hyper-parameter than x"):
        fnn.plots.plot_heat_map(rates, "rate", "rate")
    many = result(*(member(i, {"a": float(i), "seed": 0}, 0.5) for i in range(21)))
    with pytest.raises(InputError, match="a: expected at most 20 values, got 21"):
        fnn.plots.plot_heat_map(many, "a", "seed")
    with pytest.raises(InputError, match="Did you mean test_loss"):
        fnn.plots.plot_heat_map(rates, "rate", "seed", "test_los")


def test_a_spread_counts_every_member_and_says_its_numbers():
    values = random.integers(950, 970, 256) / 1000
    figure = drawn(
        fnn.plots.plot_spread(result(*over_seeds(values), member(999, {"seed": 999}, 0.1, status="non-finite")))
    )
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 256
    about = f"256 members, mean {values.mean():.4f}, sd {values.std(ddof=1):.4f}, from 0.9500 to 0.9690; 1 not finite"
    assert about in texts(figure)


def test_a_spread_has_a_panel_for_each_setting_of_at_most_six(rates):
    figure = fnn.plots.plot_spread(rates)
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == [
        "rate 0.001",
        "rate 0.01",
        "rate 0.0001",
    ]
    many = drawn(fnn.plots.plot_spread(swept([({"rate": float(i)}, i / 10) for i in range(1, 10)])))
    assert len(many.axes) == 6
    assert "the best 6 of 9 settings" in texts(many)


@pytest.mark.parametrize("made", [result(), result(member(0, {"seed": 0}, math.nan, status="non-finite", epochs=0))])
def test_nothing_to_see_is_said(made):
    with pytest.raises(InputError, match="one with a finite t"):
        fnn.plots.plot_spread(made)
    with pytest.raises(InputError, match="a member that ran an epoch"):
        fnn.plots.plot_curves(made)


@pytest.mark.parametrize("text", [r"$\frac$ \$ $$$", "\udc00" + "W" * 300_000])
def test_texts_of_a_stranger_are_drawn_as_they_are(text):
    members = swept([({text: f"{text}{i}", "rate": 10.0**-i, "activation": text + "x" * i}, 0.9) for i in range(3)])
    heat_map = fnn.plots.plot_heat_map(members, text, "activation")
    for figure in (fnn.plots.plot_curves(members), fnn.plots.plot_spread(members), heat_map):
        assert len(as_svg(figure, "", "", {})) < 2e6


def test_texts_are_no_formulas_in_a_notebook():
    members = swept([({r"$\frac$": f"{i}", "rate": 10.0**-i}, 0.9) for i in range(2)])
    heat_map = fnn.plots.plot_heat_map(members, r"$\frac$", "rate")
    for figure in (fnn.plots.plot_curves(members), fnn.plots.plot_spread(members), heat_map):
        drawn(figure)
