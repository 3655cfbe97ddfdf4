"""The page on all formulas: what comes first, what it says of odd reports, and that it needs no other file."""

import math
import re
import sys
from html.parser import HTMLParser

import pytest

from functional_nn.core.errors import InputError
from functional_nn.gradients.compare.report import Report, Survivor, Verdict
from functional_nn.reports import verification
from functional_nn.reports.verification import derivations, typeset, write_page

HOSTILE = "<script>alert('1')</script>&amp;\"'"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Parses strictly: every element is closed in its turn, identifiers are unique, links inside lead somewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.open, self.tags, self.identifiers, self.links, self.loaded = text, [], [], [], [], []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open
        assert len({*self.identifiers}) == len(self.identifiers)
        assert {link.removeprefix("#") for link in self.links} <= {*self.identifiers}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, content in attrs:
            if name == "id":
                self.identifiers.append(content)
            elif name in ("href", "xlink:href"):
                self.links.append(content)
            elif name in ("src", "srcset", "data", "action", "xlink:src"):
                self.loaded.append(content)
            assert not name.startswith("on")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words += data

    def before(self, first: str, second: str) -> bool:
        return self.words.index(first) < self.words.index(second)


@pytest.fixture
def page(tmp_path):
    def write(report: Report, title: str = "Formulas") -> Page:
        path = tmp_path / "page.html"
        write_page(report, path, title=title)
        return Page(path.read_text("utf-8"))

    return write


def verdict(subject="dense", leaf="weight", outcome="pass", **other) -> Verdict:
    error = {"pass": 1e-16, "fail": 0.5, "inconclusive": 1e-14}[outcome]
    return Verdict(subject, leaf, outcome, **{"error": error, "tolerance": 1e-13, "automatic_error": 1e-16} | other)


def test_what_fails_comes_first_and_certain_failures_before_the_others(page):
    report = Report(
        (
            verdict("relu"),
            verdict("dense", "x", "inconclusive", reference_error=3e-9),
            verdict("conv", "bias", "fail", hand=2.0, arbiter=1.0),
            verdict("tanh", automatic_error=0.7),
        )
    )
    shown = page(report)
    assert "Not passed. conv: bias" in shown.words
    assert shown.before("What disagrees", "dense: x")
    assert shown.before("It is 2 times too large", "dense: x")
    assert shown.before("dense: x", "Where automatic differentiation")
    assert shown.words.count("is inconclusive: the arbiter") == 1
    assert re.search(r"failed\s*1\s*inconclusive\s*1", shown.words)


def test_failures_that_are_alike_are_told_once(page):
    alike = [verdict("dense", "weight", "fail", error=size, transform=f"t{size}") for size in (0.2, 0.9, math.nan)]
    others = [verdict("dense", f"leaf{number}", "fail") for number in range(verification.MOST_SENTENCES + 4)]
    shown = page(Report((*alike, *others)))
    assert shown.words.count("3 comparisons by weight disagree") == 1
    assert shown.words.count("Derivation and table") == verification.MOST_SENTENCES
    assert "… and 5 more, in the tables" in shown.words
    assert "not a number" in shown.words


def test_a_report_without_anything_is_no_pass(page):
    shown = page(Report())
    assert "Not passed. Nothing was compared." in shown.words
    assert "every comparison passes" not in shown.words
    assert "None were planted" in shown.words


def test_a_report_that_passes(page):
    shown = page(Report((verdict(),), mutants=1234, seconds=0.25))
    assert "Passed. 1 comparisons agree; of 1,234 planted errors 1,234 were found." in shown.words
    assert "Not passed" not in shown.words
    assert "1,234 planted, 1,234 found, 0 listed as equivalent" in shown.words
    assert "0.2 seconds" in shown.words


def test_planted_errors_that_nobody_explains_come_first_and_spoil_the_verdict(page):
    survivors = (Survivor("dense", "x doubled", "equal for this shape"), Survivor("elsewhere", "sign dropped"))
    shown = page(Report((verdict(),), 10, survivors))
    assert "Not passed. elsewhere: a planted error was not found" in shown.words
    table = shown.words[shown.words.index("why it changes nothing") :]
    assert table.index("sign dropped") < table.index("x doubled")
    assert "1 planted error was not found, and the reason is not known" in shown.words
    assert shown.words.count("not explained") == 1
    assert "equal for this shape" in shown.words
    assert "10 planted, 8 found, 1 listed as equivalent" in shown.words


def test_what_was_left_out_is_named_by_reason(page):
    shown = page(Report((verdict(),), skipped=(("argmax", "whole numbers"), ("one_hot", "whole numbers"), ("a", "b"))))
    assert "argmax, one_hot" in shown.words
    assert shown.words.count("whole numbers") == 1


def test_where_automatic_differentiation_is_wrong_the_worst_of_each_formula_is_shown(page):
    wrong = [
        verdict("relu", regime=f"regime{number}", automatic_error=error, note="x = 0.123456789012")
        for number, error in enumerate((1.0, 33.0, 2.0))
    ]
    shown = page(Report((*wrong, verdict("tanh", automatic_error=77.0, error=2e-14))))
    table = shown.words[
        shown.words.index("Where automatic differentiation is wrong") : shown.words.index("Planted errors")
    ]
    assert table.index("77") < table.index("33") < table.index("All 4")
    short, full = table.split("All 4")
    assert "regime1" in short
    assert "regime2" not in short
    assert "regime2" in full
    assert "x = 0.123456789" in short
    assert "0.123456789012" not in short


