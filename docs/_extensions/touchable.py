"""The directive ``{touchable} NAME``: puts the figure of ``figures/NAME.html`` into a page.

The text about the figure is the content of the directive. A notebook has neither.
"""

from __future__ import annotations

import re

from docutils import nodes
from figure_files import FIGURES, SHARED, read_figure
from languages import FIGURE_TEXTS, language_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def with_introduction(figure: str, name: str, language: str | None) -> str:
    """The figure with its title and its introduction in the language of the page. Its other words stay English."""
    if language is not None:
        for part, words in zip(("title", "about"), FIGURE_TEXTS[language][name], strict=True):
            translated = f'<p class="{part}" lang="{language}">{words}</p>'
            figure = re.sub(rf'<p class="{part}">.*?</p>', translated, figure, count=1, flags=re.DOTALL)
    return figure


class Touchable(SphinxDirective):
    """A figure that people can change, with its style and its script. It loads nothing."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        for path in (*FIGURES.glob(f"{name}.*"), *(FIGURES / file for file in SHARED)):
            self.env.note_dependency(str(path))
        try:
            figure = read_figure(name)
        except (OSError, ValueError) as error:
            raise self.error(str(error)) from None
        figure = with_introduction(figure, name, language_of(self.env.docname))
        return [*self.parse_content_to_nodes(), nodes.raw("", f'<div lang="en">{figure}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("touchable", Touchable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
