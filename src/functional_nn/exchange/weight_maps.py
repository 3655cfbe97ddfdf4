"""What PyTorch keeps in place of this package's arrays: modules, and a map for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from functional_nn.exchange.network_layers import Arrays, NetworkLayer

GROUPS = {
    "dense": "weight matrices",
    "embedding": "weight matrices",
    "unembedding": "weight matrices",
    "learned_positions": "weight matrices",
    "conv": "convolutions",
    "conv_transpose": "convolutions",
    "norm": "norms and PReLUs",
    "prelu": "norms and PReLUs",
    "batch_norm": "batch norms",
    "rnn": "recurrent layers",
    "lstm": "recurrent layers",
    "gru": "recurrent layers",
    "attention": "attention layers",
    "others": "other arrays",
}
"""For each kind of layer, the group in which layers and modules are paired in order. The names are used in messages.

Some kinds have arrays of the same names and ranks in other libraries, so they are in one group.
"""


class Module(NamedTuple):
    """A part of another library's model that corresponds to one layer.

    Args:
        path: its path in the model.
        group: one of ``GROUPS``.
        arrays: its arrays by their names inside the module.
        names: the full name of each array in the model.
    """

    path: str
    group: str
    arrays: Arrays
    names: dict[str, str]


def modules_of(
    parts: Mapping[str, dict[str, str]], arrays: Mapping[str, np.ndarray], group: Callable[[Arrays], str]
) -> list[Module]:
    """The modules of a model.

    Args:
        parts: for the path of each module, the full names of its arrays by their names inside the module.
        arrays: the arrays by their full names.
        group: gives the group of a module from its arrays.
    """
    modules = []
    for path, names in parts.items():
        own = {name: arrays[full_name] for name, full_name in names.items()}
        modules.append(Module(path, group(own), own, names))
    return modules


def group_of_weight(arrays: Arrays) -> str:
    """The group of a module that has a ``weight`` and perhaps a ``bias``, by the number of their axes."""
    if "weight" not in arrays:
        return GROUPS["others"]
    axes = arrays["weight"].ndim
    # The bias of a norm over several axes has as many axes as its weight.
    if axes < 2 or ("bias" in arrays and arrays["bias"].ndim == axes):
        return GROUPS["norm"]
    return GROUPS["dense"] if axes == 2 else GROUPS["conv"]


class WeightMap(NamedTuple):
    """The two directions between the arrays of a layer and those of a module.

    Args:
        read: ``read(theirs, layer)`` gives the layer's arrays.
        write: ``write(ours, layer, like)`` gives the module's arrays; ``like`` are those that it has, or none.
    """

    read: Callable[[Arrays, NetworkLayer], Arrays]
    write: Callable[[Arrays, NetworkLayer, Arrays], Arrays]


def renamed(names: Mapping[str, str]) -> WeightMap:
    """A map that changes names only: from theirs to ours. Arrays that a layer does not have are left out.

    >>> renamed({"gamma": "scale", "beta": "bias"}).read({"gamma": 1}, None)
    {'scale': 1}
    """

    def read(theirs: Arrays, layer: NetworkLayer) -> Arrays:
        return {own: theirs[name] for name, own in names.items() if name in theirs}

    def write(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
        return {name: ours[own] for name, own in names.items() if own in ours}

    return WeightMap(read, write)


def prelu(name: str) -> WeightMap:
    """The map of PReLU. Other libraries may have one slope for all features; here each feature has its own."""

    def read(theirs: Arrays, layer: NetworkLayer) -> Arrays:
        slope = theirs[name]
        if slope.size == 1:
            slope = slope.reshape(1) * np.ones(layer.shapes["negative_slope"], slope.dtype)
        return {"negative_slope": slope}

    def write(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
        slope = np.asarray(ours["negative_slope"])
        is_one = name in like and like[name].size == 1 and np.all(slope == slope.flat[0])
        return {name: slope.reshape(-1)[0].reshape(like[name].shape) if is_one else slope}

    return WeightMap(read, write)
