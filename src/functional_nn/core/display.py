"""How objects show themselves in a notebook: the hook for their HTML, and whether this is a notebook.

Objects of every layer of the package show themselves as HTML. The makers of the HTML are in ``reports``, which these
objects cannot import, because imports point downward. So the package's root gives the function here. What a program
computes does not depend on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

HtmlMaker = Callable[[object], str]
"""Makes the HTML of an object."""

_makers: list[HtmlMaker] = []


def set_html_maker(maker: HtmlMaker) -> None:
    """Sets the function that ``html_repr`` calls."""
    _makers[:] = [maker]


def html_repr(value: object) -> str | None:
    """The HTML of an object, for its ``_repr_html_``; None, for the plain ``repr``, if no maker is set."""
    return _makers[0](value) if _makers else None


def in_notebook() -> bool:
    """Whether the code runs in a notebook, or in another front end of IPython that shows HTML.

    A terminal with IPython shows texts only. IPython is not imported: if nothing has imported it, this is no notebook.

    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "text/html" in shell.display_formatter.active_types
