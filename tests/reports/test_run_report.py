"""The page of a run: its charts, its sentences, and what is left out where something is missing."""

import math
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.configuration.settings import DEFAULTS
from functional_nn.core.errors import InputError
from functional_nn.data.dataset import make_dataset
from functional_nn.reports import run_report
from functional_nn.reports.page import as_svg
from functional_nn.reports.plots.run import metric_chart, small_curve
from functional_nn.reports.run_contents import RunContents
from functional_nn.reports.run_report import findings, outcome, times, write_page

NET = fnn.chain(fnn.flatten(), fnn.dense(40))
SETTINGS = DEFAULTS | {"dataset": "forty", "hidden": [], "epochs": 1, "classes": 40, "image_shape": [4, 4, 3]}


def known(history, **more) -> RunContents:
    return RunContents(SETTINGS, NET, history, **more)


def row(epoch=1, gradients=(), **outputs):
    of_layers = {f"dense_{number}": {"gradient": value, "weight": 1.0} for number, value in enumerate(gradients)}
    return {"epoch": epoch, "examples": 256, "outputs": outputs, "gradients": of_layers}


def history(*losses):
    return [{"epoch": epoch, "train_loss": loss, "seconds": 0.5} for epoch, loss in enumerate(losses, 1)]


def written(tmp_path, contents) -> str:
    write_page(tmp_path / "page.html", contents)
    return (tmp_path / "page.html").read_text("utf-8")


# Sentences


def test_dead_units_are_those_after_an_activation():
    relu = {"units": 4, "dead": 1}
    (sentence,) = findings([row(gradients=(1.0,), flatten_0={"units": 9, "dead": 5}, dense_0={"dead": 0}, relu_0=relu)])
    assert sentence.startswith("Layer dense_0: 1 of 4 units is 0 after relu_0 for all of 256 training examples. Such a")
    (sentence,) = findings([row(gradients=(1.0,), dense_0={"dead": 0}, relu_0={"units": 4, "dead": 4})])
    assert sentence.startswith("Layer dense_0: all units are 0 after relu_0")
    first, second = findings([row(relu_0=relu, relu_1=relu)])
    assert ("Such a unit" in first, "Such a unit" in second) == (True, False)


@pytest.mark.parametrize(
    ("gradients", "text"),
    [
        ((1e-8, 1e-2), "The gradient of dense_0 is 1e−6 of that of dense_1, the last layer."),
        ((0.0, 1e-2), "The gradient of dense_0 is 0, so dense_0 does not learn."),
        ((1e2, 1e-2), "The gradient of dense_0 is 1e4 times that of dense_1"),
        ((1e-2, 0.0), "The gradient of dense_1, the last layer, is 0"),
        ((None, 1.0), "The gradient of dense_0 is not finite."),
        ((1e-3, 1e-2), ""),
        ((), ""),
    ],
)
def test_gradients_are_compared_with_that_of_the_last_layer(gradients, text):
    found = findings([row(gradients=gradients)])
    assert len(found) == bool(text)
    assert "".join(found).startswith(text)


def test_the_outcome_begins_with_the_metric_that_counts():
    rows = [{"epoch": 1, "train_loss": 1.0, "validation_loss": 2.0, "validation_accuracy": 0.5}]
    assert list(outcome(known(rows))) == ["validation_accuracy", "validation_loss", "train_loss"]
    result = {"test_accuracy": 0.25, "test_loss": 3.0}
    assert list(outcome(known(rows, result=result)))[:2] == ["test_accuracy", "test_loss"]
    assert outcome(known([])) == {}


# Charts and pictures


@pytest.mark.parametrize(
    "values", [[1.0, math.nan, 2.0], [1e-9, 1e9, 1.0], [0.0] * 3, [-3.0, 4.0, 1.0], [math.nan] * 3, [1e300, 1.1e300, 1]]
)
def test_numbers_that_cannot_be_drawn_leave_a_gap(values):
    svg = as_svg(metric_chart([1, 2, 3], {"train_a<b>": values, "test_a<b>": values}, "loss"), "x", 'a "label" <b>', {})
    assert "a&lt;b&gt;" in svg
    assert "<b" not in svg
    assert "nan" not in svg
    assert small_curve([1.0, None]) is None
    assert small_curve([0.0, 1.0, -1.0], logarithmic=True) is None


# Pages


