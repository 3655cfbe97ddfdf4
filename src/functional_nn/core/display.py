"""How objects show themselves: tables and texts in a notebook, and progress bars there and in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


UPDATE_SECONDS = 0.1
"""The least time between two updates of a bar in a notebook. Each update is a message to the browser."""


@dataclass
class ProgressState:
    """How far a task is. It shows itself as a bar in a notebook, and as one line of text elsewhere.

    Args:
        title: the name of the task.
        total: the number of its steps.
        done: how many of them are done.
        text: what stands beside the bar.
        seconds: the time since the start.
        has_ended: whether the task has ended, with all steps or without.

    >>> ProgressState("training", 10, 3, "loss 0.5", 1.234)
    training 3/10, 1.2 s, loss 0.5
    """

    title: str
    total: int
    done: int = 0
    text: str = ""
    seconds: float = 0.0
    has_ended: bool = False

    @property
    def seconds_left(self) -> float | None:
        """The time to the end at the present speed; None before the first step and after the end."""
        if not self.done or self.has_ended:
            return None
        return self.seconds / self.done * (self.total - self.done)

    def __repr__(self) -> str:
        text = f", {self.text}" if self.text else ""
        return f"{self.title} {self.done}/{self.total}, {self.seconds:.1f} s{text}"

    def _repr_html_(self) -> str:
        left = "" if self.seconds_left is None else f", {self.seconds_left:.1f} s left"
        cut = ", ended early" if self.has_ended and self.done < self.total else ""
        bar = f'<progress max="{self.total}" value="{self.done}" aria-label="{escape(self.title)}"></progress>'
        return f"<p>{bar} {escape(repr(self))}{left}{cut}</p>"


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

    state, start = ProgressState(title, total), time.perf_counter()
    output = display(state, display_id=True)
    assert output is not None  # with an id, there is always a handle
    last_update = start

    def advance(text: str) -> None:
        nonlocal last_update
        now = time.perf_counter()
        state.done, state.text, state.seconds = state.done + 1, text, now - start
        if now - last_update >= UPDATE_SECONDS:
            last_update = now
            output.update(state)

    try:
        yield advance
    finally:
        state.seconds, state.has_ended = time.perf_counter() - start, True
        output.update(state)
