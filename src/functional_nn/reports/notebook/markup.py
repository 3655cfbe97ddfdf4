"""HTML elements from Python, with every text escaped: tags, tables, folds, and the frame with the style."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path


class Html(str):
    """A text that is HTML already, so it is not escaped again."""

    __slots__ = ()


def html_text(text: str) -> Html:
    """A text as HTML: escaped, unless it is HTML already."""
    return text if isinstance(text, Html) else Html(escape(text))


def joined(parts: Sequence[str]) -> Html:
    """Pieces of HTML, and texts, one after the other."""
    return Html("".join(map(html_text, parts)))


def tag(name: str, *children: str, **attributes: str | float | bool | None) -> Html:
    """An element. In the names of attributes, ``_`` stands for ``-``; a ``_`` at the end is dropped.

    An attribute that is None or False is left out, and one that is True is there without a value.

    >>> print(tag("p", "a < b", class_="note", aria_label="x"))
    <p class="note" aria-label="x">a &lt; b</p>
    """
    texts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        texts.append(f' {attribute}="{"" if value is True else escape(str(value))}"')
    return Html(f"<{name}{''.join(texts)}>{joined(children)}</{name}>")


def empty_tag(name: str, **attributes: str | float) -> Html:
    """An element without content, such as an image or a line of a picture."""
    return Html(tag(name, **attributes).removesuffix(f"></{name}>") + "/>")


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    label: str = "",
    classes: str = "",
) -> Html:
    """A table, which scrolls sideways if the page is narrow.

    Args:
        heads: the names of the columns.
        rows: the cells.
        numbers: the columns that are aligned to the right.
        label: the name of the table for people who cannot see it.
        classes: further classes of the table.
    """

    def line(cells: Sequence[str], kind: str, **attributes: str) -> Html:
        made = [tag(kind, cell, class_="fnn-n" if i in numbers else None, **attributes) for i, cell in enumerate(cells)]
        return tag("tr", *made)

    head = tag("thead", line(heads, "th", scope="col"))
    body = tag("tbody", *(line(row, "td") for row in rows))
    # A region that scrolls can be reached with the keyboard.
    return tag(
        "div",
        tag("table", head, body, class_=f"fnn-table {classes}".strip(), aria_label=label or None),
        class_="fnn-scroll",
        tabindex="0",
        role="group",
        aria_label=label or "table",
    )


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Names and values, side by side."""
    parts = [joined((tag("dt", name), tag("dd", value))) for name, value in pairs]
    return tag("dl", *parts, class_="fnn-facts")


def fold(title: str, *children: str, is_open: bool = False) -> Html:
    """A part that opens with a click or a key."""
    return tag("details", tag("summary", title), *children, open=is_open)


def faint(text: str) -> Html:
    """A text that is less important."""
    return tag("span", text, class_="fnn-faint")


def code(text: str) -> Html:
    """A name of the program, in letters of equal width; nothing for an empty text."""
    return tag("code", text) if text else Html("")


def badge(text: str, mood: str) -> Html:
    """A short text in color. The mood is ``good``, ``bad`` or ``open``."""
    return tag("strong", text, class_=f"fnn-{mood}")


def title(name: str, *others: str) -> Html:
    """The first line of an object: its name, and what follows."""
    return tag("p", tag("strong", name), *(joined((" ", other)) for other in others), class_="fnn-title")


def view(*children: str) -> str:
    """The whole HTML of an object: its parts, and the style, which holds only inside."""
    return str(tag("div", tag("style", Html(_style())), *children, class_="fnn-view"))


@functools.cache
def _style() -> str:
    text = (Path(__file__).parent / "notebook.css").read_text("utf-8")
    return "".join(line.strip() for line in text.splitlines() if not line.startswith("/*"))
