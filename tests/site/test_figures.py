"""The figures to touch, in a browser, by the keyboard alone: their numbers are those of the package, JAX and Optax."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # pyright: ignore[reportMissingImports]

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("neuron", "backpropagation", "learning", "optimizers", "where_grad_is_wrong")
read_figure = runpy.run_path(str(DOCS / "_extensions" / "figure_files.py"))["read_figure"]


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page with all figures, as a page of the site could have them. It must be silent and send no request."""
    path = tmp_path_factory.mktemp("site") / "page.html"
    head = '<meta charset="utf-8"><title>Figures</title><meta name="viewport" content="width=device-width">'
    figures = "".join(map(read_figure, NAMES))
    path.write_text(
        f'<!doctype html><html lang="en"><head>{head}</head><body><main><h1>Figures</h1>{figures}</main></body></html>',
        encoding="utf-8",
    )
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 1000, "height": 800})
    opened, said, requests = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    context.close()
    assert said == []
    assert requests == [path.as_uri()]


class Keyboard:
    """A figure on the page, reached and changed with keys only."""

    def __init__(self, page: Page, figure: str) -> None:
        self.page, self.root = page, f".touchable-{figure}"
        page.evaluate(  # Tab goes on from here
            """root => {
                const title = document.querySelector(`${root} .title`);
                title.tabIndex = -1;
                title.focus();
            }""",
            self.root,
        )

    def go_to(self, selector: str, back: bool = False) -> None:
        for _ in range(90):
            if self.page.evaluate("selector => document.activeElement.matches(selector)", f"{self.root} {selector}"):
                return
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def press_at(self, selector: str, *keys: str, back: bool = False) -> None:
        self.go_to(selector, back)
        self.press(*keys)

    def text(self, selector: str) -> str:
        return self.page.inner_text(f"{self.root} {selector}").replace("\N{MINUS SIGN}", "-")

    def wait_for_text(self, selector: str, text: str) -> None:
        arguments = [f"{self.root} {selector}", text]
        self.page.wait_for_function("([at, text]) => document.querySelector(at).innerText === text", arg=arguments)

    def data(self, selector: str, name: str = "value") -> float:
        return float(self.page.get_attribute(f"{self.root} {selector}", f"data-{name}") or "nan")


@pytest.mark.browser
def test_neuron(page: Page, float64: None) -> None:
    figure = Keyboard(page, "neuron")
    figure.press_at("#neuron-w1", *["ArrowRight"] * 3)
    figure.press_at("#neuron-b", *["ArrowLeft"] * 2)
    figure.press_at(".handle", "ArrowUp", "ArrowUp", "Shift+ArrowLeft")
    x1, w1, x2, w2, b = (jnp.asarray(v) for v in (1.0, 1.5, -0.3, 0.8, -0.8))
    names = ("sigmoid", "tanh", "relu", "gelu", "identity")
    figure.go_to("#neuron-f", back=True)
    for k, name in enumerate(names):
        figure.press(*["ArrowDown"] * (k > 0))
        f = fnn.activations.activation(name)
        z = w1 * x1 + w2 * x2 + b
        y, gradient = jax.value_and_grad(lambda w, f=f: f(w * x1 + w2 * x2 + b))(w1)
        right = {"z": z, "y": y, "slope": jax.grad(f)(z), "w1": gradient}
        for what, value in right.items():
            np.testing.assert_allclose(figure.data(f'[data-of="{what}"]'), value, atol=1e-9)
    assert "x1 1, x2 -0.3" in str(page.get_attribute(f"{figure.root} .handle", "aria-valuetext")).replace("−", "-")


NUMBERS = {"x1": 1.0, "x2": 0.5, "t": 1.0, "w1": 0.5, "w2": -0.3, "w3": 0.2, "w4": 0.8, "b1": 0.1, "b2": -0.1}
NUMBERS |= {"w5": 0.7, "w6": -0.4, "b3": 0.2}


