"""The public names of a module, from the stubs ``__init__.pyi`` that list them. Pages and a test of them read this."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import functional_nn as fnn

SOURCE = Path(fnn.__file__).parent


def names_from(module: str) -> list[str]:
    """The public names of a module such as ``activations.smooth``, in the order of their stubs."""
    space, _, inner = module.partition(".")
    if not inner:
        # A namespace that is one file, such as metrics, has no stub. Its public names are what it defines.
        found = importlib.import_module(f"functional_nn.{module}")
        return [f"{module}.{name}" for name, value in vars(found).items() if _is_own(found.__name__, name, value)]
    return [*_imported(SOURCE, module), *(f"{space}.{name}" for name in _imported(SOURCE / space, inner))]


def _imported(package: Path, module: str) -> list[str]:
    tree = ast.parse((package / "__init__.pyi").read_text("utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == module)
    return [alias.name for node in found for alias in node.names]


def _is_own(module: str, name: str, value: object) -> bool:
    is_defined_here = callable(value) and getattr(value, "__module__", None) == module
    return not name.startswith("_") and (is_defined_here or name.isupper())


def listed(text: str) -> list[str]:
    """The names that a list names, one by one or as ``from:activations.smooth``."""
    words = text.split()
    return [name for word in words for name in (names_from(word.removeprefix("from:")) if ":" in word else [word])]
