"""How objects show themselves: tables and texts in a notebook, and progress bars there and in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape

from functional_nn.core.errors import escaped


def html_text(value: object) -> str:
    """An object's text in letters of equal width, for ``_repr_html_`` where ``repr`` is shorter than ``str``."""
    return f"<pre>{escape(str(value))}</pre>"


def html_table(sentence: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A sentence and a table below it, for ``_repr_html_``. It needs no script and takes the style of the page.

    >>> html_table("a < b\0", ["x"], [["1"]])
    '<p>a &lt; b\\x00</p><table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>'
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(escaped(cell))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<p>{escape(escaped(sentence))}</p><table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody></table>"


def in_notebook() -> bool:
    """Whether the code runs in a notebook, or in another front end of IPython that shows HTML.

    A terminal with IPython shows texts only. IPython is not imported: if nothing has imported it, this is no notebook.

    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "text/html" in shell.display_formatter.active_types


UPDATE_SECONDS = 0.1
"""The least time between two updates of a bar in a notebook. Each update is a message to the browser."""


def is_progress_shown(show: bool | None) -> bool:
    """Whether a progress bar is shown: as asked, and by default in a notebook and on a terminal."""
    if show is not None:
        return show
    # A process without a terminal may have no stderr at all, or an object in its place that can only write.
    return in_notebook() or getattr(sys.stderr, "isatty", bool)()


def clear_line() -> str:
    """Characters that clear a progress bar before a line is printed; none if not everything goes to a terminal.

    The bar is on the last line of the terminal, and draws itself again.
    """
    return "\r\x1b[2K" if sys.stdout.isatty() and sys.stderr.isatty() else ""


@contextmanager
def progress_bar(title: str, total: int, show: bool | None = None) -> Iterator[Callable[[str], None]]:
    """A context with ``advance(text)``, which moves the bar by one step and shows a text beside it.

    In a terminal, the bar vanishes at the end. In a notebook, its last state stays, also in an exported page.

    >>> with progress_bar("training", 3, show=False) as advance:
    ...     advance("loss 0.5")
    """
    if not is_progress_shown(show):
        yield lambda text: None
        return
    with (_bar_in_a_notebook if in_notebook() else _bar_in_a_terminal)(title, total) as advance:
        yield advance


@contextmanager
def _bar_in_a_terminal(title: str, total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    beside = TextColumn("{task.fields[text]}", markup=False)  # a text such as a file's name may have brackets
    with Progress(*columns, beside, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda text: bar.update(task, advance=1, text=text)


@contextmanager
def _bar_in_a_notebook(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """One output that is replaced in place. ``rich`` and ``tqdm`` need ipywidgets for this, which exports lose."""
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    start, done, text = time.perf_counter(), 0, ""

    def shown(more: str = "") -> dict[str, str]:
        line = f"{title} {done}/{total}, {time.perf_counter() - start:.1f} s{text and f', {text}'}{more}"
        bar = f'<progress max="{total}" value="{done}" aria-label="{escape(title)}"></progress>'
        return {"text/plain": line, "text/html": f"<p>{bar} {escape(line)}</p>"}

    output = display(shown(), raw=True, display_id=True)
    assert output is not None  # with an id, there is always a handle
    last_update = start

    def advance(now_done: str) -> None:
        nonlocal done, text, last_update
        done, text, now = done + 1, now_done, time.perf_counter()
        if now - last_update >= UPDATE_SECONDS:
            last_update = now
            output.update(shown(f", {(now - start) / done * (total - done):.1f} s left"), raw=True)

    try:
        yield advance
    finally:
        output.update(shown(", ended early" if done < total else ""), raw=True)