@pytest.fixture(scope="module")
def forty() -> RunContents:
    """A network with 40 classes, and images of which it gets some wrong."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 255, (80, 4, 4, 3), np.uint8), np.arange(80) % 40
    data = make_dataset("forty", images, labels, images, labels, source="a test")
    params, state = NET.init(jax.random.key(0), (4, 4, 3))
    return known(history(0.5), params=params, state=state, data=data)


def test_many_classes_have_a_list_of_errors_in_place_of_a_matrix(tmp_path, forty):
    text = written(tmp_path, forty)
    assert 'class="confusion"' not in text
    assert "<details open><summary>Most frequent errors" in text
    assert len(re.findall("<img ", text)) == 24
    assert len(re.findall('<img [^<>]*src="data:image/png;base64,[^"]*" [^<>]*alt="[^"]+"', text)) == 24


def test_ten_thousand_classes_take_no_matrix_of_all_pairs():
    """It would have a hundred million numbers, for four answers."""
    classes, labels, pixels = 10_000, np.array([3, 9_999, 3, 7]), np.zeros((4, 1, 1, 1), np.uint8)
    data = make_dataset("many", pixels, labels, pixels, labels, source="a test")
    probabilities = np.zeros((4, classes), np.float32)
    probabilities[np.arange(4), [5, 9_999, 5, 0]] = 1
    contents = RunContents(SETTINGS | {"classes": classes}, NET, history(0.5), data=data)
    found = run_report._confusion(contents, probabilities)
    assert found["frequent"] == [("3", "5", 2), ("7", "0", 1)]
    assert (found["wrong"], found["examples"], found["rows"]) == (3, 4, [])


def test_outputs_that_are_not_finite_have_no_confusion_matrix_and_the_page_says_why(tmp_path, forty):
    images = forty.data.test_images
    params = jax.tree.map(lambda array: array.at[0].set(np.nan) if array.ndim == 1 else array, forty.params)
    text = written(tmp_path, replace(forty, params=params, notes=["A note."]))
    assert "Confusion matrix" not in text
    assert "Most wrong test examples" not in text
    assert f"outputs are not finite for {len(images)} of {len(images)} test examples" in text
    assert "A note." in text


def test_a_name_that_is_half_a_character(tmp_path):
    """JSON may have half of a pair of surrogates."""
    rows = [{"epoch": epoch, "x\ud800": 1.0, "train_loss": 1.0} for epoch in (1, 2)]
    statistics = [row(epoch, **{"x\ud800": {"units": 4, "dead": 1, "zeros": 0.5}}) for epoch in (1, 2)]
    for of_row in statistics:
        of_row["gradients"] = {"x\ud800": {"gradient": 0.1, "weight": 1.0}}
    assert "x\\ud800" in written(tmp_path, known(rows, statistics=statistics))


def test_a_resumed_run_has_the_times_of_its_last_part():
    result = {"seconds": {"train": 2.0}, "restored_epochs": 3}
    shown = dict(times(known(history(4.0, 3.0, 2.0, 1.0), result=result)))
    assert shown == {"train, since it was resumed after epoch 3": "2.00 s", "an epoch (median)": "0.5 s"}


def test_a_run_of_which_nothing_is_known(tmp_path):
    text = written(tmp_path, known([], notes=["<why>"]))
    assert "for 0 of 1 epoch. It has not finished, or it was killed." in text
    assert "&lt;why&gt;" in text
    assert "<h2>Draw" not in text


def test_the_table_of_layers_has_the_numbers_after_the_last_epoch(tmp_path):
    numbers = {"units": 4, "dead": 1, "zeros": 0.5, "mean": 2.0, "deviation": 1.0}
    rows = [row(1, (8.0,), dense_0=dict.fromkeys(numbers, 0)), row(2, (0.5,), dense_0=numbers)]
    of_layer = written(tmp_path, known(history(2.0, 1.0), statistics=rows)).partition("<code>dense_0</code>")[2]
    cells = re.findall('<td class="n">(.*?)</td>', of_layer.partition("</tr>")[0])
    assert cells == ["4", "1", "50.0%", "2 ± 1", "0.5"]


@pytest.mark.parametrize("name", [r"$\frac$", "$" + "{" * 300 + "}" * 300 + "$", "x" * 200_000], ids=len)
def test_names_of_metrics_of_a_stranger_are_drawn_as_they_are(tmp_path, name):
    text = written(tmp_path, known([{"epoch": 1, f"train_{name}": 1.0, f"test_{name}": 2.0}]))
    assert text.count("<svg") == 1


def test_a_page_has_a_limited_number_of_charts_and_says_that_there_are_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "MOST_CHARTS", 3)
    text = written(tmp_path, known([{"epoch": 1, **{f"test_m{number}": 1.0 for number in range(2000)}}]))
    assert text.count("<svg") == 3
    assert "Of 2000 charts, the first 3 are shown." in text


def test_the_drawing_panel_is_in_the_page_or_why_it_is_not(tmp_path, monkeypatch, forty):
    given = []

    def panel_data(net, params, state, image_shape, class_names, data, *, digits):
        given.append((net, sorted(params), state, image_shape, class_names[-1]))
        if len(given) > 1:
            raise InputError("net", "a network that a page can compute", "<another>")
        return {"panel": "<p>the panel</p>"}

    monkeypatch.setattr(run_report, "panel_data", panel_data)
    monkeypatch.setattr(run_report, "drawing_panel", lambda panel: panel["panel"])
    text = written(tmp_path, forty)
    assert "<p>the panel</p>" in text
    assert given == [(NET, ["dense_0"], {}, (4, 4, 3), "39")]
    assert "<h2>Draw</h2>" in (text := written(tmp_path, forty))
    assert "got &lt;another&gt;" in text
