"""Formulas as MathML, which browsers draw without a script and screen readers read."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from functional_nn.reports.verification import mathml


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    # A word joiner keeps a comma after the formula on the same line.
    translator.body.append(mathml(node.astext(), "inline") + "\N{WORD JOINER}")
    raise nodes.SkipNode


def visit_display(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
