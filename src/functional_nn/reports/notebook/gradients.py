"""Verdicts on gradients in a notebook: whether the formulas are right, and the table of what was compared."""

from __future__ import annotations

from functional_nn.gradients.compare.report import Report
from functional_nn.gradients.compare.report_table import HEADS, NUMBERS_FROM, table_cells, table_rows
from functional_nn.gradients.compare.verdict import MARKS, Outcome, Verdict
from functional_nn.gradients.search.worst import Worst, shown_point
from functional_nn.reports.notebook.markup import Html, badge, facts, faint, fold, joined, table, tag, title, view

MOODS: dict[Outcome, str] = {"pass": "good", "fail": "bad", "inconclusive": "open"}
WORDS: dict[Outcome, str] = {"pass": "Passed", "fail": "Not passed", "inconclusive": "Not decided"}
FEW_ROWS = 12
"""A report that passed shows a table of at most this number of rows open."""


def report_html(report: Report) -> str:
    """The verdict first, in color, then the table of the comparisons."""
    outcome: Outcome = "pass" if report.passed else "fail"
    if not report.passed and not report.unexplained and all(v.outcome == "inconclusive" for v in report.failures):
        outcome = "inconclusive"
    parts = [title(f"{report.title}:" if report.title else "", _badge(outcome, words=True), report.sentence)]
    if report.verdicts:
        groups, left_out = table_rows(report.verdicts)
        heads = (HEADS[0], "subject", *HEADS[1:])
        rows = []
        for group in groups:
            _, *others = table_cells(group)
            rows.append((_badge(group.outcome), group.worst.subject, *others))
        numbers = range(NUMBERS_FROM + 1, len(heads))
        found = table(heads, rows, numbers=numbers, label="comparisons")
        more = tag("p", faint(f"… and {left_out:,} more comparisons that pass")) if left_out else Html("")
        parts.append(
            fold(
                f"{len(report.verdicts):,} comparisons, with their worst errors",
                joined((found, more)),
                is_open=not report.passed or len(rows) <= FEW_ROWS,
            )
        )
    if report.survivors:
        lines = [
            (survivor.subject, survivor.description, survivor.reason or badge("no known reason", "bad"))
            for survivor in report.survivors
        ]
        planted = table(("subject", "planted error", "why it changes nothing"), lines, label="planted errors")
        parts.append(fold(f"{len(lines)} planted errors that were not found", planted))
    if report.skipped:
        parts.append(fold(f"{len(report.skipped)} not compared", table(("what", "why"), report.skipped)))
    return view(*parts)


def verdict_html(verdict: Verdict) -> str:
    """One comparison: the outcome, the sentence, and the numbers."""
    pairs = [
        ("compared", f"{verdict.kind}, {verdict.dtype}, {verdict.transform}, {verdict.regime}"),
        ("error", f"{verdict.error:.2g} {verdict.unit}, {verdict.tolerance:.2g} allowed"),
    ]
    if verdict.automatic_error is not None:
        pairs.append(("automatic differentiation", f"{verdict.automatic_error:.2g} {verdict.unit}"))
    if verdict.reference:
        pairs.append(("arbiter", f"{verdict.reference}, its own error {verdict.reference_error:.1g}"))
    return view(title("", _badge(verdict.outcome, words=True), verdict.sentence), facts(pairs))


def worst_html(worst: Worst) -> str:
    """The worst points of a search, in ULP."""
    heads = ("quantity", "type", "error in ULP", "condition", "computed", "exact", "at")
    rows = [
        (
            row.quantity,
            row.dtype,
            tag("strong", f"{row.error:.3g}"),
            f"{row.condition:.2g}",
            f"{row.computed:.9g}",
            f"{row.exact:.9g}",
            shown_point(row.point),
        )
        for row in worst.rows
    ]
    found = table(heads, rows, numbers=range(2, 6), label="worst points") if rows else tag("p", "Nothing was compared.")
    refused = [tag("p", f"{quantity}: not computed, {message}") for quantity, message in worst.refused.items()]
    return view(title(worst.name, faint(f"largest errors at {worst.evaluations:,} points")), found, *refused)


def _badge(outcome: Outcome, *, words: bool = False) -> Html:
    text = f"{MARKS[outcome]} {WORDS[outcome]}." if words else MARKS[outcome]
    return badge(text, MOODS[outcome])