def network(numbers: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Loss and gradients of the network 2-2-1, with the package's layers and ``jax.grad``."""
    net = fnn.chain(fnn.dense(2), fnn.sigmoid, fnn.dense(1), fnn.sigmoid)

    def loss(n):
        params = {
            "dense_0": {
                "weight": jnp.array([[n["w1"], n["w2"]], [n["w3"], n["w4"]]]),
                "bias": jnp.array([n["b1"], n["b2"]]),
            },
            "dense_1": {"weight": jnp.array([[n["w5"]], [n["w6"]]]), "bias": jnp.array([n["b3"]])},
        }
        y, _ = net.apply(params, {}, jnp.array([[n["x1"], n["x2"]]]), train=False)
        return 0.5 * (y[0, 0] - n["t"]) ** 2

    value, gradients = jax.value_and_grad(loss)({name: jnp.asarray(v) for name, v in numbers.items()})
    return float(value), {name: float(v) for name, v in gradients.items()}


@pytest.mark.browser
def test_backpropagation(page: Page, float64: None) -> None:
    figure = Keyboard(page, "backpropagation")
    numbers = dict(NUMBERS)

    def check() -> None:
        value, gradients = network(numbers)
        np.testing.assert_allclose(figure.data('[data-value-of="loss"]'), value, rtol=1e-9)
        for name in gradients.keys() - {"t"}:
            np.testing.assert_allclose(figure.data(f'[data-value-of="g{name}"]'), gradients[name], rtol=1e-8)

    check()
    for name, typed in {"x2": "-1.25", "w3": "0.9", "b2": "0.35", "w6": "1.5", "t": "0.2"}.items():
        type_into(figure, name, typed)
        numbers[name] = float(typed)
    check()
    figure.go_to('[data-value-of="gw5"]', back=True)
    letters, filled, value = figure.text(".formula").split(" = ")[1:]
    assert letters == "δ₃·h₁"
    first, second = (float(v.strip("()")) for v in filled.split("·"))
    np.testing.assert_allclose([first * second, float(value)], network(numbers)[1]["w5"], atol=1e-3)

    figure.press_at('[data-do="start"]', "Enter", back=True)
    figure.press_at('[data-do="next"]', *["Enter"] * 6)
    assert figure.text(".stage") == "6 of 12"
    assert figure.text(".explain").startswith("Backward, step 1 of the text: ")
    np.testing.assert_allclose(
        float(figure.text('[data-value-of="gy"] b')), figure.data('[data-value-of="gy"]'), atol=1e-4
    )
    assert figure.text('[data-value-of="d3"] b') == "?"
    figure.press_at('[data-do="reset"]', "Enter")
    assert figure.text('[data-value-of="loss"] b') == "0.0742"
    assert figure.text(".stage") == "6 of 12"


@pytest.mark.browser
def test_backpropagation_by_arrow_and_page_keys(page: Page) -> None:
    figure = Keyboard(page, "backpropagation")
    figure.press_at('[data-do="start"]', "Enter")
    figure.press("ArrowRight", "ArrowRight", "PageDown", "PageDown", "ArrowLeft", "PageUp")
    assert figure.text(".stage") == "2 of 12"
    figure.press(*["PageDown"] * 12)  # the button in focus cannot be pressed any more at the end
    assert figure.text(".stage") == "12 of 12"
    figure.press("PageUp")
    assert figure.text(".stage") == "11 of 12"
    assert figure.text(".formula").endswith("= -0.0142")
    figure.press_at("#backpropagation-w1", "ArrowLeft", "PageDown")  # these keys belong to the field
    assert figure.text(".stage") == "11 of 12"
    figure.press("ArrowUp")
    assert page.input_value("#backpropagation-w1") == "0.6"
    figure.press_at('[data-do="reset"]', "Enter", back=True)
    assert figure.text(".stage") == "11 of 12"
    assert page.input_value("#backpropagation-w1") == "0.5"
    figure.press_at('[data-do="end"]', "Enter", back=True)


@pytest.mark.browser
def test_backpropagation_with_the_four_decimals_of_the_chapter(page: Page) -> None:
    chapter = (DOCS / "tutorial" / "04_backpropagation.md").read_text("utf-8")
    figure = Keyboard(page, "backpropagation")
    figure.go_to('[data-value-of="d3"]')
    assert figure.text(".formula").split(" = ")[-2:] == ["(-0.3852)·0.6148·0.3852", "-0.0912"]
    for name in ("h1", "a3", "y", "loss", "gy", "d3", "gw5", "gw6", "gh1", "gh2", "d1", "d2", "gx1", "gx2"):
        assert f"= {figure.text(f'[data-value-of={name}] b')}" in chapter


def type_into(figure: Keyboard, name: str, text: str) -> None:
    figure.press_at(f"#backpropagation-{name}", "Control+a")
    figure.page.keyboard.type(text)


@pytest.mark.browser
def test_backpropagation_takes_a_comma_and_refuses_text_that_is_not_a_number(page: Page, float64: None) -> None:
    figure = Keyboard(page, "backpropagation")
    type_into(figure, "w1", "-0,75")
    value, _ = network(NUMBERS | {"w1": -0.75})
    np.testing.assert_allclose(figure.data('[data-value-of="loss"]'), value, rtol=1e-9)
    for text in ("0.7x", "", "0x10", "1,2,3", "Infinity", "-", "1e999"):
        type_into(figure, "w1", text)
        figure.press(*["Delete"] * (not text))
        assert page.get_attribute("#backpropagation-w1", "aria-invalid") == "true", text
        assert figure.text(".formula").startswith("w₁: ")
        assert "number" in figure.text(".formula")
        assert {b.inner_text() for b in page.query_selector_all(f"{figure.root} button.value b")} == {"?"}
    figure.press("Tab", "Shift+Tab")
    assert page.input_value("#backpropagation-w1") == "1e999"
    type_into(figure, "w1", "0,5")
    assert page.get_attribute("#backpropagation-w1", "aria-invalid") is None
    assert figure.text('[data-value-of="loss"] b') == "0.0742"

    figure.press_at('[data-do="reset"]', "Enter", back=True)


@pytest.mark.browser
def test_learning(page: Page) -> None:
    """The gradients are those of ``jax.grad``, a step follows them, and XOR is learned."""
    figure = Keyboard(page, "learning")
    points = runpy.run_path(str(DOCS / "figures" / "learning.py"))["points"]()["two moons"]
    x, labels = np.float32(points[0].round(2)), np.float32(points[1])[:, None]

    def matrices(name: str) -> list[np.ndarray]:
        """For each layer its weights and, in the last row, its biases; or their gradients."""
        read = """([root, name]) => [...document.querySelectorAll(`${root} table`)].map((table) => [...table.rows]
            .slice(1).map((row) => [...row.querySelectorAll(".cell")].map((cell) => Number(cell.dataset[name]))))"""
        return [np.float32(matrix) for matrix in page.evaluate(read, [figure.root, name])]

    def loss(layers: list[jax.Array]) -> jax.Array:
        y = jnp.asarray(x)
        for number, layer in enumerate(layers):
            y = (fnn.gelu(y) if number else y) @ layer[:-1] + layer[-1:]
        return fnn.binary_cross_entropy(y, labels)

    figure.go_to("#learning-points")
    for field, key in {"points": "End", "hidden": "End", "activation": "End", "decay": "End"}.items():
        figure.press_at(f"#learning-{field}", key)
    figure.go_to('[data-do="step"]')
    for _ in range(3):
        figure.press("Enter")
    before = matrices("value")
    value, gradients = jax.value_and_grad(loss)(before)
    assert figure.data(".status", "loss") == pytest.approx(float(value), rel=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), matrices("gradient"), gradients)
    figure.go_to('[data-at="1,2,3"]')
    assert float(figure.text(".formula").split(" = ")[-1]) == pytest.approx(
        float(gradients[1][2, 3]), rel=0.01, abs=1e-4
    )
    figure.press_at('[data-do="step"]', "Enter", back=True)
    for old, gradient, new in zip(before, gradients, matrices("value"), strict=True):
        decay = np.float32([[0.1]] * (len(old) - 1) + [[0]])  # biases are not regularized
        np.testing.assert_allclose(new, old - (gradient + decay * old), rtol=1e-3, atol=1e-5)

    for field in ("decay", "activation", "hidden", "points"):
        figure.press_at(f"#learning-{field}", "Home", back=True)
    for _ in range(2):
        figure.press_at('[data-do="train"]', "Enter")
        assert figure.data(".status", "loss") < 0.05
        figure.press_at('[data-do="start"]', "Enter")
        assert figure.data(".status", "loss") > 0.5


