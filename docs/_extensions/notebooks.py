"""Every chapter whose code is run can also be downloaded as a Jupyter notebook."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jupytext
from languages import language_of, translated
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOLDER = "notebooks"

DROPDOWN = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{dropdown\} (?P<title>[^\n]*)\n(?P<body>.*?)\n(?P=fence)$", re.DOTALL | re.MULTILINE
)
TOUCHABLE = re.compile(r"^(?P<fence>`{3,})\{touchable\}.*\n(?P=fence)$", re.MULTILINE)
LINK_TO_A_FILE = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?!https?:)[^)]*\)")


def is_chapter(app: Sphinx, name: str) -> bool:
    return "kernelspec" in app.env.metadata.get(name, {})


def add_link(app: Sphinx, name: str, template: str, context: dict, doctree: object) -> None:
    """Gives the page's template the address of the notebook."""
    if is_chapter(app, name):
        context["notebook"] = context["pathto"](f"{FOLDER}/{name}.ipynb", resource=True)


def without_assertions(code: str) -> str:
    """Code without its assertions. They check the numbers of the chapter's text, which exercises change.

    >>> without_assertions("x = 2\\nassert x == 2\\nfor y in range(x):\\n    assert y < x")
    'x = 2\\nfor y in range(x):\\n    pass'
    """
    lines = code.splitlines()
    asserts = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assert)]
    for node in sorted(asserts, key=lambda node: node.lineno, reverse=True):
        within_a_block = [" " * node.col_offset + "pass"] if node.col_offset else []
        lines[node.lineno - 1 : node.end_lineno] = within_a_block
    return "\n".join(lines).strip()


def plain_markdown(text: str, language: str | None = None) -> str:
    """Markdown without the directives and links that work only on this site.

    >>> print(plain_markdown("See [losses](05_losses.md).\\n:::{dropdown} Answer\\nIt is 2.\\n:::"))
    See losses.
    <details><summary>Answer</summary>
    <BLANKLINE>
    It is 2.
    <BLANKLINE>
    </details>
    """
    text = DROPDOWN.sub(r"<details><summary>\g<title></summary>\n\n\g<body>\n\n</details>", text)
    text = TOUCHABLE.sub(f"*{translated('On the site, a figure that you can change stands here.', language)}*", text)
    return LINK_TO_A_FILE.sub(r"\g<text>", text)


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for name in sorted(app.env.found_docs):
        if is_chapter(app, name):
            source, target = app.env.doc2path(name), Path(app.outdir) / FOLDER / f"{name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            notebook = jupytext.read(str(source), fmt="md:myst")
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.source = without_assertions(cell.source)
                else:
                    cell.source = plain_markdown(cell.source, language_of(name))
            if not any(cell.cell_type == "code" for cell in notebook.cells):
                raise ExtensionError(f"{source} has no code: leave out its kernelspec.")
            jupytext.write(notebook, str(target), fmt="ipynb")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", add_link)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