def test_hostile_names_are_text(page):
    report = Report(
        (
            Verdict(HOSTILE, HOSTILE, "fail", 1.0, 0.1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, note=HOSTILE),
            verdict(HOSTILE + "2", HOSTILE, automatic_error=1.0, note=HOSTILE),
            *[verdict(HOSTILE, HOSTILE, kind=HOSTILE)] * 20,
        ),
        3,
        (Survivor(HOSTILE, HOSTILE, HOSTILE),),
        ((HOSTILE, HOSTILE),),
    )
    shown = page(report, HOSTILE)
    assert "script" not in shown.tags
    assert "<script" not in shown.text
    assert shown.words.count("alert('1')") > 20
    assert HOSTILE in shown.words


def test_the_page_loads_nothing(page):
    every = Report(tuple(verdict(name) for name in derivations()))
    shown = page(every)
    assert not shown.loaded
    assert not {"script", "link", "iframe", "object", "img"} & {*shown.tags}
    assert all(link.startswith("#") for link in shown.links)
    assert not re.search(r"https?:|url\((?!#)|@import", shown.text)


def test_every_derivation_can_be_typeset(page):
    for name, markdown in derivations().items():
        html = typeset(markdown, {}.get)
        assert "<math" in html, name
        assert not re.search(r"\$|[\ue000\ue001]|\*\*", re.sub(r"<code.*?</code>", "", html, flags=re.DOTALL)), name
        Page(html)


def test_every_subject_has_a_section_and_a_shared_derivation_is_shown_once(page):
    names = ["conv_strided", "conv", "conv_transpose_strided", "my_own", "dense"]
    shown = page(Report(tuple(verdict(name) for name in names)))
    assert shown.tags.count("section") == 4 + len(names)
    assert shown.text.count('class="derivation"') == 3
    assert re.search(r'conv <small.*?shown at <a href="#conv_strided">conv_strided</a>', shown.text, re.DOTALL)


def test_links_lead_to_sections_by_name(page):
    names = ["lstm", "relu in ULP", "planted", "optimizers", "<>"]
    shown = page(Report(tuple(verdict(name) for name in names)))
    assert {"lstm", "relu-in-ULP", "planted", "planted-2", "optimizers", "formula"} <= {*shown.identifiers}
    assert "#relu-in-ULP" in shown.links


def test_links_of_a_derivation_stay_on_the_page():
    anchors = {"softmax": "softmax"}.get
    assert typeset("[step 2](activations.md#softmax)", anchors) == '<p><a href="#softmax">step 2</a></p>\n'
    assert typeset("[a $x$](losses.md#how)", anchors).startswith("<p>a <math")
    assert typeset("[page](index.md)", anchors) == "<p>page</p>\n"


def test_markdown_and_formulas_do_not_meet():
    assert typeset("`$x$` <b>", {}.get) == "<p><code>$x$</code> &lt;b&gt;</p>\n"
    html = typeset("*a* $x_1 * y_2 * z_3$ **b**", {}.get)
    assert html.count("<em>") == html.count("<math") == html.count("<strong>") == 1
    assert typeset("1. a\n\n$$x$$\n\n2. b", {}.get).count("<ol") == 2
    assert '<ol start="2">' in typeset("1. a\n\n$$x$$\n\n2. b", {}.get)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (r"f'(x)", '<mi>f</mi><mtext class="prime">'),
        (r"\tanh x", 'rspace="0.16em">tanh<'),
        (r"\tanh(x)", 'rspace="0">tanh<'),
        (r"(-x)", '<mo form="prefix"'),
        (r"\lvert x \rvert - 1", "<mo>&#x02212;</mo>"),
        (r"(x) - 1", "<mo>&#x02212;</mo>"),
    ],
)
def test_spacing_of_formulas(formula, expected):
    assert expected in typeset(f"${formula}$", {}.get)


def test_many_comparisons_are_grouped_by_the_worst(page):
    many = [verdict(transform=f"t{number}", error=number * 1e-16) for number in range(20)]
    one = verdict(leaf="bias", outcome="fail", automatic_error=None)
    shown = page(Report((*many, one)))
    section = shown.words[shown.words.index("21 comparisons") :]
    grouped, full = section.split("All 21 comparisons")
    assert "t19" in grouped
    assert "t18" not in grouped
    assert "t18" in full
    table = grouped[grouped.index("worst error") :]
    assert table.index("bias") < table.index("weight")
    assert re.search(r"✗ fail\s+dense", shown.words)


@pytest.mark.parametrize("missing", ["jinja2", "latex2mathml", "markdown_it"])
def test_missing_libraries_are_named(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{missing} to be installed.*pip install 'functional-nn\[plots\]'"):
        write_page(Report(), tmp_path / "page.html", title="t")
    assert not [*tmp_path.iterdir()]