SURFACES = {  # in the order of the figure, with its start and learning rate
    "bowl": (lambda x, y: (x**2 + y**2) / 2, (-1.7, 1.2), 0.1),
    "ravine": (lambda x, y: (x**2 + 25 * y**2) / 2, (-1.8, 1.1), 0.05),
    "banana": (lambda x, y: (1 - x) ** 2 + 10 * (y - x**2) ** 2, (-1.4, 0.2), 0.01),
    "saddle": (lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (-1.9, 0.01), 0.05),
    "many": (lambda x, y: 0.1 * (x**2 + y**2) + 1 - jnp.cos(2 * x) * jnp.cos(2 * y), (-3.7, 2.1), 0.05),
}
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
}


def optax_paths(optimizer) -> np.ndarray:
    """The path of an optimizer on every surface: (surface, step, coordinate)."""
    functions = [lambda w, f=f: f(w[0], w[1]) for f, _, _ in SURFACES.values()]

    def path(surface, start, rate):
        transformation = optimizer(rate)

        def step(carry, _):
            w, state = carry
            updates, state = transformation.update(jax.grad(lambda v: jax.lax.switch(surface, functions, v))(w), state)
            w = optax.apply_updates(w, updates)
            return (w, state), w

        return jax.lax.scan(step, (start, transformation.init(start)), length=300)[1]

    starts = jnp.array([start for _, start, _ in SURFACES.values()])
    rates = jnp.array([rate for _, _, rate in SURFACES.values()])
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.jit(jax.vmap(path))(jnp.arange(len(SURFACES)), starts, rates))


