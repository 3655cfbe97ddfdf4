"""Texts for people: names in words, and tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def words(name: str) -> str:
    """The name of a metric or of a setting, as people read it.

    >>> words("test_accuracy")
    'test accuracy'
    """
    return name.replace("_", " ")


def aligned(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> list[str]:
    """The lines of a table, with two spaces between its columns.

    Args:
        rows: the texts of the cells.
        numbers_from: the first column of numbers, which end at the right side of their column; None if there is none.

    >>> print("\\n".join(aligned([("layer", "size"), ("dense_0", "15")], numbers_from=1)))
    layer    size
    dense_0    15
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = len(widths) if numbers_from is None else numbers_from

    def line(row: Sequence[str]) -> str:
        names = map(str.ljust, row[:texts], widths)
        numbers = map(str.rjust, row[texts:], widths[texts:])
        return "  ".join((*names, *numbers)).rstrip()

    return list(map(line, rows))
