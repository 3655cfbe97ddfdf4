"""Everything public: the names of the top level and of the public namespaces."""

import types

import functional_nn as fnn

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


def _is_defined_in(module: types.ModuleType, name: str, value: object) -> bool:
    """Whether a module's name is its own: a function or class that it defines, or a constant or instance of these."""
    if isinstance(value, types.ModuleType):
        return False
    if isinstance(value, type) or (callable(value) and hasattr(value, "__module__")):
        return value.__module__ == module.__name__
    return name.isupper()
