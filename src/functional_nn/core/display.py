"""How objects show themselves in a notebook: as a table or as text, and whether this is a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from html import escape

from functional_nn.core.errors import escaped


def html_text(value: object) -> str:
    """An object's text in letters of equal width, for ``_repr_html_`` where ``repr`` is shorter than ``str``."""
    return f"<pre>{escape(str(value))}</pre>"


def html_table(sentence: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A sentence and a table below it, for ``_repr_html_``. It needs no script and takes the style of the page.

    >>> html_table("a < b", ["x"], [["1"]])
    '<p>a &lt; b</p><table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>'
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(escaped(cell))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<p>{escape(sentence)}</p><table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody></table>"


def in_notebook() -> bool:
    """Whether the code runs in a notebook, or in another front end of IPython that shows HTML.

    A terminal with IPython shows texts only. IPython is not imported: if nothing has imported it, this is no notebook.

    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "text/html" in shell.display_formatter.active_types