@pytest.mark.browser
def test_optimizers(page: Page, float64: None) -> None:
    paths = {name: optax_paths(optimizer) for name, optimizer in OPTIMIZERS.items()}
    figure = Keyboard(page, "optimizers")
    figure.press_at("#optimizers-surface", "Home")

    def check(surface: int, step: int) -> None:
        for name, path in paths.items():
            if name == "rmsprop" and step == 300:
                continue  # it jumps around the minimum, where a rounding error soon changes its path
            seen = [figure.data(f".racer.o-{name} .reached", axis) for axis in "xy"]
            np.testing.assert_allclose(seen, path[surface, step - 1], atol=1e-5, err_msg=f"{name} on surface {surface}")

    for surface in range(len(SURFACES)):
        figure.press_at("#optimizers-surface", *["ArrowDown"] * (surface > 0), back=True)
        check(surface, 300)  # motion is not wanted here, so a race is shown at its end
        figure.press_at("#optimizers-shown", "Home", "PageUp")
        check(surface, 30)
    figure.press_at('[data-do="reset"]', "Enter", back=True)
    figure.press_at('[data-do="step"]', *["Enter"] * 7, back=True)
    check(len(SURFACES) - 1, 7)
    figure.press_at(".handle", "ArrowRight", "Shift+ArrowDown", back=True)
    assert page.get_attribute(f"{figure.root} .handle", "aria-valuetext") == "x −3.6, y 1.6"
    assert figure.data(".racer.o-sgd .reached", "x") != pytest.approx(paths["sgd"][-1, -1, 0], abs=1e-3)


@pytest.mark.browser
def test_where_grad_is_wrong(page: Page) -> None:
    figure = Keyboard(page, "where_grad_is_wrong")
    figure.press_at("#where_grad_is_wrong-function", "Home")
    assert "jax.grad(f)" in figure.text("pre")
    assert figure.text('[data-name="lost"]') == "all"
    figure.go_to(".handle")

    def view() -> list[float]:
        label = str(page.get_attribute(f"{figure.root} .chart svg", "aria-label"))
        found = re.search(r"x from (\S+) to (\S+)\. ", label)
        assert found
        return [float(found[1]), float(found[2])]

    assert view() == [-40, 40]
    x = jnp.float32(0)
    for key in ("End", "ArrowLeft", *["PageDown"] * 6, "ArrowRight"):
        figure.press(key)
        x = jnp.float32(figure.text("pre").split("(")[-1].split(")")[0])
        right, printed = (np.float32(figure.text(f'[data-name="{name}"]')) for name in ("right", "jax"))
        unit = np.spacing(right)
        np.testing.assert_allclose(figure.data('[data-name="error"]'), abs(float(printed) - float(right)) / unit)
        assert abs(float(fnn.sigmoid.derivative(x)) - right) <= 8 * unit
        lost = abs(float(jax.grad(jax.nn.sigmoid)(x)) - right) / unit
        assert (lost > 2000) == (figure.data('[data-name="error"]') > 2000)
    figure.press("+", "+")
    low, high = view()
    assert high - low == pytest.approx(20, rel=1e-5)
    assert low <= float(x) <= high
    figure.press("0")
    assert view() == [-40, 40]
