"""A small notebook, run by a kernel as people run it."""

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is missing; the extra [docs] has it")
nbclient = pytest.importorskip("nbclient", reason="nbclient is missing; the extra [docs] has it")
pytest.importorskip("ipykernel", reason="ipykernel is missing; the extra [docs] has it")

CELLS = {
    "summary": "import jax, numpy as np, optax, functional_nn as fnn\nnet = fnn.chain(fnn.dense(3), fnn.relu)\n"
    "fnn.summary(net, (4,))",
    "fit": "x = np.eye(4, dtype=np.float32)\n"
    "data = fnn.data.Split(x, np.arange(4) % 3, x, np.arange(4) % 3)\n"
    "run = fnn.fit(net, fnn.cross_entropy, optax.sgd(0.1), data, epochs=3, batch_size=4)",
    "run": "run",
    "history": "run.history",
    "figure": "figure = fnn.plots.plot_curves(run)\nfigure",
    "text": "print(repr(net))",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that run the notebook
def test_a_notebook_shows_figures_objects_and_one_progress_bar(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}
    for name in ("summary", "run", "history"):
        (output,) = outputs[name]
        assert "text/html" in output.data, name
    (output,) = outputs["figure"]
    assert "image/png" in output.data
    (progress,) = outputs["fit"]
    assert progress.data["text/plain"].startswith("training 3/3")
    assert 'value="3"' in progress.data["text/html"]
    assert outputs["text"][0].text == "chain(dense_0, relu_0)\n"
