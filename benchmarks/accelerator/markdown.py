"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table. The first column is text, the others are numbers.

    >>> print(table(["model", "time"], [["mlp", "1 ms"]]))
    | model | time |
    |---|---:|
    | mlp | 1 ms |
    """
    lines = [_row(headings), "|---|" + "---:|" * (len(headings) - 1), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
