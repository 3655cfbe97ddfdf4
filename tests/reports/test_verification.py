"""The page on all formulas: what comes first, what it says of odd reports, and that it needs no other file."""

import re
from html.parser import HTMLParser

import pytest

from functional_nn.gradients.compare.report import Report, Survivor, Verdict
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


def test_a_report_without_anything_is_no_pass(page):
    shown = page(Report())
    assert "Not passed. Nothing was compared." in shown.words
    assert "every comparison passes" not in shown.words
    assert "None were planted" in shown.words


def test_planted_errors_that_change_the_result_come_first_and_spoil_the_verdict(page):
    survivors = (Survivor("dense", "x doubled", "y = x + x"), Survivor("elsewhere", "sign dropped", changes=True))
    shown = page(Report((verdict(),), 10, survivors))
    assert "Not passed. elsewhere: a planted error was not found" in shown.words
    table = shown.words[shown.words.index("the line") :]
    assert table.index("sign dropped") < table.index("x doubled") < table.index("y = x + x")
    assert "1 planted error was not found, although the result changes" in shown.words
    assert "10 planted, 8 found, 1 not told apart" in shown.words


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
