"""The verdicts on all formulas as one HTML page, with derivations and pictures; it needs the extra ``[plots]``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from functional_nn.activations.activation_types import Activation
from functional_nn.activations.table import ACTIVATIONS
from functional_nn.gradients.compare.report import MARKS, Outcome, Report, Verdict, worst
from functional_nn.reports.pages.page import as_svg, check_libraries, write_template

PACKAGE = Path(__file__).parents[2]
SECTION = re.compile(r"^## (?P<title>.+?)\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
CODE_OR_FORMULA = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<shown>[^$]+)\$\$|\$(?P<within>[^$\n]+)\$", re.DOTALL)
SPACING = {
    r"<msup>(<(m[io])[^>]*>[^<]*</\2>)<mi>&#x02032;</mi></msup>": r'\1<mtext class="prime">&#x02032;</mtext>',
    r"<m([io])>([A-Za-z]{2,})</m\1>(?=<mo[^>]*>&#x00028;|<mtext)": r'<mo lspace="0.12em" rspace="0">\2</mo>',
    r"<m([io])>([A-Za-z]{2,})</m\1>": r'<mo lspace="0.12em" rspace="0.16em">\2</mo>',
    r"<mo>(&#x0007C;|&#x02016;)</mo>": r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>',
    r"(<mo[^>]*>(?!&#x00029;|&#x0005D;|&#x0007C;|&#x02016;)[^<]*</mo>)<mo>&#x02212;</mo>": (
        r'\1<mo form="prefix" lspace="0" rspace="0">&#x02212;</mo>'
    ),
}
"""What browsers need to be told: primes that are raised in every font, sinh x, |x|, and (−x) with a sign, no minus."""
PLACE = "\ue000{}\ue001"
"""What stands for a formula while the text around it becomes HTML: letters of nobody's alphabet."""
ORDER: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
PICTURED = ("float32", "float64", "bfloat16", "float16")
"""The types an activation's picture may be of: the first that it was compared in, in units in the last place."""
MOST_SENTENCES = 25
"""Failures that are told in words at the top; the others are in the tables of their subjects."""
MOST_CELLS = 8
"""A subject's comparisons that are shown one by one; of more, those of a leaf and kind are one row."""


class Group(NamedTuple):
    """Comparisons that are one row: the one where the formula is worst, and the one where the other party is."""

    times: int
    outcome: Outcome
    worst: Verdict
    automatic: Verdict


class Subject(NamedTuple):
    """A section of the page. Of subjects that share a derivation the first shows it, and the others name that one."""

    name: str
    anchor: str
    outcome: Outcome
    verdicts: list[Verdict]
    groups: list[Group]
    derivation: str
    shown_at: Subject | None
    picture: str


