"""The drawing panel in Chromium: strokes by mouse, touch and keyboard, against ``functional-nn predict``."""

import base64
import re
from pathlib import Path

import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.data.images import read_image
from functional_nn.reports.drawing import drawing_panel, panel_data

pytestmark = pytest.mark.browser

SHAPE = (28, 28, 1)
MODELS = {"mlp": {"hidden": (64,)}, "cnn": {"hidden": (8, 16)}, "lstm": {"hidden": (48,)}}
STYLE = (Path(fnn.__file__).parent / "reports" / "templates" / "page.css").read_text("utf-8")

SAVED = """async () => {
  await new Promise(requestAnimationFrame);
  const blobs = [], make = URL.createObjectURL;
  URL.createObjectURL = (blob) => { blobs.push(blob); return make(blob); };
  document.querySelector(".drawing-save").click();
  URL.createObjectURL = make;
  const bytes = new Uint8Array(await blobs[0].arrayBuffer());
  const classes = [...document.querySelectorAll(".drawing-class")];
  return [btoa(String.fromCharCode(...bytes)), classes.map((row) => Number(row.dataset.probability))];
}"""
"""Saves the picture, and returns the bytes of the file with the probabilities on the page."""


@pytest.fixture(scope="module")
def data():
    return fnn.load_dataset("mnist5k")


@pytest.fixture(scope="module")
def trained(data):
    """Networks of three kinds, trained for a short time."""
    runs = {}
    for name, options in MODELS.items():
        net = fnn.models.MODELS[name](10, **options)
        run = fnn.fit(net, fnn.cross_entropy, optax.adam(3e-3), data, epochs=2, batch_size=50, seed=0)
        runs[name] = net, run.params, run.state
    return runs


@pytest.fixture(scope="module")
def page_of(trained, data, browser, tmp_path_factory):
    """Opens the panel of a model in a page of its own; a request to anywhere, or an error, fails the test."""
    opened, faults = [], []

    def open_page(name: str, **options):
        path = tmp_path_factory.mktemp(name) / "page.html"
        data_of_panel = panel_data(*trained[name], SHAPE, [str(digit) for digit in range(10)], data, digits=True)
        panel = drawing_panel(data_of_panel)
        path.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Panel</title>'
            f"<style>{STYLE}</style></head>"
            f"<body><main><h1>Run</h1>{panel}</main></body></html>",
            "utf-8",
        )
        assert path.stat().st_size < 5_000_000
        context = browser.new_context(viewport={"width": 1200, "height": 900}, has_touch=True, **options)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or faults.append(request.url))
        page.goto(path.as_uri())
        page.locator(".drawing-pad").scroll_into_view_if_needed()
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not faults


STROKES = {
    "one": [[(14, 5), (14, 23)]],
    "seven": [[(8, 6), (20, 6), (12, 23)], [(10, 14), (18, 14)]],
    "four": [[(10, 5), (8, 14), (20, 14)], [(18, 5), (18, 23)]],
}
"""Pictures of some strokes, on a pad of 28 x 28."""


def points_on_page(page, strokes) -> list[list[tuple[float, float]]]:
    box = page.locator(".drawing-pad").bounding_box()
    scale = box["width"] / 28
    return [[(box["x"] + x * scale, box["y"] + y * scale) for x, y in stroke] for stroke in strokes]


def draw_with_mouse(page, strokes) -> None:
    for (x, y), *others in strokes:
        page.mouse.move(x, y)
        page.mouse.down()
        for point in others:
            page.mouse.move(*point)
        page.mouse.up()


def draw_with_touch(page, strokes) -> None:
    session = page.context.new_cdp_session(page)
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            kind = "touchMove" if number else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


@pytest.mark.parametrize("name", MODELS)
def test_drawn_pictures_have_the_probabilities_that_predict_gives_the_saved_picture(name, page_of, trained, tmp_path):
    page = page_of(name)
    pictures, shown = [], []
    for draw in (draw_with_mouse, draw_with_touch):
        for strokes in STROKES.values():
            page.locator(".drawing-clear").click()
            draw(page, points_on_page(page, strokes))
            text, probabilities = page.evaluate(SAVED)
            path = tmp_path / f"{len(pictures)}.png"
            path.write_bytes(base64.b64decode(text))
            pictures.append(read_image(path, SHAPE, digits=True))
            shown.append(probabilities)
    expected = fnn.training.predict_probabilities(*trained[name], np.stack(pictures))
    np.testing.assert_allclose(shown, expected, atol=1e-3)
    np.testing.assert_array_equal(np.argmax(shown, 1), expected.argmax(1))
    np.testing.assert_allclose(pictures[:3], pictures[3:], atol=60)  # a finger draws what a mouse draws
    assert np.ptp(pictures[:3], axis=0).max() > 100


def test_the_keyboard_draws_and_the_answer_is_said(page_of):
    page = page_of("mlp", reduced_motion="reduce")
    page.locator(".drawing-pad").focus()
    page.keyboard.press("Delete")
    page.wait_for_function("document.querySelector('.drawing-answer').textContent.startsWith('?')")
    assert page.locator(".drawing-save").is_disabled()
    for key in ["ArrowUp"] * 8 + [" "] + ["ArrowDown"] * 16 + [" "]:
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('.drawing-spoken').textContent.startsWith('Answer: 1,')")
    assert page.locator(".drawing-save").is_enabled()
    assert page.locator(".drawing-pen").text_content() == "Pen up at row 23, column 15."
    page.keyboard.press("Control+z")
    page.wait_for_function("document.querySelector('.drawing-spoken').textContent.includes('empty')")
    page.locator(".drawing-example").press("Enter")
    page.wait_for_function("document.querySelector('.drawing-spoken').textContent.startsWith('Answer: 0,')")
    label = page.locator(".drawing-maps").first.get_attribute("aria-label")
    assert label.startswith("dense_0: 64 units, from ")


def test_the_network_learns_what_a_drawing_is_by_keyboard_alone_and_undo_brings_the_trained_one_back(page_of):
    page = page_of("mlp", reduced_motion="reduce")
    page.wait_for_function("document.querySelector('.drawing-answer').textContent.startsWith('3')")
    before = page.evaluate(SAVED)[1]
    learn, undo = page.locator(".drawing-learn"), page.locator(".drawing-unlearn")
    assert learn.is_disabled()
    assert undo.is_disabled()
    page.locator(".drawing-truth").focus()
    page.keyboard.press("5")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("!document.querySelector('.drawing-unlearn').disabled")
    assert page.evaluate("document.activeElement.className") == "drawing-learn"
    assert np.argmax(page.evaluate(SAVED)[1]) == 5
    said = page.locator(".drawing-lesson-said").text_content()
    steps, first, last, after, trained = map(float, re.findall(r"\d+(?:\.\d+)?", said.replace("200 test", "")))
    assert steps == 60
    assert last < first / 3
    assert trained > 80
    assert after > trained - 10
    undo.press("Enter")
    page.wait_for_function("document.querySelector('.drawing-answer').textContent.startsWith('3')")
    assert page.evaluate(SAVED)[1] == before
    assert page.evaluate("document.activeElement.className") == "drawing-truth"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_has_no_serious_accessibility_fault_and_fits_a_phone(theme, page_of, serious_faults):
    page = page_of("lstm", color_scheme=theme)
    page.set_viewport_size({"width": 375, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert not serious_faults(page)
