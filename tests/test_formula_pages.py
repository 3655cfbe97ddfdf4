"""The derivations under docs/formulas: everything public with a formula has one, and every formula can be typeset."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from latex2mathml.converter import convert
from tests.contracts.public_names import public_names

import functional_nn as fnn

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "formulas"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
FORMULA = re.compile(r"\$\$(?P<shown>[^$]+)\$\$|\$(?P<within>[^$\n]+)\$")
MAKERS = ("functional_nn.activations", "functional_nn.losses", "functional_nn.layers")


def has_a_derivation(name: str, value: object) -> bool:
    if isinstance(value, type) or name == "activation":  # finds an activation by its name
        return False
    if isinstance(value, fnn.Activation | fnn.activations.VectorActivation | fnn.Loss):
        return True
    return callable(value) and value.__module__.startswith((*MAKERS, "functional_nn.models.blocks"))


PUBLIC = [
    name for full_name, value in public_names().items() if has_a_derivation(name := full_name.rpartition(".")[2], value)
]
SECTIONS = {(page, title): body for page, text in PAGES.items() for title, body in
            re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)}  # fmt: skip


def formulas(text: str) -> list[str]:
    return [match["shown"] or match["within"] for match in FORMULA.finditer(CODE.sub("", text))]


def unconverted(formula: str) -> str:
    """What is left of a formula's commands in its MathML, or what is wrong with it."""
    if formula.count("{") != formula.count("}"):
        return "braces"
    try:
        root = ElementTree.fromstring(convert(formula))
    except Exception as error:
        return repr(error)
    return " ".join(text for text in root.itertext() if "\\" in text or "&" in text)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_one_section_with_steps_and_a_formula(name):
    bodies = [body for (_, title), body in SECTIONS.items() if title == f"`{name}`"]
    assert len(bodies) == 1, f"{len(bodies)} sections in docs/formulas with the title `{name}`"
    (body,) = bodies
    assert re.search(r"^1\. ", body, re.MULTILINE), "no numbered steps"
    assert formulas(body)


def test_sections_are_of_public_names():
    names = {title.strip("`") for _, title in SECTIONS if title.startswith("`")}
    assert names == {*PUBLIC}


@pytest.mark.parametrize("page", PAGES)
def test_formulas_become_mathml(page):
    text = CODE.sub("", PAGES[page])
    assert "$" not in FORMULA.sub("", text), "a dollar without its partner"
    assert not {formula: left for formula in formulas(text) if (left := unconverted(formula))}


@pytest.mark.parametrize("formula", [r"\clip(x)", r"\frac{a", r"a &= b"])
def test_what_cannot_be_typeset_is_found(formula):
    assert unconverted(formula)
