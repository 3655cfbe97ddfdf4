"""The list of planted errors that change nothing names functions that exist."""

import ast
import itertools
import re
from pathlib import Path

import pytest

import functional_nn
from functional_nn.gradients.mutation.planting import EQUIVALENT

NOT_A_FUNCTION = r"\?"  # an equation that JAX gives no line of code for


def functions_in(node, outer=""):
    """Every function below the node, named as Python names it: ``conv.<locals>.backward``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions_in(child, f"{outer}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.Lambda):
            name = outer + getattr(child, "name", "<lambda>")
            yield name
            yield from functions_in(child, f"{name}.<locals>.")
        else:
            yield from functions_in(child, outer)


def alternatives(pattern):
    """The pattern once for each choice that its groups give: ``(a|b)c`` becomes ``ac`` and ``bc``."""
    parts = re.split(r"(?<!\\)\(([^()]*\|[^()]*)(?<!\\)\)", pattern)
    choices = [part.split("|") if odd % 2 else [part] for odd, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@pytest.fixture(scope="module")
def places():
    root = Path(functional_nn.__file__).parent
    return [
        f"{path.name} ({name})" for path in root.rglob("*.py") for name in functions_in(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize(
    "pattern",
    sorted(
        {one for known in EQUIVALENT.values() for _, place, _ in known for one in alternatives(place)}
        - {NOT_A_FUNCTION}
    ),
)
def test_each_place_is_a_function_that_exists(pattern, places):
    # Without this, a function that is renamed would let verify --full fail minutes later, and nothing else.
    assert any(re.fullmatch(pattern, place) for place in places), f"no function fits {pattern}"
