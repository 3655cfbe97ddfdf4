"""The Chinese pages are in step with the English ones: the same headings, code, formulas, links and table of speed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "docs" / "zh").glob("[0-9][0-9]_*.md"))
PAGES = [ROOT / "README.zh-CN.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
LEVELS = re.compile(r"^(#+) ", re.MULTILINE)
CODE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"^\$\$.*?\$\$$", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]+`")
INLINE_FORMULA = re.compile(r"(?<!\$)\$[^$\n]+\$(?!\$)")
WORDS = re.compile(r"\\text\{[^{}]*\}")
"""The words inside a formula, which are translated."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
CHINESE = r"[\u4e00-\u9fff]"
TABLE = "speed: made by python -m benchmarks"


def english(page: Path) -> Path:
    return ROOT / "README.md" if page.name.startswith("README") else ROOT / "docs" / "tutorial" / page.name


def front_matter(text: str) -> str:
    found = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    return found[0] if found else ""


def prose(text: str) -> str:
    """The page without front matter, comments, code, formulas, and the tables that a program writes in English."""
    text = text.removeprefix(front_matter(text))
    text = re.sub(rf"<!-- {TABLE} -->.*?<!-- end of speed -->", "", text, flags=re.DOTALL)
    for pattern in (CODE, FORMULA):
        text = pattern.sub("", text)
    for pattern in (INLINE_CODE, INLINE_FORMULA):
        text = pattern.sub("0", text)
    return LINK.sub("]", text)


def formulas(text: str) -> list[str]:
    return [WORDS.sub("", formula) for formula in FORMULA.findall(CODE.sub("", text))]


def targets(text: str) -> list[str]:
    """The files that a page links to, without folders: a chapter links to the chapter of its own language."""
    return sorted(
        target.partition("#")[0].rstrip("/").rpartition("/")[2] for target in LINK.findall(CODE.sub("", text))
    )


def not_translated(text: str) -> list[str]:
    """The long paragraphs with few Chinese characters, and those with eight English words in a row."""
    found = []
    for paragraph in re.split(r"\n(?:[ \t]*\n)+|\n(?=[-\d|] ?)", prose(text)):
        chinese = len(re.findall(CHINESE, paragraph))
        latin = len(re.findall(r"[A-Za-z]", paragraph))
        sentence = re.search(r"(?:[A-Za-z'-]+[ ,;:\n]+){7}[A-Za-z]", paragraph)
        if sentence or (len(paragraph) > 80 and 3 * chinese < latin):
            found.append(paragraph)
    return found


def test_there_are_chinese_chapters_up_to_mnist():
    assert [page.name[:2] for page in CHAPTERS] == [f"{number:02}" for number in range(1, 9)]


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_has_what_the_english_one_has(page):
    ours, theirs = page.read_text("utf-8"), english(page).read_text("utf-8")
    assert front_matter(ours) == front_matter(theirs) != ""
    assert CODE.findall(ours) == CODE.findall(theirs)
    assert LEVELS.findall(CODE.sub("", ours)) == LEVELS.findall(CODE.sub("", theirs))
    assert formulas(ours) == formulas(theirs)
    assert re.findall(r"^:::\{\w+\}", ours, re.MULTILINE) == re.findall(r"^:::\{\w+\}", theirs, re.MULTILINE)
    assert targets(ours) == targets(theirs)


def test_the_readme_has_what_the_english_one_has():
    page = ROOT / "README.zh-CN.md"
    ours, theirs = page.read_text("utf-8"), english(page).read_text("utf-8")
    assert CODE.findall(ours) == CODE.findall(theirs)
    assert LEVELS.findall(CODE.sub("", ours)) == LEVELS.findall(CODE.sub("", theirs))
    missing = {*targets(theirs)} - {*targets(ours)} - {page.name}
    assert not missing
    tables = [re.search(rf"<!-- {TABLE} -->.*?<!-- end of speed -->", text, re.DOTALL) for text in (ours, theirs)]
    assert tables[0] is not None
    assert tables[1] is not None
    assert tables[0][0] == tables[1][0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_paragraph_stayed_english(page):
    assert not_translated(page.read_text("utf-8")) == []


def test_an_english_paragraph_is_found():
    sentence = "The neuron computes a weighted sum of its inputs, adds the bias, and applies an activation function."
    assert not_translated(f"神经元先求加权和。\n\n{sentence}\n\n再加上偏置。") == [sentence]
    assert len(not_translated(f"神经元先求加权和。{sentence}再加上偏置。")) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_chinese_text_has_chinese_punctuation_and_no_gaps(page):
    """A line break between two Chinese characters would be shown as a space."""
    text = prose(page.read_text("utf-8"))
    wrong = re.findall(rf".{{,9}}{CHINESE}\**[,;:?!(].{{,9}}|.{{,9}}(?:[,;:?!] ?|[)]){CHINESE}.{{,9}}", text)
    gaps = re.findall(rf".{CHINESE}\n{CHINESE}.|{CHINESE} +{CHINESE}", text)
    assert (wrong, gaps) == ([], [])
