"""Pictures of a run, on the edges of what a run can be."""

import io
import math
from types import SimpleNamespace

import jax
import numpy as np
import optax
import PIL.Image
import pytest

import functional_nn as fnn
from functional_nn.data.dataset import make_dataset
from functional_nn.reports.plots import run as plots
from functional_nn.training.run import EpochMetrics

random = np.random.default_rng(0)


def epochs(*accuracies: float, loss=0.5) -> tuple[EpochMetrics, ...]:
    return tuple(
        EpochMetrics(i, {"train_loss": loss / i, "test_loss": loss / i + 0.1, "test_accuracy": a}, 0.1)
        for i, a in enumerate(accuracies, 1)
    )


def drawn(figure) -> np.ndarray:
    """The picture as it is saved: a real PNG that shows something, of a size that fits a screen or a page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with PIL.Image.open(stream) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 60
    assert max(pixels.shape[:2]) < 6500
    assert len(np.unique(pixels @ (65536, 256, 1))) > 5
    return pixels


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize(
    "accuracies", [[0.9], [0.5, 0.9], [1.0] * 3, [0.0, 0.0], np.linspace(0, 1, 500)], ids=["1", "2", "1s", "0s", "500"]
)
def test_learning_curves(accuracies):
    figure = plots.learning_curves(epochs(*accuracies), "mnist5k")
    drawn(figure)
    assert {"mnist5k", "epoch", "loss", "test accuracy", "training", "test"} <= set(texts(figure))
    assert f"{accuracies[-1]:.4f}" in texts(figure)
    low, high = figure.axes[1].get_ylim()
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    "accuracies", [[0.1], [1.0], [0.9, 0.1], [0.1, 0.9], np.linspace(1, 0, 40), np.linspace(0, 1, 40)]
)
def test_the_last_accuracy_stands_inside_the_picture(accuracies):
    figure = plots.learning_curves(epochs(*accuracies))
    drawn(figure)
    label = figure.axes[1].texts[0].get_window_extent()
    assert figure.bbox.containsx(label.x0)
    assert figure.bbox.containsx(label.x1)
    assert figure.bbox.containsy(label.y0)
    assert figure.bbox.containsy(label.y1)


def test_epochs_are_marked_by_whole_numbers():
    for count in (1, 2, 3, 10, 300):
        figure = plots.learning_curves(epochs(*[0.5] * count))
        drawn(figure)
        low, high = figure.axes[0].get_xlim()
        ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_learning_curves_of_numbers_that_are_not_finite():
    figure = plots.learning_curves(epochs(math.nan, math.nan))
    drawn(figure)
    assert "nan" not in texts(figure)
    drawn(plots.learning_curves(epochs(0.1, loss=math.inf)))
    drawn(plots.learning_curves(epochs(0.5, math.nan)))
    drawn(plots.learning_curves(epochs(0.5, 0.4, loss=1e30)))


@pytest.mark.parametrize("classes", [1, 2, 10, 30, 100])
def test_confusion(classes):
    matrix = random.integers(0, 5, (classes, classes)) + 100 * np.eye(classes, dtype=int)
    figure = plots.confusion(matrix)
    drawn(figure)
    wrong = matrix.sum() - np.trace(matrix)
    assert f"{wrong} of {matrix.sum()} wrong" in texts(figure)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "taken for"
    if classes <= 30:
        assert f"{matrix[0, 0]}" in texts(figure)


def test_confusion_without_a_mistake_and_without_a_right_answer():
    figure = plots.confusion(np.diag([5, 3]))
    drawn(figure)
    assert "0 of 8 wrong" in texts(figure)
    drawn(plots.confusion(np.array([[0, 9], [9, 0]])))
    drawn(plots.confusion(np.zeros((3, 3), int)))


def test_large_counts_fit_their_cells():
    figure = plots.confusion(np.full((10, 10), 123_456))
    drawn(figure)
    (axes,) = figure.axes
    cell = axes.get_window_extent().width / 10
    assert all(text.get_window_extent().width <= cell for text in axes.texts)


def wrongs(count: int, classes=3, shape=(8, 8, 1)):
    images = random.integers(0, 256, (count, *shape), np.uint8)
    labels = np.arange(count) % classes
    probabilities = np.full((count, classes), 0.1, np.float32)
    probabilities[np.arange(count), (labels + 1) % classes] = 0.8
    return images, labels, probabilities


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (8, 8, 1)),
        (7, (6, 30, 1)),
        (8, (1, 1, 1)),
        (2, (8, 8, 2)),
    ],
)
def test_most_wrong(count, shape):
    figure = plots.most_wrong(*wrongs(count, shape=shape))
    drawn(figure)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == min(count, 24)
    assert shown[0].get_title() == "0, not 1\n10.0% : 80.0%"


def test_most_wrong_shows_the_worst_first_and_only_what_is_wrong():
    images, labels, probabilities = wrongs(5)
    probabilities[:] = [[0.2, 0.8, 0], [0, 1, 0], [0.99, 0, 0.01], [0.1, 0.9, 0], [0, 1, 0]]
    labels[:] = [0, 1, 2, 0, 1]
    figure = plots.most_wrong(images, labels, probabilities)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title()[0] for axes in shown] == ["2", "0", "0"]
    np.testing.assert_array_equal(shown[0].images[0].get_array(), images[2, ..., 0])


def test_most_wrong_where_nothing_is():
    images, labels, _ = wrongs(5)
    figure = plots.most_wrong(images, labels, np.eye(3, dtype=np.float32)[labels])
    drawn(figure)
    assert texts(figure) == ["no test image is wrong"]


def test_most_wrong_finds_a_wrong_answer_behind_right_ones_with_less_probability():
    images, labels, probabilities = wrongs(30, classes=3)
    probabilities[:] = [0.34, 0.33, 0.33]
    labels[:] = 0
    probabilities[0], labels[0] = [0.4, 0.6, 0], 0
    figure = plots.most_wrong(images, labels, probabilities)
    assert len([axes for axes in figure.axes if axes.images]) == 1


def test_most_wrong_of_probabilities_that_are_nan():
    images, labels, probabilities = wrongs(5)
    drawn(plots.most_wrong(images, labels, np.full_like(probabilities, np.nan)))


@pytest.mark.parametrize(
    ("units", "shape"), [(1, (8, 8, 1)), (16, (8, 8, 3)), (17, (2, 30, 1)), (2, (1, 1, 1)), (200, (8, 8, 1))]
)
def test_first_layer_weights(shape, units):
    weight = random.normal(size=(*shape, units)).astype(np.float32)
    figure = plots.first_layer_weights(weight)
    drawn(figure)
    assert len([axes for axes in figure.axes if axes.images]) == min(units, 64)


def test_first_layer_weights_belong_to_their_unit():
    weight = np.arange(12 * 2, dtype=np.float32).reshape(4, 3, 1, 2)
    figure = plots.first_layer_weights(weight)
    for unit, axes in enumerate(axes for axes in figure.axes if axes.images):
        np.testing.assert_array_equal(axes.images[0].get_array(), weight[:, :, 0, unit])


def finished(net, data):
    shape = data.test_images.shape[1:]
    in_shape = shape if net.name in ("mlp", "cnn") else (math.prod(shape),)
    params, state = net.init(jax.random.key(0), in_shape)
    return SimpleNamespace(
        params=params, state=state, history=epochs(0.75), status="finished", in_shape=in_shape, precision="float32"
    )


def dataset(shape=(6, 6, 1), classes=3):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, *shape), np.uint8)
    labels = np.arange(20) % classes
    return make_dataset("made", images, labels, images, labels, classes=classes, source="a test")


@pytest.mark.parametrize("shape", [(6, 6, 1), pytest.param((6, 5, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("classes", [2, 12])
def test_all_pictures_of_a_run(tmp_path, shape, classes):
    data, net = dataset(shape, classes), fnn.models.mlp(classes, hidden=(5,), batch_norm=True)
    pictures = plots.draw_all(tmp_path, net, finished(net, data), data)
    assert pictures == ["confusion.png", "first_layer_weights.png", "learning_curves.png", "most_wrong.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures


def test_a_convolution_shows_its_filters(tmp_path):
    data, net = dataset((6, 6, 3)), fnn.model("cnn", 3, hidden=(5,))
    assert "first_layer_weights.png" in plots.draw_all(tmp_path, net, finished(net, data), data)


def test_a_network_without_a_layer_on_the_pixels_has_no_picture_of_weights(tmp_path):
    data, net = dataset(classes=36), fnn.chain(fnn.flatten(), name="mlp")
    pictures = plots.draw_all(tmp_path, net, finished(net, data), data)
    assert pictures == ["confusion.png", "learning_curves.png", "most_wrong.png"]


@pytest.mark.parametrize("labels", [np.array([0, 1, 2]), np.eye(3)], ids=["classes", "numbers"])
def test_plot_curves_of_a_run(labels):
    """A run with an accuracy has a second panel for it; a run that has only losses has one panel."""
    data = fnn.data.Split(np.eye(3), labels, np.eye(3), labels)
    loss = fnn.cross_entropy if labels.ndim == 1 else fnn.mean_squared_error
    run = fnn.fit(fnn.dense(3), loss, optax.sgd(0.1), data, epochs=2, batch_size=3)
    figure = fnn.plots.plot_curves(run)
    assert {"loss", "training", "test"} <= set(texts(figure))
    assert ("test accuracy" in texts(figure)) == (labels.ndim == 1) == (len(figure.axes) == 2)
    drawn(figure)
    with pytest.raises(fnn.InputError, match=r"metric: expected the name of a metric of this run.* Known: test_"):
        fnn.plots.plot_curves(run, "accuracy")
    with pytest.raises(fnn.InputError, match="by: expected None"):
        fnn.plots.plot_curves(run, by="seed")
