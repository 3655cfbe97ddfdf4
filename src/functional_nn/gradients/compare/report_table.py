"""Tables of verdicts, with equal rows merged: the rows, their cells, and the table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from functional_nn.gradients.compare.verdict import (
    MARKS,
    ORDER,
    Outcome,
    Verdict,
    automatic_excess,
    worst_outcome,
    worst_verdicts,
)

WIDTH = 80
"""The width of a terminal in characters."""
MOST_ROWS = 40
"""The largest number of rows in a table. If more comparisons failed, the table has more rows."""
HEADS = ("", "by", "compared", "times", "error", "allowed", "automatic")
"""The columns: the mark, the argument, the comparison, how often, the formula's worst error, and jax.grad's."""
NUMBERS_FROM = 3
"""The first column that is aligned to the right."""


class VerdictGroup(NamedTuple):
    """Verdicts that make up one row of a table.

    Args:
        times: the number of verdicts.
        outcome: the worst of their outcomes.
        worst: among the verdicts with this outcome, the one with the largest error of the formula.
        worst_automatic: the verdict where the error of automatic differentiation is largest.
    """

    times: int
    outcome: Outcome
    worst: Verdict
    worst_automatic: Verdict


def group_verdicts(verdicts: Iterable[Verdict], *fields: str) -> list[VerdictGroup]:
    """Groups the verdicts that are equal in these fields. Groups with failures come first; else the order is kept."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(tuple(getattr(verdict, field) for field in fields), []).append(verdict)
    found = []
    for group in groups.values():
        outcome = worst_outcome(verdict.outcome for verdict in group)
        (shown,) = worst_verdicts((verdict for verdict in group if verdict.outcome == outcome), 1)
        found.append(VerdictGroup(len(group), outcome, shown, max(group, key=automatic_excess)))
    return sorted(found, key=lambda group: ORDER.index(group.outcome))


def text_table(verdicts: Sequence[Verdict]) -> str:
    """Formats a table of at most 80 columns: each subject has its own line, and its comparisons follow below."""
    groups, left_out = table_rows(verdicts)
    rows = [table_cells(group) for group in groups]
    widths = [max(len(row[column]) for row in (HEADS, *rows)) for column in range(len(HEADS))]
    # Only names of arguments can be too long. Their column gets the width that is left, and keeps the ends of names.
    rest = sum(widths) - widths[1] + 2 * (len(HEADS) - 1)
    widths[1] = min(widths[1], WIDTH - rest)
    lines = [_line(HEADS, widths)]
    subject = None
    for group, row in zip(groups, rows, strict=True):
        if group.worst.subject != subject:
            subject = group.worst.subject
            lines += ["", _cut_at_the_start(subject, WIDTH)]
        lines.append(_line(row, widths))
    if left_out:
        lines += ["", f"… and {left_out:,} more comparisons that pass"]
    return "\n".join(lines)


def table_rows(verdicts: Sequence[Verdict]) -> tuple[list[VerdictGroup], int]:
    """The rows to show, grouped by subject, and the number of omitted comparisons, all of which passed."""
    groups = group_verdicts(verdicts, "subject", "leaf", "kind", "dtype", "unit", "outcome")
    if len(groups) > MOST_ROWS:
        failed = [group for group in groups if group.outcome != "pass"]
        passed = [group for group in groups if group.outcome == "pass"]
        nearest = worst_verdicts((group.worst for group in passed), max(0, MOST_ROWS - len(failed)))
        groups = failed + [group for group in passed if any(group.worst is verdict for verdict in nearest)]
    subjects = list(dict.fromkeys(group.worst.subject for group in groups))
    shown = sorted(groups, key=lambda group: subjects.index(group.worst.subject))
    return shown, len(verdicts) - sum(group.times for group in shown)


def table_cells(group: VerdictGroup) -> tuple[str, ...]:
    """The cells of a row, one for each of ``HEADS``."""
    verdict, automatic = group.worst, group.worst_automatic.automatic_error
    unit = "" if verdict.unit == "terms" else f" {verdict.unit}"
    return (
        MARKS[group.outcome],
        verdict.leaf,
        f"{verdict.kind} {verdict.dtype}",
        str(group.times),
        f"{verdict.error:.2g}",
        f"{verdict.tolerance:.2g}{unit}",
        "" if automatic is None else f"{automatic:.2g}",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(_padded(cells, widths)).rstrip()


def _padded(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        cut = _cut_at_the_start(cell, width)
        yield cut.rjust(width) if column >= NUMBERS_FROM else cut.ljust(width)


def _cut_at_the_start(text: str, width: int) -> str:
    """Cuts a long text at its start and keeps its end, because names of parameters differ at the end."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"
