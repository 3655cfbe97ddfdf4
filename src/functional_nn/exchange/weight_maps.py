"""What a library keeps in place of this package's arrays: its modules, and a map for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

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
}
"""For each kind of layer, the group in which layers and modules are paired in order. The names are used in messages.

Some kinds have arrays of the same names and ranks in other libraries, so they are in one group.
"""


Direction: TypeAlias = Callable[[Arrays, NetworkLayer], Arrays]
"""One direction of a weight map."""


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


class WeightMap(NamedTuple):
    """The two directions between the arrays of a layer and those of a module.

    Args:
        read: ``read(theirs, layer)`` gives the layer's arrays.
        write: ``write(ours, layer)`` gives the module's arrays.
    """

    read: Direction
    write: Direction


class Library(NamedTuple):
    """A library whose models are read and written.

    Args:
        name: its name in messages.
        maps: the weight map of each kind of layer that it has.
    """

    name: str
    maps: Mapping[str, WeightMap]


def renamed(names: Mapping[str, str]) -> WeightMap:
    """A map that changes names only: from theirs to ours. Arrays that a layer does not have are left out.

    >>> renamed({"kernel": "weight", "bias": "bias"}).read({"kernel": 1}, None)
    {'weight': 1}
    """

    def read(theirs: Arrays, layer: NetworkLayer) -> Arrays:
        return {ours: theirs[name] for name, ours in names.items() if name in theirs}

    def write(ours: Arrays, layer: NetworkLayer) -> Arrays:
        return {name: ours[own] for name, own in names.items() if own in ours}

    return WeightMap(read, write)
