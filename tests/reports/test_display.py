"""What objects show in a notebook: tables, progress, and figures."""

import io
from xml.etree import ElementTree

import numpy as np
import optax
import pytest
from PIL import Image
from tests.sweeps.made_up_results import member, result

import functional_nn as fnn
from functional_nn.bench.diagnose import Explanation, Finding
from functional_nn.core import display
from functional_nn.core.display import in_notebook, progress_bar
from functional_nn.jaxprs.non_finite import NonFinite
from functional_nn.reports.plots.axes import make_axes
from functional_nn.training.run import EpochMetrics, Run

DATA = fnn.data.Split(np.eye(4, dtype=np.float32), np.arange(4), np.eye(4, dtype=np.float32), np.arange(4))


def test_a_terminal_with_ipython_is_no_notebook(notebook):
    assert in_notebook()
    notebook.active_types = ["text/plain"]
    assert not in_notebook()


def test_progress_of_a_run_is_one_output_and_its_last_state_stays(notebook, capfd):
    run = fnn.fit(fnn.dense(4), fnn.cross_entropy, optax.sgd(0.1), DATA, epochs=3, batch_size=4)
    (states,) = notebook.outputs
    assert states[-1]["text/plain"].startswith("training 3/3")
    assert states[-1]["text/plain"].endswith(f"test accuracy {run.history[-1].test_accuracy:.4f}")
    assert capfd.readouterr() == ("", "")
    page = run._repr_html_()
    assert page is not None
    assert f"{run.history[-1].test_loss:.4f}" in page
    assert "finished, 3 epochs" in page


def test_a_task_that_fails_ends_its_bar(notebook):
    def read():
        with progress_bar("reading", 5) as advance:
            advance("a file")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        read()
    (states,) = notebook.outputs
    assert "ended early" in states[-1]["text/html"]


def test_a_bar_shows_its_names_as_text_and_the_time_that_is_left(notebook, monkeypatch):
    monkeypatch.setattr(display, "UPDATE_SECONDS", 0)
    with progress_bar(EVIL, 5) as advance:
        advance(EVIL)
        page = notebook.outputs[0][-1]["text/html"]
    assert "s left" in page
    assert {element.tag for element in ElementTree.fromstring(page).iter()} == {"p", "progress"}


EVIL = "<script>alert(1)<b> & \"'"


def a_sweep(name):
    ends = [("other", 0.5, "finished"), (EVIL, 0.75, "finished"), (EVIL, 0.1, "non-finite")]
    members = enumerate(ends)
    return result(*(member(i, {name: value, "seed": i}, end, status=status) for i, (value, end, status) in members))


def shown_objects():
    history = tuple(EpochMetrics(i, {"train_loss": 1 / i}, 0.01) for i in range(1, 121))
    return {
        "summary": fnn.summary(fnn.chain(fnn.dense(4), fnn.relu), (4,)),
        "no epochs": Run(None, (), "interrupted", "", (4,), "float32"),  # pyright: ignore[reportArgumentType]
        "run": Run(None, history, "non-finite", EVIL, (4,), "float32"),  # pyright: ignore[reportArgumentType]
        "sweep": a_sweep(EVIL),
        "explanation": Explanation((Finding("float64", "dense_0", EVIL, "Pass it."),)),
        "non-finite": NonFinite(("loss",), operation="log", layer=EVIL, stage="forward pass", cause=EVIL),
    }


@pytest.mark.parametrize("name", shown_objects())
def test_html_is_well_formed_and_escaped(name):
    page = shown_objects()[name]._repr_html_()
    root = ElementTree.fromstring(f"<div>{page}</div>")
    known = {"div", "p", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert {element.tag for element in root.iter()} <= known
    assert ("alert" in page) == (name not in ("summary", "no epochs"))


def test_tables_have_the_numbers_that_count():
    def rows(name):
        body = ElementTree.fromstring(f"<div>{shown_objects()[name]._repr_html_()}</div>").find(".//tbody")
        assert body is not None
        return [["".join(cell.itertext()) for cell in row] for row in body]

    assert rows("summary")[0] == ["dense_0", "(4,)", "20", "80", "36"]
    assert [row[0] for row in rows("run")[:2] + rows("run")[-1:]] == ["1", "3", "120"]
    assert rows("sweep") == [[EVIL, "1", "0.7500", "", "1"], ["other", "1", "0.5000", "", ""]]


def test_a_figure_is_a_png_of_its_width():
    content, about = make_axes(1, 1, width=2, height=1)[0]._repr_png_()
    assert Image.open(io.BytesIO(content)).size == (384, 192)
    assert about == {"width": 192}
