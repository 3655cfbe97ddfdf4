"""The weight maps of PyTorch: what its modules keep in place of the arrays of each kind of layer.

A map says where the numbers of a layer go in a module. The way back follows from it: a map of the numbers' places says
where each of them comes from. Maps take NumPy's arrays and JAX's: the tests differentiate through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.exchange.network_layers import Arrays, NetworkLayer

TABLES = ("embedding", "unembedding", "learned_positions")
CONVOLUTIONS = ("conv", "conv_transpose")
RECURRENT = ("rnn", "lstm", "gru")

GROUPS = {
    **dict.fromkeys(("dense", *TABLES), "weight matrices"),
    **dict.fromkeys(CONVOLUTIONS, "convolutions"),
    **dict.fromkeys(("norm", "prelu"), "norms and PReLUs"),
    "batch_norm": "batch norms",
    **dict.fromkeys(RECURRENT, "recurrent layers"),
    "attention": "attention layers",
    "others": "other arrays",
}
"""For each kind of layer, the group in which layers and modules are paired in order. The names are used in messages.

Some kinds have arrays of the same names and ranks in other libraries, so they are in one group.
"""

Spare: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""What the second of two arrays gets that are added: zeros when a module is written, and the same places when read."""

WeightMap: TypeAlias = Callable[[Arrays, NetworkLayer, Collection[str], Spare], Arrays]
"""``map(ours, layer, has, spare)`` gives the module's arrays from the layer's; ``has`` are the names that it has."""


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


def write_arrays(layer: NetworkLayer, ours: Arrays, like: Arrays) -> Arrays:
    """The arrays of a module from those of a layer; none if the layer lacks some. ``like`` are those that it has."""
    theirs = _mapped(layer, ours, like, np.zeros_like)
    if theirs and layer.kind == "prelu" and "weight" in like and like["weight"].size == 1:
        # Other libraries may have one slope for all features; here each feature has its own.
        slope = theirs["weight"]
        if np.all(slope == slope.flat[0]):
            return {"weight": slope.flat[0].reshape(like["weight"].shape)}
    return theirs


def read_arrays(layer: NetworkLayer, theirs: Arrays) -> Arrays:
    """The arrays of a layer from those of a module; none if they do not fit, or if one of them would not be read."""
    if layer.kind == "prelu" and [array.size for array in theirs.values()] == [1]:
        shape = layer.shapes["negative_slope"]
        theirs = {name: np.broadcast_to(array.reshape(-1), shape) for name, array in theirs.items()}
    if layer.kind in RECURRENT and not any("bias" in name for name in theirs):  # a recurrent module without biases
        zeros = np.zeros(layer.shapes.get("bias", ()), next(iter(theirs.values())).dtype)
        theirs = {**theirs, "bias_ih": zeros, "bias_hh": zeros}
    # Each number of the layer has a place. The place 0 is for numbers of the module that have no effect.
    places: Arrays = {}
    size = 1
    for name, shape in layer.shapes.items():
        places[name] = np.arange(size, size + math.prod(shape)).reshape(shape)
        size += places[name].size
    where = _mapped(layer, places, theirs, lambda array: array)
    if not have_shapes_of(where, theirs):
        return {}
    # Float64 holds the numbers of all floating-point types. The sum of -0 and a number is that number, also of -0.
    read = np.full(size, -0.0)
    for name, array in theirs.items():
        read[where[name]] += array
    ours = {}
    for name, own in places.items():
        sources = [array.dtype for other, array in theirs.items() if (where[other] == own.flat[0]).any()]
        if not sources:
            return {}
        ours[name] = read[own].astype(np.result_type(*sources))
    return ours


def have_shapes_of(arrays: Arrays, others: Arrays) -> bool:
    """Whether two modules have arrays of the same names and shapes."""
    return jax.tree.map(np.shape, arrays) == jax.tree.map(np.shape, others)


def _mapped(layer: NetworkLayer, arrays: Arrays, has: Collection[str], spare: Spare) -> Arrays:
    """The arrays of a module; none if those of the layer are not what its kind has."""
    try:
        return PYTORCH[layer.kind](arrays, layer, has, spare)
    except (KeyError, ValueError, IndexError):
        return {}