def write_page(report: Report, path: str | Path, *, title: str) -> None:
    """Writes a report as one HTML file that needs no other: counts, what failed, derivations, tables and pictures.

    The pictures of activations are drawn here, which takes about a second for each.

    Args:
        report: of any subjects; those named like something public, alone or before an underscore (``conv_strided``),
            get its derivation.
        path: the file, in a folder that exists.
        title: the page's heading.

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
        "failures": list(_groups(report.failures, "subject", "leaf", "outcome")),
        "wrong_automatic": sorted(report.wrong_automatic, key=_automatic_excess, reverse=True),
        "wrong_groups": sorted(
            _groups(report.wrong_automatic, "subject", "leaf", "dtype"),
            key=lambda group: _automatic_excess(group.automatic),
            reverse=True,
        ),
        "survivors": sorted(report.survivors, key=lambda survivor: bool(survivor.reason)),
        "reasons": _by_reason(report.skipped),
        "counts": report.to_dict(),
        "marks": MARKS,
        "most_sentences": MOST_SENTENCES,
    }
    write_template("verification.html", path, filters, values)


def derivations() -> dict[str, str]:
    """The derivation of everything public, as Markdown, by name: from the installed package, or from a checkout."""
    installed = PACKAGE / "formulas"
    folder = installed if installed.is_dir() else PACKAGE.parents[1] / "docs" / "formulas"
    sections = (match for page in sorted(folder.glob("*.md")) for match in SECTION.finditer(page.read_text("utf-8")))
    return {match["title"].strip("`"): match["body"].strip() for match in sections if match["title"].startswith("`")}


def derived_as(subject: str, names: Iterable[str]) -> str | None:
    """Whose derivation is a subject's: of the names that it is or begins with, before an underscore, the longest.

    >>> names = ["conv", "conv_transpose"]
    >>> derived_as("conv_strided", names), derived_as("conv_transpose_strided", names), derived_as("convex", names)
    ('conv', 'conv_transpose', None)
    """
    return max((name for name in names if f"{subject}_".startswith(f"{name}_")), key=len, default=None)


def typeset(markdown: str, anchors: Callable[[str], str | None]) -> str:
    """Markdown with formulas between dollars as HTML with MathML.

    Args:
        markdown: the text.
        anchors: where on this page a linked section is; of those that are nowhere on it the link is left out.
    """
    from markdown_it import MarkdownIt

    formulas: list[str] = []

    def take_out(match: re.Match[str]) -> str:
        if match["shown"]:
            formulas.append(f'<span class="formula">{_mathml(match["shown"], "block")}</span>')
        elif match["within"]:
            formulas.append(_mathml(match["within"], "inline"))
        else:
            return match[0]
        return PLACE.format(len(formulas) - 1)

    def link(match: re.Match[str]) -> str:
        anchor = anchors(match["section"])
        return f'<a href="#{anchor}">{match["text"]}</a>' if anchor else match["text"]

    text = CODE_OR_FORMULA.sub(take_out, markdown)
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = re.sub(r'<a href="[^"#]*#?(?P<section>[^"]*)">(?P<text>.*?)</a>', link, html)
    return re.sub(PLACE.format(r"(\d+)"), lambda match: formulas[int(match[1])], html)


def _mathml(formula: str, display: Literal["inline", "block"]) -> str:
    from latex2mathml.converter import convert

    mathml = convert(formula, display=display)
    for pattern, spaced in SPACING.items():
        mathml = re.sub(pattern, spaced, mathml)
    return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1)


def figure(error: float | None) -> str:
    """An error in two digits.

    >>> figure(1.234e-16), figure(float("nan")), figure(float("inf")), figure(None)
    ('1.2e−16', 'not a number', '∞', '')
    """
    return _readable(error, ".2g")


def value(number: float | None) -> str:
    """A value in nine digits, which tell float32 numbers apart."""
    return _readable(number, ".9g")


def in_few_digits(note: str) -> str:
    """A note with its long numbers shortened.

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
    anchor_of = {name: f"subject-{number}" for number, name in enumerate(by_name, 1)}
    section_of = {name: derived_as(name, sections) for name in by_name}
    first_of = {section_of[name]: name for name in reversed(by_name) if section_of[name]}

    def anchors(section: str) -> str | None:
        return anchor_of.get(first_of.get(section, ""))

    subjects: dict[str, Subject] = {}
    for name, own in by_name.items():
        section = section_of[name]
        shown_at = subjects.get(first_of[section]) if section else None
        derivation = typeset(sections[section], anchors) if section and not shown_at else ""
        groups = list(_groups(own, "leaf", "kind")) if len(own) > MOST_CELLS else []
        outcome = _outcome(own)
        subjects[name] = Subject(name, anchor_of[name], outcome, own, groups, derivation, shown_at, _picture(name, own))
    return list(subjects.values())


def _groups(verdicts: Sequence[Verdict], *alike: str) -> Iterator[Group]:
    """Those that are alike in these fields together, groups with failures first."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(tuple(getattr(verdict, field) for field in alike), []).append(verdict)
    for group in sorted(groups.values(), key=lambda group: ORDER.index(_outcome(group))):
        outcome = _outcome(group)
        (shown,) = worst((verdict for verdict in group if verdict.outcome == outcome), 1)
        yield Group(len(group), outcome, shown, max(group, key=_automatic_excess))


def _outcome(verdicts: Collection[Verdict]) -> Outcome:
    found = {verdict.outcome for verdict in verdicts}
    return next(outcome for outcome in ORDER if outcome in found)


def _automatic_excess(verdict: Verdict) -> float:
    """The error of automatic differentiation in multiples of what is allowed, -1 where it was not compared."""
    if verdict.automatic_error is None:
        return -1.0
    return math.inf if math.isnan(verdict.automatic_error) else verdict.automatic_error / verdict.tolerance


def _by_reason(skipped: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for subject, reason in skipped:
        reasons.setdefault(reason, []).append(subject)
    return reasons


def _picture(name: str, verdicts: Sequence[Verdict]) -> str:
    """The errors of an activation's derivative as SVG, in the page's colors; nothing for any other subject."""
    activation = ACTIVATIONS.get(name)
    types = {verdict.dtype for verdict in verdicts if verdict.unit == "ULP"}
    dtype = next((dtype for dtype in PICTURED if dtype in types), None)
    if not isinstance(activation, Activation) or not dtype:
        return ""
    from functional_nn.reports.plots.gradients import AUTOMATIC, HAND, plot_errors

    label = f"Errors of the derivative of {name} in {dtype}, by hand and by automatic differentiation"
    return as_svg(plot_errors(activation, dtype), name, label, {HAND: "var(--hand)", AUTOMATIC: "var(--automatic)"})
