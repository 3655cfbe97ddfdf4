"""Everything public: the names of the top level and of the public namespaces, with their arguments.

``python -m tests.contracts.public_names`` writes them, and the flags of the command, to ``public_names.txt``.
"""

import inspect
import types
from pathlib import Path

import click

import functional_nn as fnn
from functional_nn.cli import command

NAMESPACES = {
    name: value for name in fnn.__all__ if isinstance(value := getattr(fnn, name), types.ModuleType) and name != "trees"
} | {"training.callbacks": fnn.training.callbacks}


def in_namespace(name: str) -> dict[str, object]:
    """The public values of a namespace by their names."""
    module = NAMESPACES[name]
    if hasattr(module, "__path__"):
        values = {public: getattr(module, public) for public in module.__all__}
        return {public: value for public, value in values.items() if not isinstance(value, types.ModuleType)}
    own = {public: value for public, value in vars(module).items() if not public.startswith("_")}
    return {public: value for public, value in own.items() if _is_defined_in(module, public, value)}


def public_names() -> dict[str, object]:
    """Every public value by its full name, such as ``dense`` and ``training.make_epoch``."""
    top = {name: getattr(fnn, name) for name in fnn.__all__ if name not in NAMESPACES}
    inner = {f"{space}.{name}": value for space in NAMESPACES for name, value in in_namespace(space).items()}
    return top | inner


KEPT = Path(__file__).with_suffix(".txt")


def described() -> list[str]:
    """A line for each public name, method and property with its arguments, and for each flag of the command."""
    lines = []
    for name, value in sorted(public_names().items()):
        lines.append(name + _arguments(value))
        members = vars(value).items() if isinstance(value, type) else ()
        for member, inner in members:
            if member[0] != "_" and isinstance(inner, types.FunctionType | classmethod | property):
                lines.append(f"{name}.{member}{_arguments(getattr(value, member))}")
    with click.Context(command) as context:
        for name in command.list_commands(context):
            for option in command.get_command(context, name).params:
                lines.append(f"functional-nn {name} {' '.join([*option.opts, *option.secondary_opts])}")
    return lines


def _arguments(value: object) -> str:
    """The arguments of a function or class, without types. Of an exception users need the name only."""
    if not callable(value) or (isinstance(value, type) and issubclass(value, BaseException)):
        return ""
    parameters = []
    for one in inspect.signature(value).parameters.values():
        parameters.append(one.replace(annotation=one.empty))
    return str(inspect.Signature(parameters))


def _is_defined_in(module: types.ModuleType, name: str, value: object) -> bool:
    """Whether a module's name is its own: a function or class that it defines, or a constant or instance of these."""
    if isinstance(value, types.ModuleType):
        return False
    if isinstance(value, type) or (callable(value) and hasattr(value, "__module__")):
        return value.__module__ == module.__name__
    return name.isupper()


if __name__ == "__main__":
    KEPT.write_text("\n".join(described()) + "\n", "utf-8")
