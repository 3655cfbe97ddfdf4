"""The sizes with which a layer was made, such as ``out_size``, found in the closures of its functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType

from functional_nn.core.layer import Layer

NAMES = ("count", "out_size", "hidden_size", "heads", "groups", "window", "shape", "rate", "max_time")
"""The arguments of layers that are shown, in this order."""
DEEPEST = 4
"""How many functions inside functions are searched."""


def layer_sizes(layer: Layer) -> dict[str, object]:
    """The sizes of a layer by name: a layer is three functions, and what it was made with is what they close over.

    A name is left out if the functions do not keep it, so this is for people to read, and for nothing else. ``summary``
    has the exact shapes.

    >>> import functional_nn as fnn
    >>> layer_sizes(fnn.dense(128)), layer_sizes(fnn.dropout(0.2))
    ({'out_size': 128}, {'rate': 0.2})
    """
    found: dict[str, object] = {}
    for function in (layer.init, layer.forward):
        for name, value in _kept(function, DEEPEST):
            if name in NAMES and _is_size(value):
                found.setdefault(name, value)
    if found.get("groups") == 1:
        del found["groups"]
    return {name: found[name] for name in NAMES if name in found}


def _kept(value: object, levels: int) -> Iterator[tuple[str, object]]:
    """The names and values that a function keeps, and those of the functions and named tuples among them."""
    if isinstance(value, Layer) or not levels:
        return
    if isinstance(value, FunctionType):
        names = dict(inspect.getclosurevars(value).nonlocals)
    elif isinstance(value, functools.partial):
        names = {"": value.func, **value.keywords}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        names = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        return
    yield from names.items()
    for inner in names.values():
        yield from _kept(inner, levels - 1)


def _is_size(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_size, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
