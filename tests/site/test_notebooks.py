"""The notebooks of the chapters: their code without assertions, and their text without what works only on the site."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = sorted([*DOCS.glob("tutorial/[0-9]*.md"), *DOCS.glob("zh/[0-9]*.md")])


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


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_chapter_has_an_empty_loop_or_text_about_a_missing_figure(notebooks: ModuleType, path: Path) -> None:
    for cell in notebooks.jupytext.read(str(path), fmt="md:myst").cells:
        if cell.cell_type == "code":
            nodes = list(ast.walk(ast.parse(notebooks.without_assertions(cell.source))))
            assert not [node for node in nodes if isinstance(node, ast.Pass | ast.Assert)]
        else:
            text = notebooks.plain_markdown(cell.source, notebooks.language_of(f"{path.parent.name}/{path.stem}"))
            assert "{touchable}" not in text
            if "{touchable}" in cell.source:
                assert ("only on the site" in text) != ("只在网站上" in text)
                assert "Press *Start*" not in text
                assert "Start：" not in text
