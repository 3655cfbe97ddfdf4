"""The directive ``public-names``: the descriptions of public names, from their docstrings.

``.. public-names:: dense training.make_epoch`` describes ``fnn.dense`` and ``fnn.training.make_epoch``, and
``from:activations.smooth`` all public names of that module. A name is linked to its derivation in ``formulas``.

The directive ``settings`` makes the table of the settings of a run.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from docutils import nodes
from listed_names import listed
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

import functional_nn as fnn
from functional_nn.configuration.flag_types import Named
from functional_nn.configuration.settings import DEFAULTS, SETTINGS, flag_of

TEXT_SECTIONS = ("Math", "Shapes", "Gradient", "At kinks", "At ties")
"""Sections of docstrings that hold sentences and formulas, not arguments."""
MARKUP = re.compile(r"(``.*?``)|([*|\\]|(?<=\w)_(?!\w))")
"""Code, which stays as it is, or characters that reStructuredText takes for markup."""
INDENT = "   "


class PublicNames(SphinxDirective):
    """Descriptions of the public names that are given as arguments."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for name in listed(" ".join(self.content)):
            value = functools.reduce(getattr, name.split("."), fnn)
            lines += [*described(name, value, self), ""]
        return self.parse_text_to_nodes("\n".join(lines))


class Settings(SphinxDirective):
    """A table of all settings of a run, from the table that makes their flags."""

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", "", "   * - flag", "     - what", "     - default"]
        lines += ["     - in a sweep", "     - with ``--resume``"]
        for name, one in SETTINGS.items():
            choices = f" One of: {', '.join(one.kind.choices)}." if isinstance(one.kind, Named) else ""
            swept = {"flag": "several values", "file": "in a grid file", "no": "one value"}[one.swept]
            cells = [
                f"``{flag_of(name)}``",
                escaped(one.help + choices),
                escaped(one.unset) if DEFAULTS[name] is None else f"``{DEFAULTS[name]}``",
                "no such flag" if one.alone else swept,
                "may change" if one.may_change else "",
            ]
            lines += [f"   {'*' if cell is cells[0] else ' '} - {cell}" for cell in cells]
        return self.parse_text_to_nodes("\n".join(lines))


def described(name: str, value: object, directive: SphinxDirective) -> list[str]:
    """A public name as reStructuredText: its signature, its docstring, and the methods of a class."""
    if inspect.isclass(value):
        kind, call = "class", signature(value)
    elif inspect.isroutine(value):
        kind, call = "function", signature(value)
    else:
        kind, call = "data", ""
    text = docstring(name, value, directive)
    members: list[str] = []
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if not member.startswith("_") and (inspect.isroutine(method) or isinstance(method, property)):
                function = method.fget if isinstance(method, property) else getattr(value, member)
                if inspect.getdoc(function):
                    kind_of = "property" if isinstance(method, property) else "method"
                    arguments = "" if kind_of == "property" else signature(function)
                    members += [f".. py:{kind_of}:: {member}{arguments}", ""]
                    members += [*indented(docstring("", function, directive)), ""]
    return [f".. py:{kind}:: functional_nn.{name}{call}", "", *indented([*text, "", *members])]


def signature(value: object) -> str:
    """The arguments with their defaults, without types, which the text describes."""
    try:
        found = inspect.signature(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return "()"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_short(parameter.default))
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _Text:
    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _short(default: object) -> object:
    """A default as one would write it. Functions are shown by their names, without addresses."""
    if default is inspect.Parameter.empty:
        return default
    text = getattr(default, "__name__", None) or repr(default)
    return _Text("…" if " at 0x" in text or len(text) > 40 else text)


def docstring(name: str, value: object, directive: SphinxDirective) -> list[str]:
    """The docstring as reStructuredText."""
    text = inspect.getdoc(value) or ""
    if not inspect.isclass(value) and not inspect.isroutine(value) and type(value).__doc__ == value.__doc__:
        text = ""  # a constant such as a dictionary has only the docstring of its type
    if not text:
        return [f"``{_constant(value)}``"]
    page = derivation(name, Path(directive.env.srcdir))
    blocks: list[str] = []
    section = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"(\w[\w ]*):", line)
        if heading:
            section = heading[1]
            if section in TEXT_SECTIONS:
                blocks += [f".. rubric:: {section}", ""]
            else:
                blocks.append(line)
        elif section in TEXT_SECTIONS and (not line or line.startswith(" ")):
            blocks.append("| " + escaped(line.strip()) if line.strip() else "")
        else:
            if line and not line.startswith(" "):
                section = ""
            blocks.append(line if line.lstrip().startswith((">>>", "...", "*")) else escaped(line))
    if page:
        where = "../" * directive.env.docname.count("/") + f"formulas/{page}.html#{name.rpartition('.')[2].lower()}"
        blocks += ["", f"`Every step of the derivation <{where}>`__"]
    return GoogleDocstring(blocks, directive.config, what="function", name=name).lines()


def _constant(value: object) -> str:
    return textwrap.shorten(", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value), 300)


def derivation(name: str, docs: Path) -> str:
    """The page that derives the gradient of a name; empty if there is none."""
    space, _, title = name.rpartition(".")
    if space == "trees":  # trees.flatten is not the layer flatten
        return ""
    for page in sorted((docs / "formulas").glob("*.md")):
        if f"\n## `{title}`\n" in page.read_text("utf-8"):
            return page.stem
    return ""


def escaped(line: str) -> str:
    """A line with its own meaning in reStructuredText taken away from ``*``, ``|``, ``\\`` and a last ``_``."""
    return MARKUP.sub(lambda match: match[1] or f"\\{match[2]}", line)


def indented(lines: list[str]) -> list[str]:
    return [INDENT + line if line else line for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
