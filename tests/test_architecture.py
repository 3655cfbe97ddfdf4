"""The rules of the structure: imports point downward, formulas are by hand, everything public is documented."""

import ast
import fnmatch
import re
import types
from pathlib import Path

import pytest
from tests.contracts.public_names import public_names

import functional_nn as fnn

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "functional_nn"
FILES = sorted(path for path in SOURCE.rglob("*.py"))

LEVELS = [
    {"core"},
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
BY_PUBLIC_NAMES = ("gradients/cases/", "gradients/coverage.py")
"""What tries everything public says ``fnn.conv``, as a user does."""
SIDE_BY_SIDE = {("training", "gradients"), ("gradients", "training")}
AT_THE_ROOT = {"__init__.py", "__init__.pyi", "__main__.py", "metrics.py", "py.typed"}
IN_THE_REPOSITORY = {
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "README.zh-CN.md",
    "benchmarks",
    "docs",
    "examples",
    "pyproject.toml",
    "scripts",
    "src",
    "tests",
}
"""The files and folders at the repository's root, besides those that .gitignore ignores."""
FORMULAS = [
    path.relative_to(SOURCE).as_posix()
    for area in ("activations", "losses", "layers")
    for path in sorted((SOURCE / area).rglob("*.py"))
    if path.name not in ("hand_vjp.py", "sliding_windows.py")  # the latter has the rule by which JAX derives a maximum
] + ["jaxprs/backward_rules.py", "jaxprs/tape.py"]


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


def test_nothing_is_loose_in_the_package():
    assert {path.name for path in SOURCE.iterdir() if path.is_file()} == AT_THE_ROOT


def ignored(path: Path) -> bool:
    """Whether .gitignore has a pattern for a file or folder at the root."""
    for pattern in (ROOT / ".gitignore").read_text("utf-8").split():
        matches = fnmatch.fnmatchcase(path.name, pattern.rstrip("/"))
        if matches and (path.is_dir() or not pattern.endswith("/")):
            return True
    return False


@pytest.mark.skipif(not (ROOT / ".gitignore").exists(), reason="a source distribution has other files")
def test_nothing_is_loose_in_the_repository():
    assert {path.name for path in ROOT.iterdir() if not ignored(path)} <= IN_THE_REPOSITORY


def test_layer_files_know_no_other_family_of_layers():
    """A layer imports what stands beside it in its own folder, and initializers; nothing of another layer's."""
    for path in (SOURCE / "layers").rglob("*.py"):
        family = ".".join(("functional_nn", *path.parent.relative_to(SOURCE).parts))
        for module in imports(path):
            own = family != "functional_nn.layers" and module.startswith(family)
            assert not module.startswith("functional_nn.layers") or own or module.endswith(".initializers"), path


def test_everything_public_is_there_documented_and_in_the_reference():
    reference = (ROOT / "docs" / "reference" / "index.md").read_text("utf-8")
    for name, value in public_names().items():
        assert re.search(rf"`{re.escape(name)}[`(]", reference), f"{name} is missing in docs/reference/index.md"
        if callable(value) or isinstance(value, type):
            assert getattr(value, "__doc__", None), f"{name} has no docstring"


def test_every_public_name_is_described_once_from_its_docstring():
    pages = (ROOT / "docs" / "reference" / "api").glob("*.rst")
    described = [name for page in pages for name in re.findall(r"^   ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)]
    trees = {f"trees.{name}" for name in dir(fnn.trees) if f"trees.{name}" in described}
    public = sorted({*public_names()} | trees)
    assert not set(public) - set(described), "these are missing in docs/reference/api/*.rst"
    assert sorted(described) == public


def test_the_top_level_is_small():
    values = [name for name in fnn.__all__ if not isinstance(getattr(fnn, name), types.ModuleType)]
    assert len(values) < 100


def test_every_activation_shows_its_formula():
    for activation in fnn.activations.ACTIVATIONS.values():
        assert activation.formula, activation.name


def test_no_path_of_a_machine_is_named():
    here = [re.escape(f"{place}/") for place in (ROOT.parent, Path.home()) if place != Path(place.root)]
    paths = "|".join([*here, r"/home/\w+/"])
    for path in [*FILES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        assert not re.search(rf"(?<!\w)(?:{paths})", path.read_text("utf-8")), path
