"""The built site in a browser: nothing is requested from elsewhere, and there is no serious accessibility fault.

Build it first: ``pip install '.[docs,browser]' && sphinx-build -W docs build/site``.
"""

import json
import re
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "build" / "site"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="build the site: sphinx-build -W docs build/site"),
]
PAGES = (
    "index.html",
    "tutorial/04_backpropagation.html",
    "tutorial/13_checking_a_gradient.html",
    "zh/index.html",
    "zh/04_backpropagation.html",
    "how_to/index.html",
    "how_to/checking_gradients.html",
    "reference/index.html",
    "reference/api/layers.html",
    "explanation/index.html",
    "formulas/dense.html",
)
WIDTHS = {"desktop": 1280, "phone": 375}


@pytest.fixture(params=["light", "dark"])
def page(browser, request):
    page = browser.new_page(color_scheme=request.param)
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_needs_nothing_from_elsewhere(page, name, serious_faults):
    page.goto((SITE / name).as_uri())
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 900})
        scroll, view = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert scroll <= view, f"{name} is {scroll} pixels wide in a window of {width}"
    page.wait_for_timeout(400)  # the theme lets wide code be scrolled by keys 300 ms after the window has changed
    assert not serious_faults(page)
    assert [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))] == []


def test_no_link_is_inside_another():
    """A browser would end the outer one before the inner one, so that it has no text."""
    nested = re.compile(r"<a [^>]*>(?:(?!</a>).)*?<a ")
    found = {path.name: nested.findall(path.read_text("utf-8")) for path in SITE.rglob("*.html")}
    assert {name: links for name, links in found.items() if links} == {}


@pytest.mark.parametrize("folder", ["tutorial", "zh"])
def test_every_chapter_can_be_downloaded(folder):
    chapters = [path.stem for path in (SITE / folder).glob("[0-9]*.html")]
    assert chapters
    notebooks = [*(SITE / "notebooks" / folder).glob("*.ipynb")]
    assert {path.stem for path in notebooks} == {*chapters}
    for path in notebooks:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert not re.search(r"\{(dropdown|touchable)\}|\]\(\w+\.md", text), path.name


@pytest.mark.parametrize(
    ("name", "other", "language", "words"),
    [
        ("tutorial/08_mnist", "zh/08_mnist", "zh-CN", "本章中文版"),
        ("zh/08_mnist", "tutorial/08_mnist", "en", "English version of this chapter"),
    ],
)
def test_a_chapter_links_to_its_other_version_at_all_widths(page, name, other, language, words):
    page.goto((SITE / f"{name}.html").as_uri())
    assert page.get_attribute("link[rel=alternate]", "hreflang") == language
    assert page.get_attribute("link[rel=alternate]", "href") == f"../{other}.html"
    link = page.get_by_role("link", name=words)
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 700})
        box = link.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert box["y"] + box["height"] < 700
    link.click()
    assert page.url == (SITE / f"{other}.html").as_uri()
