"""The documents: their links lead somewhere, and the public names that they mention exist."""

import functools
import re
import tomllib
from pathlib import Path

import pytest

import functional_nn as fnn

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
EXAMPLE = "feature_scale"
"""The layer that docs/how_to/adding_a_layer.md adds, whose file and links do not exist."""
BLOCKS = re.compile(r"^```.*?^```|^    .*?$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return BLOCKS.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://") or EXAMPLE in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_version_to_cite_is_that_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_package_exist(page):
    for name in re.findall(r"`fnn\.([\w.]+)", prose(page)):
        if EXAMPLE not in name:
            functools.reduce(getattr, name.split("."), fnn)
