"""What appears in a notebook and in a terminal: progress, ``show``, and figures."""

import io

import numpy as np
import optax
import pytest
from PIL import Image

import functional_nn as fnn
from functional_nn.core.display import in_notebook
from functional_nn.core.progress import ProgressState, progress_bar
from functional_nn.reports.plots.axes import make_axes
from functional_nn.training.run import EpochHistory, EpochMetrics

DATA = fnn.data.Split(np.eye(4, dtype=np.float32), np.arange(4), np.eye(4, dtype=np.float32), np.arange(4))


def figure():
    made, _ = make_axes(1, 1, width=2, height=1)
    return made


def test_a_terminal_with_ipython_is_no_notebook(notebook):
    assert in_notebook()
    notebook.active_types = ["text/plain"]
    assert not in_notebook()


def test_progress_of_a_run_is_one_output_and_its_last_state_stays(notebook, capfd):
    run = fnn.fit(fnn.dense(4), fnn.cross_entropy, optax.sgd(0.1), DATA, epochs=3, batch_size=4)
    ((state, states),) = notebook.outputs
    assert isinstance(state, ProgressState)
    assert (state.done, state.total, state.has_ended) == (3, 3, True)
    assert states[-1].startswith("training 3/3")
    assert f"test accuracy {run.history[-1].test_accuracy:.4f}" in states[-1]
    assert capfd.readouterr() == ("", "")
    assert isinstance(run.history, EpochHistory)
    page = run._repr_html_()
    assert page is not None
    assert f"{run.history[-1].test_loss:.4f}" in page
    assert "✓ finished" in page


def test_many_steps_are_few_updates(notebook):
    with progress_bar("counting", 10_000) as advance:
        for number in range(10_000):
            advance(str(number))
    ((_, states),) = notebook.outputs
    assert len(states) < 100
    assert states[-1].startswith("counting 10000/10000")


def test_a_task_that_fails_ends_its_bar(notebook):
    def read():
        with progress_bar("reading", 5) as advance:
            advance("a file")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        read()
    ((state, _),) = notebook.outputs
    assert "ended early" in state._repr_html_()


def test_progress_can_be_switched_off(notebook):
    with progress_bar("reading", 2, show=False) as advance:
        advance("a file")
    assert not notebook.outputs


def test_a_running_bar_says_how_long_it_takes():
    assert "30.0 s left" in ProgressState("training", 4, 1, "", 10.0)._repr_html_()
    assert "1:15 min" in ProgressState("training", 4, 4, "", 75.0, True)._repr_html_()


def test_show_prints_in_a_terminal(capsys):
    fnn.show({"dense_0": {"bias": np.array([0.5, 1.5])}})
    fnn.show(fnn.dense(2), (3,))
    fnn.show(np.zeros((2, 2)))
    text = capsys.readouterr().out
    assert "dense_0/bias" in text
    assert "FLOPs" in text
    assert "array" in text


def test_show_displays_in_a_notebook(notebook, capsys):
    fnn.show({"bias": np.zeros(2)})
    fnn.show(fnn.dense(2))
    fnn.show(figure())
    assert [type(value).__name__ for value, _ in notebook.outputs] == ["ParameterTable", "Layer", "ShownFigure"]
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text",), "value: expected a pytree of arrays, such as parameters, or an object of functional_nn"),
        (({},), "value: expected a pytree of arrays"),
        (({"a": np.zeros(2)}, (2,)), "value: expected a layer, because in_shape is given"),
    ],
)
def test_show_refuses_what_has_no_arrays(arguments, message):
    with pytest.raises(fnn.InputError, match=message):
        fnn.show(*arguments)


def test_a_figure_is_a_png_of_its_width():
    content, about = figure()._repr_png_()
    assert Image.open(io.BytesIO(content)).size == (384, 192)
    assert about == {"width": 192}


def test_every_figure_shows_itself():
    history = [EpochMetrics(1, {"train_loss": 1.0, "test_loss": 1.0}, 0.1)]
    from functional_nn.reports.plots.run import learning_curves

    for made in (learning_curves(history), figure(), fnn.plots.plot_errors(fnn.relu)):
        assert hasattr(made, "_repr_png_")


def test_show_without_a_screen_says_what_to_do(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(fnn.InputError, match=r"a screen.*figure\.savefig"):
        figure().show()


def test_show_opens_the_picture_in_the_viewer(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("click.launch", lambda path: opened.append(path) or 0)
    figure().show()
    with Image.open(opened[0]) as picture:
        assert picture.format == "PNG"
    monkeypatch.setattr("click.launch", lambda path: 1)
    with pytest.raises(fnn.InputError, match="a program that opens pictures"):
        figure().show()
    assert len(list(tmp_path.iterdir())) == 1
