"""The code of the chapters: the same in both languages, figures with a text, and no assertions in the notebooks."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = sorted(path.name for path in (DOCS / "zh").glob("[0-9]*.md"))
CELL = re.compile(r"^```\{code-cell\}.*?^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("jupytext", "sphinx", "pydata_sphinx_theme"):
        pytest.importorskip(name, reason="pip install '.[docs]'")
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return importlib.import_module("notebooks")


def test_the_examples_in_docstrings(notebooks: ModuleType) -> None:
    results = doctest.testmod(notebooks)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("a = 1\nassert a", "a = 1"),
        ("for x in y:\n    assert x\na = 1", "a = 1"),
        ("for x in y:\n    assert x, (\n        x\n    )\n    print(x)", "for x in y:\n    print(x)"),
        ("for x in y:\n    if x:\n        assert x\nprint(1)", "print(1)"),
        ("with a:\n    for x in y:\n        assert x\n    b", "with a:\n    b"),
        ("if a:\n    assert a\nelse:\n    b", "if a:\n    pass\nelse:\n    b"),
        ("if a:\n    assert a\nelif b:\n    assert b", ""),
        ("try:\n    assert a\nexcept E:\n    b", "try:\n    pass\nexcept E:\n    b"),
        ("match a:\n    case 1:\n        assert a", ""),
        ("def f(x):\n    assert x\nf(1)", "def f(x):\n    pass\nf(1)"),
        ("for x in y:\n    pass", "for x in y:\n    pass"),
    ],
)
def test_a_statement_of_nothing_but_assertions_is_left_out(notebooks: ModuleType, code: str, left: str) -> None:
    assert notebooks.without_assertions(code) == left


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_in_chinese_has_the_code_of_the_english_one(name: str) -> None:
    english, chinese = (CELL.findall((DOCS / folder / name).read_text("utf-8")) for folder in ("tutorial", "zh"))
    assert english
    assert chinese == english


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_has_a_text_for_screen_readers(name: str) -> None:
    cells = CELL.findall((DOCS / "zh" / name).read_text("utf-8"))
    figures = [cell for cell in cells if re.search(r"plt\.subplots\(|^show\(", cell, re.MULTILINE)]
    assert figures
    assert [cell for cell in figures if ":mystnb: {image: {alt: " not in cell] == []
