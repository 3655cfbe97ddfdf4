"""The rules of the structure: imports point downward, formulas are by hand, everything public is documented."""

import ast
import builtins
import difflib
import doctest
import re
import runpy
import symtable
from pathlib import Path

import pytest
from tests.contracts.public_names import KEPT, described, public_names

import functional_nn as fnn

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "functional_nn"
FILES = sorted(path for path in SOURCE.rglob("*.py"))

LEVELS = [
    {"core", "names"},
    {"storage", "data", "jaxprs", "activations"},
    {"losses", "layers", "metrics"},
    {"models"},
    {"training", "gradients"},
    {"configuration"},
    {"sweeps"},
    {"bench", "exchange"},  # bench measures what sweeps run
    {"reports"},
    {"cli"},
]
BY_PUBLIC_NAMES = ("gradients/cases.py", "gradients/verify.py")
"""What tries everything public says ``fnn.conv``, as a user does."""
SIDE_BY_SIDE = {("training", "gradients"), ("gradients", "training")}
FORMULAS = [
    path.relative_to(SOURCE).as_posix()
    for area in ("activations", "losses", "layers")
    for path in sorted((SOURCE / area).rglob("*.py"))
    # sliding_windows has the rule by which JAX derives a maximum. In compose, what stands between layers is JAX's.
    if path.name not in ("hand_vjp.py", "sliding_windows.py", "compose.py")
]


def area(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path):
    """The modules of this package that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("functional_nn"):
            if node.module == "functional_nn":
                yield from (f"functional_nn.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import) and not path.relative_to(SOURCE).as_posix().startswith(BY_PUBLIC_NAMES):
            yield from (alias.name for alias in node.names if alias.name.startswith("functional_nn"))


def level(name: str) -> int:
    (found,) = (number for number, names in enumerate(LEVELS) if name in names)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path):
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        return
    for module in imports(path):
        other = area(module)
        assert level(other) <= level(own), f"{own} imports {module}, which stands above it"
        assert (own, other) not in SIDE_BY_SIDE


def test_there_are_no_import_circles():
    graph = {}
    for path in FILES:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(("functional_nn", *(part for part in parts if part != "__init__")))
        graph[name] = {module for module in imports(path) if module != name}
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, f"circle: {' -> '.join([*under_way, name])}"
        if name in done:
            return
        under_way.append(name)
        for other in graph.get(name, ()):
            visit(other)
        done.add(under_way.pop())

    for name in graph:
        visit(name)


@pytest.mark.parametrize("file", FORMULAS)
def test_formulas_are_by_hand(file):
    """No automatic differentiation where derivatives are written, and none of them is registered as the derivative."""
    text = (SOURCE / file).read_text("utf-8")
    code = ast.dump(ast.parse(text))
    for name in ("grad", "value_and_grad", "vjp", "jvp", "linearize", "jacfwd", "jacrev", "hessian"):
        assert f"attr='{name}'" not in code, name
    assert "custom_vjp" not in text
    # Derivatives have hand-derived derivatives of their own, so that second derivatives keep their digits.
    assert ("custom_jvp" in text) == (file == "activations/accurate_derivatives.py")


def test_public_names_and_their_arguments_change_on_purpose():
    kept = KEPT.read_text("utf-8").splitlines()
    changes = [line for line in difflib.ndiff(kept, described()) if line[0] in "+-"]
    remedy = "If they are meant, run python -m tests.contracts.public_names, and tell users in CHANGELOG.md."
    assert not changes, "\n".join(["Public names changed:", *changes, remedy])


def test_everything_public_has_a_docstring():
    for name, value in public_names().items():
        if callable(value) or isinstance(value, type):
            assert getattr(value, "__doc__", None), f"{name} has no docstring"


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """The names that a program takes from elsewhere, or from its own top level in functions."""
    own = {one.get_name() for one in table.get_symbols() if one.is_global() and one.is_referenced()}
    return own.union(*map(globals_of, table.get_children()))


def test_examples_in_docstrings_run_in_an_empty_interpreter():
    """They take no name from their module, in which they are tested: only what they import or make."""
    for public, value in public_names().items():
        members = vars(value) if isinstance(value, type) else {}
        parts = {public: value} | {f"{public}.{name}": part for name, part in members.items() if name[0] != "_"}
        for name, part in parts.items():
            text = getattr(part, "__doc__", None) or ""
            examples = [] if text == type(part).__doc__ else doctest.DocTestParser().get_examples(text)
            table = symtable.symtable("".join(one.source for one in examples), name, "exec")
            made = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
            assert not globals_of(table) - made - vars(builtins).keys(), f"{name}: its example uses names of its module"


def test_every_public_name_is_described_once_from_its_docstring():
    listed = runpy.run_path(str(ROOT / "docs" / "_extensions" / "listed_names.py"))["listed"]
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "reference" / "api").glob("*.rst")]
    described = [
        name for page in pages for name in listed("\n".join(re.findall(r"^   ([\w.:]+)$", page, re.MULTILINE)))
    ]
    assert len(described) == len(set(described))
    trees = {f"trees.{name}" for name in dir(fnn.trees) if f"trees.{name}" in described}
    public = sorted({*public_names()} | trees)
    assert not set(public) - set(described), "these are missing in docs/reference/api/*.rst"
    assert sorted(described) == public


def test_every_activation_shows_its_formula():
    for activation in fnn.activations.ACTIVATIONS.values():
        assert activation.formula, activation.name
