"""The HTML of objects: well formed, escaped, without scripts and requests, and with the numbers that count."""

import functools
import importlib
import math
import pickle
import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.bench.diagnose.findings import Explanation, Finding
from functional_nn.bench.targets.chips import CHIPS
from functional_nn.bench.targets.padding import PaddedProduct
from functional_nn.bench.targets.report import TargetReport
from functional_nn.core.display import html_repr
from functional_nn.core.progress import ProgressState
from functional_nn.jaxprs.non_finite.report import NonFinite
from functional_nn.reports.notebook import makers
from functional_nn.reports.notebook.charts import histogram, sparkline
from functional_nn.reports.notebook.layer_sizes import layer_sizes
from functional_nn.reports.notebook.markup import table, tag
from functional_nn.reports.notebook.parameters import parameter_table
from functional_nn.sweeps.member import Member
from functional_nn.sweeps.results import SweepResult
from functional_nn.training.run import EpochHistory, EpochMetrics, Run

EVIL = "<script>alert(1)<b> & \"'"
NET = fnn.chain(fnn.dense(4), fnn.relu, fnn.residual(fnn.dense(4), fnn.dropout(0.2)), head=fnn.dense(3))
IMAGES = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8)


def epochs(count, **last):
    rows = [EpochMetrics(i, {"train_loss": 1 / i, "test_accuracy": 0.9 - 0.1 / i}, 0.01) for i in range(1, count + 1)]
    return EpochHistory([*rows[:-1], rows[-1]._replace(**last)])


def a_run(status="finished", message="", count=3):
    return Run(None, epochs(count), status, message, (4,), "float32", {"compile": 1.5, "train": 0.2})  # pyright: ignore[reportArgumentType]


def a_sweep(name="learning_rate"):
    curve = np.array([0.5, 0.9])
    members = [
        Member(i, {name: rate, "seed": seed}, status, None, {"test_accuracy": curve - rate})
        for i, (rate, seed, status) in enumerate(
            [(0.1, 0, "finished"), (0.1, 1, "non-finite"), (0.01, 0, "finished"), (0.01, 1, "finished")]
        )
    ]
    return SweepResult(tuple(members), lambda h: None, "float32", (784,))  # pyright: ignore[reportArgumentType]


def a_report():
    Verdict, Survivor = fnn.gradients.Verdict, fnn.gradients.Survivor
    verdicts = Verdict(EVIL, "x", "fail", 1.0, 0.1, hand=2.0, arbiter=1.0), Verdict("f", "y", "pass", 0.0, 0.1)
    return fnn.gradients.Report(verdicts, 3, (Survivor(EVIL, "sign"),), ((EVIL, "no"),), title=EVIL)


def a_target(reason):
    product = PaddedProduct(EVIL, "dense_0", 10, 20, cost=1)
    finding = Finding("float64", "dense_0", EVIL, "Pass it.")
    chip, stages = CHIPS["tpu-v5e"], {"compile": 1.0}
    return TargetReport(EVIL, chip, stages, reason, None, 1, 2, 3, (product,), Explanation((finding,)))


@functools.cache
def everything():
    """An object of every class that shows itself, except for Benchmark, with texts that are not HTML."""
    finding = Finding("float64", "dense_0", EVIL, "Pass it.")
    worst = fnn.gradients.WorstPoint("value", "float32", 2.0, 1e-7, 1.0, (0.5, 1.0), (), 1.0, 1.0, 0)
    dataset = fnn.data.make_dataset("mine", IMAGES, np.arange(5), IMAGES, np.arange(5), source=EVIL)
    return [
        NET,
        fnn.dense(3),
        fnn.chain(fnn.Layer(EVIL, NET.init, NET.forward)),
        fnn.summary(NET, (4,)),
        dataset,
        fnn.data.Split({"a": np.zeros((6, 2)), EVIL: np.zeros(6)}, np.zeros(6)),
        a_run(message=EVIL),
        a_run("non-finite", EVIL),
        a_run(count=1),
        epochs(120, skipped_steps=2),
        EpochHistory(),
        a_sweep(),
        a_sweep(EVIL),
        a_sweep().best(),
        a_report(),
        a_report().verdicts[0],
        fnn.gradients.Worst(EVIL, (worst,), 10, 0.1, {"gradient": EVIL}),
        Explanation((finding,)),
        Explanation(()),
        finding,
        a_target(""),
        a_target(EVIL),
        NonFinite(("loss",), operation="log", layer=EVIL, stage="forward pass", value=-math.inf, cause=EVIL),
        NonFinite(),
        ProgressState(EVIL, 5, 3, "loss 0.5  accuracy 0.9", 75.0),
        parameter_table({EVIL: {"weight": jnp.ones((2, 3))}, "state": [np.array(True), 1.5]}),
    ]


def test_html_is_well_formed_escaped_and_needs_no_script_and_no_request():
    for value in everything():
        kind, page = type(value).__name__, value._repr_html_()
        root = ElementTree.fromstring(page)
        attributes = {attribute for element in root.iter() for attribute in element.attrib}
        assert not any(attribute.startswith("on") for attribute in attributes), kind
        assert not re.search(r"<script|https?:|url\(", page), kind
        assert len(page) < 60_000, kind
        assert "<div" not in repr(value), kind  # a terminal shows the plain text, as before
        for picture in root.iter("img"):
            assert picture.attrib["alt"]
            assert picture.attrib["src"].startswith("data:image/png")
        for picture in root.iter("svg"):
            assert picture.attrib["aria-label"]
            assert "nan" not in "".join(element.attrib.get("d", "") for element in picture.iter())