def _same(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
    return ours


def _dense(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
    """The weight (in, out) becomes (out, in).

    After ``flatten`` of images, PyTorch has the features channels first, and this package has them channels last.
    """
    weight = ours["weight"].T
    if layer.flattened is not None:
        parts = weight.reshape(len(weight), *layer.flattened)
        weight = _channels_first(parts, first=1).reshape(len(weight), -1)
    return {"weight": weight, **_bias(ours)}


def _convolution(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
    """Both convolutions: the two axes of channels come first there, and last and exchanged here."""
    *window, in_axis, out_axis = range(ours["weight"].ndim)
    return {"weight": ours["weight"].transpose(out_axis, in_axis, *window), **_bias(ours)}


def _bias(ours: Arrays) -> Arrays:
    return {"bias": ours["bias"]} if "bias" in ours else {}


def for_each_feature(names: dict[str, str]) -> WeightMap:
    """A map of arrays with a number for each feature, those of norms and of PReLU: from their names to ours.

    For a norm over whole images, and after ``flatten`` of images, the order of the channels changes.
    """

    def reordered(array: np.ndarray, layer: NetworkLayer) -> np.ndarray:
        if array.ndim > 2 or (array.ndim == 2 and layer.after_convolution):
            return _channels_first(array)
        if layer.flattened is None or array.ndim == 0:
            return array
        return _channels_first(array.reshape(layer.flattened)).reshape(-1)

    def mapped(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
        return {name: reordered(ours[own], layer) for name, own in names.items() if own in ours}

    return mapped


def _recurrent(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
    """Weights (in, gates · hidden) become (gates · hidden, in); the gates have the same order, i, f, g, o or r, z, n.

    PyTorch adds two biases in every step, which are one here. In a GRU, the reset gate multiplies the last third of the
    second one, so that part remains alone, as ``hidden_bias``.
    """
    bias = ours["bias"]
    second = spare(bias)
    if layer.kind == "gru":
        hidden_bias = ours["hidden_bias"]
        second = _joined([second[: 2 * len(hidden_bias)], hidden_bias])
    weights = {"weight_ih": ours["input_weight"].T, "weight_hh": ours["hidden_weight"].T}
    return {**weights, "bias_ih": bias, "bias_hh": second}


def _attention(ours: Arrays, layer: NetworkLayer, has: Collection[str], spare: Spare) -> Arrays:
    """Of query, key and value, (in, heads, head_size) becomes (heads · head_size, in). Of the output likewise.

    The bias of the keys is 0: it would add the same number to all scores of a query, so the attention weights stay the
    same.
    """
    of_parts = {part: ours[f"{part}/weight"] for part in ("query", "key", "value")}
    weights = {part: weight.reshape(len(weight), -1).T for part, weight in of_parts.items()}
    if "q_proj_weight" not in has and len({weight.shape for weight in weights.values()}) == 1:
        theirs = {"in_proj_weight": _joined(list(weights.values()))}
    else:
        theirs = {f"{part[0]}_proj_weight": weight for part, weight in weights.items()}
    output = ours["output/weight"]
    theirs["out_proj.weight"] = output.reshape(-1, output.shape[-1]).T
    if "query/bias" in ours:
        query_bias, value_bias = ours["query/bias"].reshape(-1), ours["value/bias"].reshape(-1)
        theirs["in_proj_bias"] = _joined([query_bias, np.zeros(query_bias.shape, query_bias.dtype), value_bias])
        theirs["out_proj.bias"] = ours["output/bias"]
    return theirs


def _joined(parts: list[np.ndarray]) -> Any:
    """One array after the other, of NumPy's or of JAX's."""
    return jnp.concatenate(parts) if isinstance(parts[0], jax.Array) else np.concatenate(parts)


def _channels_first(array: np.ndarray, first: int = 0) -> np.ndarray:
    """The last axis becomes the axis ``first``."""
    return array.transpose(*range(first), array.ndim - 1, *range(first, array.ndim - 1))


_NORM = for_each_feature({"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"})

PYTORCH: dict[str, WeightMap] = {
    "dense": _dense,
    **dict.fromkeys(TABLES, _same),
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(("norm", "batch_norm"), _NORM),
    "prelu": for_each_feature({"weight": "negative_slope"}),
    **dict.fromkeys(RECURRENT, _recurrent),
    "attention": _attention,
}
"""The weight map of each kind of layer that PyTorch has."""
