"""The directive ``{touchable} NAME``: puts the figure of ``figures/NAME.html`` into a page.

The text about the figure is the content of the directive. A notebook has neither.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from languages import FIGURES, language_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def with_introduction(figure: str, name: str, language: str | None) -> str:
    """The figure with its title and its introduction in the language of the page. Its other words stay English."""
    if language is not None:
        for part, words in zip(("title", "about"), FIGURES[language][name], strict=True):
            translated = f'<p class="{part}" lang="{language}">{words}</p>'
            figure = re.sub(rf'<p class="{part}">.*?</p>', translated, figure, count=1, flags=re.DOTALL)
    return figure


class Touchable(SphinxDirective):
    """A figure that people can change. Its file is a page of its own, whose body has the style and the script."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "figures" / f"{self.arguments[0]}.html"
        if not path.is_file():
            raise self.error(f"No figure {path}.")
        self.env.note_dependency(str(path))
        page = path.read_text("utf-8")
        body = re.search(r"<body[^>]*>(.*)</body>", page, re.DOTALL)
        if body is None:
            raise self.error(f"No <body> in {path}.")
        figure = with_introduction(body[1], self.arguments[0], language_of(self.env.docname))
        return [*self.parse_content_to_nodes(), nodes.raw("", f'<div lang="en">{figure}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("touchable", Touchable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