def test_each_class_that_shows_itself_has_a_maker_and_is_shown_in_the_test_above():
    shown = {f"{type(value).__module__}.{type(value).__qualname__}" for value in everything()}
    for name, maker in makers.MAKERS.items():
        module, _, cls = name.rpartition(".")
        assert getattr(importlib.import_module(module), cls)._repr_html_ is html_repr
        file, _, function = maker.partition(".")
        assert callable(getattr(importlib.import_module(f"{makers.__package__}.{file}"), function))
    assert makers.MAKERS.keys() - shown == {"functional_nn.bench.measure.result.Benchmark"}
    with pytest.raises(TypeError, match="int has no maker"):
        makers.html_of(3)


def test_a_network_is_a_tree_that_opens():
    root = ElementTree.fromstring(NET._repr_html_())
    assert [item.text for item in root.iter("code") if "=" not in (item.text or "")] == [
        "dense_0",
        "relu_0",
        "residual_0",
        "dense_0",
        "dropout_0",
        "head",
    ]
    assert len(list(root.iter("details"))) == 1
    assert "out_size=4" in NET._repr_html_()


def test_sizes_are_those_a_layer_was_made_with():
    assert layer_sizes(fnn.conv(8, 3)) == {"out_size": 8, "window": 3}
    assert layer_sizes(fnn.lstm(16)) == {"hidden_size": 16}
    assert layer_sizes(fnn.attention(4)) == {"heads": 4}
    assert layer_sizes(fnn.relu.as_layer()) == {}


def test_statistics_are_of_the_finite_numbers():
    (row,) = parameter_table({"w": np.array([1.0, 3.0, np.nan, -np.inf], np.float32)}).rows
    about = row.statistics
    assert about is not None
    assert about[:5] == (2.0, 1.0, 1.0, 3.0, 2)
    assert sum(about.counts) == 2
    assert "✗ 2 not finite" in parameter_table([np.array([np.nan, np.inf])])._repr_html_()


def test_arrays_without_real_numbers_are_shown_without_statistics():
    deleted = jnp.ones(3)
    deleted.delete()
    tree = {
        "deleted": deleted,
        "key": jax.random.key(0),
        "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
        "complex": np.ones(2, np.complex64),
    }
    shown = parameter_table(tree)
    assert [row.statistics for row in shown.rows] == [None] * 4
    assert shown._repr_html_().count("no statistics") == 4


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3)), np.array([True]), jnp.ones(3, jnp.bfloat16), np.array([1e308, -1e308]), np.full(2, np.inf)],
)
def test_arrays_of_every_kind_are_shown(array):
    ElementTree.fromstring(parameter_table(array)._repr_html_())


def test_a_large_tree_is_closed_and_a_small_one_is_open():
    def opened(tree):
        return [
            "open" in fold.attrib
            for fold in ElementTree.fromstring(parameter_table(tree)._repr_html_()).iter("details")
        ]

    assert opened({"dense_0": {"bias": np.zeros(2)}}) == [True]
    block = {"dense": {f"w{number}": np.zeros(1) for number in range(9)}}
    assert not any(opened({f"block_{number}": block for number in range(9)}))


def test_a_sweep_shows_the_best_first_and_the_non_finite_last():
    body = ElementTree.fromstring(a_sweep()._repr_html_()).find(".//tbody")
    assert body is not None
    rows = ["|".join("".join(cell.itertext()) for cell in row) for row in body]
    assert [row.split("|")[1] for row in rows] == ["2", "3", "0", "1"]
    assert rows[-1].endswith("✗ non-finite")


def test_a_verdict_comes_first():
    text = "".join(ElementTree.fromstring(a_report()._repr_html_())[1].itertext())
    assert "✗ Not passed." in text
    passed = fnn.gradients.Report((fnn.gradients.Verdict("f", "x", "pass", 0.0, 0.1),))
    assert "✓ Passed." in passed._repr_html_()
    open_question = fnn.gradients.Report((fnn.gradients.Verdict("f", "x", "inconclusive", 0.0, 0.1),))
    assert "? Not decided." in open_question._repr_html_()


def test_curves_have_gaps_where_numbers_are_not_finite():
    assert re.findall("[ML]", sparkline([1, 2, math.nan, 3, 4], "loss")) == ["M", "L", "M", "L"]
    for values in ([], [math.nan], [1.0], [2.0] * 1000):
        ElementTree.fromstring(sparkline(values, "loss"))
    ElementTree.fromstring(histogram([], "empty"))


def test_texts_are_escaped_once():
    assert tag("p", tag("b", "a < b"), " & ", title='"') == '<p title="&quot;"><b>a &lt; b</b> &amp; </p>'
    assert "<td>a &lt; b</td>" in table(["x"], [["a < b"]])


def test_a_history_is_still_a_tuple():
    history = epochs(3)
    assert history == tuple(history)
    assert pickle.loads(pickle.dumps(history)) == history
    assert jax.tree.map(lambda value: value, history) == history
    assert repr(history) == repr(tuple(history))
