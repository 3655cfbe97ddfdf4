"""Every chapter whose code is run can also be downloaded as a Jupyter notebook."""

from __future__ import annotations

import ast
import re
from html import escape
from pathlib import Path

import jupytext
from languages import language_of, translated
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOLDER = "notebooks"

DROPDOWN = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{dropdown\} (?P<title>[^\n]*)\n(?P<body>.*?)\n(?P=fence)$", re.DOTALL | re.MULTILINE
)
TOUCHABLE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{touchable\}.*?\n(?P=fence)$", re.DOTALL | re.MULTILINE)
"""A figure with the text about it, which is of no use without the figure."""
NO_FIGURE = "The interactive figure of this section is only on the site."
NEEDS = "This notebook needs functional_nn. In the folder of its repository: `pip install '.[plots]' jupyterlab`."
LINK_TO_A_FILE = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?!https?:)[^)]*\)")


def is_chapter(app: Sphinx, name: str) -> bool:
    return "kernelspec" in app.env.metadata.get(name, {})


def add_link(app: Sphinx, name: str, template: str, context: dict, doctree: object) -> None:
    """Puts a link to the notebook under the page's title, where windows of every width show it."""
    if is_chapter(app, name):
        address = escape(context["pathto"](f"{FOLDER}/{name}.ipynb", resource=True))
        words = translated("Download this chapter as a notebook", language_of(name))
        link = f'<p class="notebook-link"><a href="{address}" download>{words}</a></p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def only_asserts(node: ast.stmt) -> bool:
    """Whether nothing is left of a statement without its assertions. A function that is called has to stay."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    inner = [statement for block in blocks(node) for statement in block]
    return isinstance(node, ast.Assert) or (bool(inner) and all(map(only_asserts, inner)))


def blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """The indented blocks of a statement, such as the body of a loop."""
    found = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
    parts = [*getattr(node, "handlers", []), *getattr(node, "cases", [])]
    return [block for block in found if block] + [part.body for part in parts]


def without_assertions(code: str) -> str:
    """Code without its assertions. They check the numbers of the chapter's text, which exercises change.

    A loop of assertions is left out whole.

    >>> without_assertions("x = 2\\nassert x == 2\\nfor y in range(x):\\n    assert y < x")
    'x = 2'
    """
    lines = code.splitlines()
    edits: list[tuple[int, int, list[str]]] = []

    def visit(block: list[ast.stmt], within: bool) -> None:
        needs_pass = within and all(map(only_asserts, block))
        for node in block:
            if only_asserts(node):
                left = [" " * node.col_offset + "pass"] if needs_pass and node is block[0] else []
                edits.append((node.lineno - 1, node.end_lineno or node.lineno, left))
            else:
                for inner in blocks(node):
                    visit(inner, within=True)

    visit(ast.parse(code).body, within=False)
    for start, end, left in sorted(edits, reverse=True):
        lines[start:end] = left
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
    text = TOUCHABLE.sub(f"*{translated(NO_FIGURE, language)}*", text)
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
            title, rest = notebook.cells[0].source.split("\n", 1)
            notebook.cells[0].source = f"{title}\n\n*{translated(NEEDS, language_of(name))}*\n{rest}"
            notebook.cells = [cell for cell in notebook.cells if cell.source]
            if not any(cell.cell_type == "code" for cell in notebook.cells):
                raise ExtensionError(f"{source} has no code: leave out its kernelspec.")
            jupytext.write(notebook, str(target), fmt="ipynb")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", add_link)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
