"""The directive ``{touchable} NAME``: puts the figure of ``figures/NAME.html`` into a page.

The text about the figure is the content of the directive. A notebook has neither.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


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
        return [*self.parse_content_to_nodes(), nodes.raw("", f'<div lang="en">{body[1]}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("touchable", Touchable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
