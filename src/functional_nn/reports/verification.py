"""The HTML page of a gradient comparison, with derivations; it needs the extra ``[plots]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

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
from functional_nn.reports.page import number, write_template

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
    """

    name: str
    anchor: str
    outcome: Outcome
    verdicts: list[Verdict]
    groups: list[VerdictGroup]
    derivation: str
    shown_at: Subject | None


def write_page(report: Report, path: str | Path, *, title: str) -> None:
    """Writes a report as one self-contained HTML file: counts, failures, derivations and tables.

    Args:
        report: the report. A subject gets the derivation of the public name that it is or begins with: that of
            ``conv_strided`` is the derivation of ``conv``.
        path: the file, in a folder that exists.
        title: the heading of the page.

    Raises:
        InputError: if the file cannot be written.
    """
    subjects = _subjects(report.verdicts)
    filters = {"figure": partial(number, digits=2), "value": partial(number, digits=9), "in_few_digits": in_few_digits}
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
        "survivors": sorted(report.survivors, key=lambda survivor: not survivor.changes),
        "reasons": _by_reason(report.skipped),
        "counts": report.to_dict(),
        "marks": MARKS,
        "most_sentences": MOST_SENTENCES,
    }
    write_template("verification.html", path, filters, values, follow_links=True)


def in_few_digits(note: str) -> str:
    """A note with long numbers shortened to nine digits, enough to tell float32 numbers apart.

    >>> in_few_digits("x = -0.7517916560173035")
    'x = −0.751791656'
    """
    return re.sub(r"-?\d+\.\d+(e[+-]\d+)?", lambda match: number(float(match[0]), 9), note)


def _subjects(verdicts: Sequence[Verdict]) -> list[Subject]:
    sections = derivations()
    by_name: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.subject, []).append(verdict)
    anchor_of = {name: re.sub(r"[^\w-]+", "-", name) for name in by_name}
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
        outcome = worst_outcome(verdict.outcome for verdict in of_subject)
        groups = group_verdicts(of_subject, "leaf", "kind") if len(of_subject) > MOST_CELLS else []
        derivation = typeset(sections[section], anchors) if section and not shown_at else ""
        subjects[name] = Subject(name, anchor_of[name], outcome, of_subject, groups, derivation, shown_at)
    return list(subjects.values())


def _by_reason(skipped: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for subject, reason in skipped:
        reasons.setdefault(reason, []).append(subject)
    return reasons


PACKAGE = Path(__file__).parents[1]
SECTION = re.compile(r"^## (?P<title>.+?)\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
CODE_OR_FORMULA = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<shown>[^$]+)\$\$|\$(?P<within>[^$\n]+)\$", re.DOTALL)
SPACING = {
    # The prime of f′ is raised already, so it is not put into a superscript.
    r"<msup>(<(m[io])[^>]*>[^<]*</\2>)<mi>&#x02032;</mi></msup>": r'\1<mtext class="prime">&#x02032;</mtext>',
    # The name of a function has no space before a parenthesis. The next rule gives all other names a space.
    r"<m([io])>([A-Za-z]{2,})</m\1>(?=<mo[^>]*>&#x00028;|<mtext)": r'<mo lspace="0.12em" rspace="0">\2</mo>',
    r"<m([io])>([A-Za-z]{2,})</m\1>": r'<mo lspace="0.12em" rspace="0.16em">\2</mo>',
    # |x| and ‖x‖ do not grow with their content.
    r"<mo>(&#x0007C;|&#x02016;)</mo>": r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>',
    # After an operator that closes nothing, − is a sign and has no space.
    r"(<mo[^>]*>(?!&#x00029;|&#x0005D;|&#x0007C;|&#x02016;)[^<]*</mo>)<mo>&#x02212;</mo>": (
        r'\1<mo form="prefix" lspace="0" rspace="0">&#x02212;</mo>'
    ),
}
"""Corrections of MathML for browsers: raised primes, a space after sinh, |x|, and (−x) with a sign, not a minus."""
PLACE = "\ue000{}\ue001"
"""The placeholder of a formula while the text around it becomes HTML: private-use characters of Unicode."""


def derivations() -> dict[str, str]:
    """The derivations of everything public, as Markdown by name, from the installed package or from a checkout."""
    installed = PACKAGE / "formulas"
    folder = installed if installed.is_dir() else PACKAGE.parents[1] / "docs" / "formulas"
    sections = (match for page in sorted(folder.glob("*.md")) for match in SECTION.finditer(page.read_text("utf-8")))
    return {match["title"].strip("`"): match["body"].strip() for match in sections if match["title"].startswith("`")}


def derived_as(subject: str, names: Iterable[str]) -> str | None:
    """The name of the derivation that belongs to a subject: the longest name that it is, or that begins it.

    The name has to end at an underscore of the subject.

    >>> names = ["conv", "conv_transpose"]
    >>> derived_as("conv_strided", names), derived_as("conv_transpose_strided", names), derived_as("convex", names)
    ('conv', 'conv_transpose', None)
    """
    return max((name for name in names if f"{subject}_".startswith(f"{name}_")), key=len, default=None)


def typeset(markdown: str, anchors: Callable[[str], str | None]) -> str:
    """Converts Markdown with formulas between dollars to HTML with MathML.

    Args:
        markdown: the text.
        anchors: gives the anchor of a linked section on this page, or None; the link is then left out.
    """
    from markdown_it import MarkdownIt

    formulas: list[str] = []

    def take_out(match: re.Match[str]) -> str:
        if match["shown"]:
            formulas.append(f'<span class="formula">{mathml(match["shown"], "block")}</span>')
        elif match["within"]:
            formulas.append(mathml(match["within"], "inline"))
        else:
            return match[0]
        return PLACE.format(len(formulas) - 1)

    def link(match: re.Match[str]) -> str:
        anchor = anchors(match["section"])
        return f'<a href="#{anchor}">{match["text"]}</a>' if anchor else match["text"]

    # Formulas are taken out first, because Markdown would change their _ and *. Code is matched so that a dollar in it
    # begins no formula.
    text = CODE_OR_FORMULA.sub(take_out, markdown)
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = re.sub(r'<a href="[^"#]*#?(?P<section>[^"]*)">(?P<text>.*?)</a>', link, html)
    return re.sub(PLACE.format(r"(\d+)"), lambda match: formulas[int(match[1])], html)


def mathml(formula: str, display: Literal["inline", "block"]) -> str:
    """Converts a formula of LaTeX to MathML, with spaces as in books."""
    from latex2mathml.converter import convert

    converted = convert(formula, display=display)
    for pattern, spaced in SPACING.items():
        converted = re.sub(pattern, spaced, converted)
    return converted.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1)
