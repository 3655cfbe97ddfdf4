"""The derivations of the pages in docs/formulas, and their formulas as MathML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).parents[2]
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
