"""The programs of the pages about modules of other libraries run where the library is installed."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn

HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how_to"
X, LABELS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.arange(6) % 3


def program(page: str, title: str) -> str:
    """The block of code in the section of a page. The text before the first section is the section of the page."""
    text = (HOW_TO / f"{page}.md").read_text("utf-8")
    (section,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^##? |\Z)", text, re.S | re.M)
    (block,) = re.findall(r"^```py\n(.*?)^```", section, re.S | re.M)
    return block


def names_of(page: str, title: str, **given) -> dict:
    """What a program defines. Classes need a module's name."""
    names = {"__name__": "page", **given}
    exec(program(page, title), names)
    return names


@pytest.mark.parametrize(
    ("title", "library"),
    [("Flax NNX", "flax.nnx"), ("Equinox", "equinox")],
)
def test_modules_as_layers(title, library):
    pytest.importorskip(library)
    net = names_of("modules_of_other_libraries", title)["net"]
    x, labels = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), dtype=np.uint8), np.arange(30) % 10
    data = fnn.data.make_dataset("tiny", x, labels, x, labels, source="a test")
    run = fnn.fit(net, fnn.cross_entropy, optax.adam(1e-2), data, epochs=8, batch_size=10, seed=0, progress=False)
    assert run.history[-1].train_loss < run.history[0].train_loss / 2


def test_the_formula_of_a_module():
    pytest.importorskip("flax.nnx")
    assert names_of("modules_of_other_libraries", "The formula")["report"].passed


def test_a_backward_pass_of_pytorch():
    pytest.importorskip("torch")
    report = names_of("checking_any_backward_pass", "PyTorch")["report"]
    assert report.passed
    assert {verdict.kind for verdict in report.verdicts} == {"vjp", "second order"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="a compiler of C")
def test_a_backward_pass_in_c():
    (failure,) = names_of("checking_any_backward_pass", "C")["report"].failures
    expected = "square: x, element (0,) (vjp, float32, plain, axes of length 4 with length 1): the formula gives 0,"
    assert failure.sentence.startswith(expected)


PAGE = "modules_of_other_libraries"


def layer_of_the_page(dropout=True):
    layer = names_of(PAGE, "A layer in a model of another library")["layer"]
    # Keras and Flax derive keys of their own, so dropout is left out where results are compared.
    return layer if dropout else fnn.chain(fnn.dense(16), fnn.batch_norm(), fnn.relu, fnn.dense(3))


def after_a_step(layer, params, state, steps=1):
    """The outputs in evaluation after steps of gradient descent, without another library."""
    for _ in range(steps):

        def loss(params, state=state):
            y, new_state = layer.apply(params, state, X, train=True)
            return fnn.cross_entropy(y, LABELS), new_state

        gradient, state = jax.grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    return layer.apply(params, state, X, train=False)[0]


def test_a_layer_in_flax():
    nnx = pytest.importorskip("flax.nnx")
    layer = layer_of_the_page(dropout=False)
    names = names_of(PAGE, "A layer in Flax NNX", layer=layer, fnn=fnn)
    model = names["model"]
    expected = after_a_step(layer, *layer.init(nnx.Rngs(0).params(), (4,)))
    names["step"](model, names["optimizer"], X, LABELS)
    model.eval()
    np.testing.assert_allclose(model(X), expected, rtol=1e-4, atol=1e-5)
    with_dropout = names["FromLayer"](layer_of_the_page(), (4,), rngs=nnx.Rngs(0))
    assert (with_dropout(X) != with_dropout(X)).any()


def test_a_layer_in_equinox():
    eqx = pytest.importorskip("equinox")
    layer = layer_of_the_page(dropout=False)
    names = names_of(PAGE, "A layer in Equinox", layer=layer, fnn=fnn)
    expected = after_a_step(layer, *layer.init(jax.random.key(0), (4,)))
    key = jax.random.key(1)
    model, model_state = names["step"](names["model"], names["model_state"], X, LABELS, key)
    y, _ = eqx.nn.inference_mode(model)(X, model_state)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with_dropout, its_state = eqx.nn.make_with_state(names["FromLayer"])(layer_of_the_page(), (4,), key=key)
    y, new_state = with_dropout(X, its_state, key=key)
    assert (y != with_dropout(X, new_state, key=jax.random.key(2))[0]).any()


@pytest.mark.slow  # Keras takes ten seconds to import
def test_a_layer_in_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras")
    layer = layer_of_the_page(dropout=False)
    names = names_of(PAGE, "A layer in Keras", layer=layer, fnn=fnn, x=X, labels=LABELS)
    expected = after_a_step(layer, *layer.init(jax.random.key(0), (4,)), steps=2)
    np.testing.assert_allclose(names["model"].predict(X, verbose=0), expected, rtol=1e-4, atol=1e-5)
    with_dropout = names["in_keras"](layer_of_the_page(), (4,), jax.random.key(0))
    assert np.any(with_dropout(X, training=True) != with_dropout(X, training=True))
