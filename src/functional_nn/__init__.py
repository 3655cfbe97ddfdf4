"""A JAX functional neural network toolkit.

The public names are listed, with their modules, in ``__init__.pyi`` beside this file, and imported when first used, so
that ``import functional_nn`` and the command line's ``--help`` do not wait for JAX.
"""

import importlib
import importlib.util

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_NAMESPACES = (
    "activations",
    "bench",
    "data",
    "exchange",
    "gradients",
    "losses",
    "models",
    "storage",
    "sweeps",
    "training",
)


def __getattr__(name: str):
    # Python and its tools ask for many names that begin with "_"; these need no suggestion.
    if name in __all__ or name.startswith("_"):
        return _load(name)
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    from functional_nn.core.texts import missing_name

    namespaces = {namespace: importlib.import_module(f"{__name__}.{namespace}").__all__ for namespace in _NAMESPACES}
    raise missing_name(name, __all__, namespaces)
