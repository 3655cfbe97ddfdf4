"""The HTML page of a gradient comparison, with derivations and pictures; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from functional_nn.activations.activation_types import Activation
from functional_nn.activations.table import ACTIVATIONS
from functional_nn.gradients.compare.report import (
    MARKS,
    Outcome,
    Report,
    Verdict,
    VerdictGroup,
    automatic_excess,
    group_verdicts,
    worst_outcome,
)
from functional_nn.reports.pages.formulas import derivations, derived_as, typeset
from functional_nn.reports.pages.page import as_svg, check_libraries, write_template

SECTIONS = ("disagreements", "automatic", "planted", "left-out", "reading", "formulas")
"""Anchors of the page's own sections."""
PICTURED = ("float32", "float64", "bfloat16", "float16")
"""Types for an activation's picture. The first type that the activation was compared in is taken."""
MOST_SENTENCES = 25
"""Failures described in words at the top of the page; all failures are in the tables."""
MOST_CELLS = 8
"""With more comparisons of a subject than this, those by the same argument and of the same kind become one row."""


class Subject(NamedTuple):
    """A section of the page.

    Args:
        name: the name of the formula.
        anchor: the identifier of the section in links, made of the name.
        outcome: the worst outcome of its comparisons.
        verdicts: its comparisons.
        groups: its comparisons as fewer rows, if there are many.
        derivation: the derivation as HTML; empty if another section shows it, or if there is none.
        shown_at: the section that shows the derivation, if several subjects share it.
        picture: the picture as SVG, or nothing.
    """

    name: str
    anchor: str
    outcome: Outcome
    verdicts: list[Verdict]
    groups: list[VerdictGroup]
    derivation: str
    shown_at: Subject | None
    picture: str


def write_page(report: Report, path: str | Path, *, title: str) -> None:
    """Writes a report as one self-contained HTML file: counts, failures, derivations, tables and pictures.

    The pictures of activations are drawn here; each takes about a second.

    Args:
        report: the report. A subject gets the derivation of the public name that it is or begins with: that of
            ``conv_strided`` is the derivation of ``conv``.
        path: the file, in a folder that exists.
        title: the heading of the page.

    Raises:
        InputError: Jinja, latex2mathml, markdown-it or matplotlib is missing, or the file cannot be written.
    """
    check_libraries(("jinja2", "latex2mathml", "markdown_it", "matplotlib"))
    subjects = _subjects(report.verdicts)
    filters = {"figure": figure, "value": value, "in_few_digits": in_few_digits}
    values = {
        "title": title,
        "report": report,
        "subjects": subjects,
        "anchors": {subject.name: subject.anchor for subject in subjects},
        "failures": group_verdicts(report.failures, "subject", "leaf", "outcome"),
        "wrong_automatic": sorted(report.wrong_automatic, key=automatic_excess, reverse=True),
        "wrong_groups": sorted(
            group_verdicts(report.wrong_automatic, "subject", "leaf", "dtype"),
            key=lambda group: automatic_excess(group.worst_automatic),
            reverse=True,
        ),
        "survivors": sorted(report.survivors, key=lambda survivor: bool(survivor.reason)),
        "reasons": _by_reason(report.skipped),
        "counts": report.to_dict(),
        "marks": MARKS,
        "most_sentences": MOST_SENTENCES,
    }
    write_template("verification.html", path, filters, values, follow_links=True)


def figure(error: float | None) -> str:
    """An error in two digits.

    >>> figure(1.234e-16), figure(float("nan")), figure(float("inf")), figure(None)
    ('1.2e−16', 'not a number', '∞', '')
    """
    return _readable(error, ".2g")


def value(number: float | None) -> str:
    """A value in nine digits, enough to tell float32 numbers apart."""
    return _readable(number, ".9g")


def in_few_digits(note: str) -> str:
    """A note with long numbers shortened.

    >>> in_few_digits("x = -0.7517916560173035")
    'x = −0.751791656'
    """
    return re.sub(r"-?\d+\.\d+(e[+-]\d+)?", lambda match: value(float(match[0])), note)


def _readable(number: float | None, digits: str) -> str:
    if number is None:
        return ""
    if math.isnan(number):
        return "not a number"
    return format(number, digits).replace("-", "−").replace("inf", "∞")


def _subjects(verdicts: Sequence[Verdict]) -> list[Subject]:
    sections = derivations()
    by_name: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.subject, []).append(verdict)
    anchor_of = anchors_of(by_name)
    section_of = {name: derived_as(name, sections) for name in by_name}
    # A later entry of a dict replaces an earlier one, so in reversed order the first subject remains.
    first_of = {section_of[name]: name for name in reversed(by_name) if section_of[name]}

    def anchors(section: str) -> str | None:
        return anchor_of.get(first_of.get(section, ""))

    subjects: dict[str, Subject] = {}
    for name, of_subject in by_name.items():
        section = section_of[name]
        # The first subject of a section shows its derivation; the others link to it.
        shown_at = subjects.get(first_of[section]) if section else None
        subjects[name] = Subject(
            name,
            anchor_of[name],
            worst_outcome(verdict.outcome for verdict in of_subject),
            of_subject,
            group_verdicts(of_subject, "leaf", "kind") if len(of_subject) > MOST_CELLS else [],
            typeset(sections[section], anchors) if section and not shown_at else "",
            shown_at,
            _picture(name, of_subject),
        )
    return list(subjects.values())


def anchors_of(names: Iterable[str]) -> dict[str, str]:
    """The anchor of each subject: its name, with a hyphen for everything but letters, digits, hyphens and underscores.

    If this is taken, also by a section of the page itself, a number is added.

    >>> anchors_of(["lstm", "relu in ULP", "a b", "a-b", "planted"])
    {'lstm': 'lstm', 'relu in ULP': 'relu-in-ULP', 'a b': 'a-b', 'a-b': 'a-b-2', 'planted': 'planted-2'}
    """
    taken: set[str] = set(SECTIONS)
    found = {}
    for name in names:
        plain = re.sub(r"[^\w-]+", "-", name).strip("-") or "formula"
        anchor, number = plain, 1
        while anchor in taken:
            number += 1
            anchor = f"{plain}-{number}"
        taken.add(anchor)
        found[name] = anchor
    return found


def _by_reason(skipped: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for subject, reason in skipped:
        reasons.setdefault(reason, []).append(subject)
    return reasons


def _picture(name: str, verdicts: Sequence[Verdict]) -> str:
    """The picture of the errors of an activation's derivative, as SVG in the page's colors; else nothing."""
    activation = ACTIVATIONS.get(name)
    types = {verdict.dtype for verdict in verdicts if verdict.unit == "ULP"}
    dtype = next((dtype for dtype in PICTURED if dtype in types), None)
    if not isinstance(activation, Activation) or not dtype:
        return ""
    from functional_nn.reports.plots.gradients import AUTOMATIC, HAND, plot_errors

    label = f"Errors of the derivative of {name} in {dtype}, by hand and by automatic differentiation"
    return as_svg(plot_errors(activation, dtype), name, label, {HAND: "var(--hand)", AUTOMATIC: "var(--automatic)"})
