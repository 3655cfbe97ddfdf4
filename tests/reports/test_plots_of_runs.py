"""Pictures of a run, on the edges of what a run can be."""

import numpy as np
import pytest
from tests.reports.figures import drawn, texts

import functional_nn as fnn
from functional_nn.reports.plots import run as plots
from functional_nn.training.run import EpochMetrics, Run


def epochs(*accuracies: float, loss=0.5) -> tuple[EpochMetrics, ...]:
    return tuple(
        EpochMetrics(i, {"train_loss": loss / i, "test_loss": loss / i + 0.1, "test_accuracy": a}, 0.1)
        for i, a in enumerate(accuracies, 1)
    )


@pytest.mark.parametrize("accuracies", [[0.9], [0.0, 0.0], np.linspace(0, 1, 500)], ids=["1", "0s", "500"])
def test_learning_curves(accuracies):
    figure = plots.learning_curves(epochs(*accuracies))
    drawn(figure)
    assert {"epoch", "loss", "test accuracy", "train loss", "test loss"} <= set(texts(figure))
    low, high = figure.axes[1].get_ylim()
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("has_accuracy", [True, False])
def test_plot_curves_of_a_run(has_accuracy):
    """A run with an accuracy has a second panel for it; a run that has only losses has one panel."""
    history = epochs(0.5, 0.9)
    if not has_accuracy:
        for metrics in history:
            del metrics.metrics["test_accuracy"]
    run = Run(None, tuple(history), "finished", None, (3,), "float32")  # pyright: ignore[reportArgumentType]
    figure = fnn.plots.plot_curves(run)
    assert {"loss", "train loss", "test loss"} <= set(texts(figure))
    assert ("test accuracy" in texts(figure)) == has_accuracy == (len(figure.axes) == 2)
    drawn(figure)
    with pytest.raises(fnn.InputError, match=r"metric: expected the name of a metric of this run.* Known: test_"):
        fnn.plots.plot_curves(run, "accuracy")
    with pytest.raises(fnn.InputError, match="by: expected None"):
        fnn.plots.plot_curves(run, by="seed")
