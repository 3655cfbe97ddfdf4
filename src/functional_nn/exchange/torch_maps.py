"""The weight maps of PyTorch: what its modules keep in place of the arrays of each kind of layer.

The maps take NumPy's arrays and JAX's: the tests differentiate through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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


def _read_dense(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """The weight (out, in) becomes (in, out).

    After ``flatten`` of images, PyTorch has the features channels first, and this package has them channels last.
    """
    weight = theirs["weight"]
    if layer.flattened is not None:
        *sizes, channels = layer.flattened
        parts = weight.reshape(len(weight), channels, *sizes)
        weight = _channels_last(parts, first=1).reshape(len(weight), -1)
    return {"weight": weight.T, **_bias(theirs)}


def _write_dense(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    weight = ours["weight"].T
    if layer.flattened is not None:
        parts = weight.reshape(len(weight), *layer.flattened)
        weight = _channels_first(parts, first=1).reshape(len(weight), -1)
    return {"weight": weight, **_bias(ours)}


def _read_convolution(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """Both convolutions: the two axes of channels come first there, and last and exchanged here."""
    weight = theirs["weight"]
    return {"weight": weight.transpose(*range(2, weight.ndim), 1, 0), **_bias(theirs)}


def _write_convolution(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    weight = ours["weight"]
    *window, in_axis, out_axis = range(weight.ndim)
    return {"weight": weight.transpose(out_axis, in_axis, *window), **_bias(ours)}


def for_each_feature(of_names: WeightMap) -> WeightMap:
    """A map of arrays that have a number for each feature: those of norms and of PReLU.

    For a norm over whole images, and after ``flatten`` of images, the order of the channels changes.
    """

    def read(theirs: Arrays, layer: NetworkLayer) -> Arrays:
        ours = of_names.read(theirs, layer)
        return {name: _reordered(array, layer, to_last=True) for name, array in ours.items()}

    def write(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
        return of_names.write(
            {name: _reordered(array, layer, to_last=False) for name, array in ours.items()}, layer, like
        )

    return WeightMap(read, write)


def _reordered(array: np.ndarray, layer: NetworkLayer, *, to_last: bool) -> np.ndarray:
    if array.ndim > 2 or (array.ndim == 2 and layer.after_convolution):
        return _channels_last(array) if to_last else _channels_first(array)
    if layer.flattened is None or array.ndim == 0:
        return array
    *sizes, channels = layer.flattened
    parts = array.reshape(channels, *sizes) if to_last else array.reshape(layer.flattened)
    return (_channels_last(parts) if to_last else _channels_first(parts)).reshape(-1)


def _read_recurrent(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """Weights (gates · hidden, in) become (in, gates · hidden); the gates have the same order, i, f, g, o.

    PyTorch adds two biases in every step, which are one here.
    """
    return {
        "input_weight": theirs["weight_ih"].T,
        "hidden_weight": theirs["weight_hh"].T,
        "bias": theirs["bias_ih"] + theirs["bias_hh"]
        if "bias_ih" in theirs
        else _zeros_like(theirs["weight_hh"][:, 0]),
    }


def _write_recurrent(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    bias = ours["bias"]
    weights = {"weight_ih": ours["input_weight"].T, "weight_hh": ours["hidden_weight"].T}
    return {**weights, "bias_ih": bias, "bias_hh": _zeros_like(bias)}


def _read_gru(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """As for the others, with the gates r, z, n in the same order.

    The reset gate multiplies the last third of the second bias, so that part remains alone, as ``hidden_bias``.
    """
    size = theirs["weight_hh"].shape[1]
    none = _zeros_like(theirs["weight_hh"][:, 0])
    hidden_bias, input_bias = theirs.get("bias_hh", none), theirs.get("bias_ih", none)
    added = _joined([hidden_bias[: 2 * size], none[2 * size :]])
    return {
        "input_weight": theirs["weight_ih"].T,
        "hidden_weight": theirs["weight_hh"].T,
        "bias": input_bias + added,
        "hidden_bias": hidden_bias[2 * size :],
    }


def _write_gru(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    written = _write_recurrent(ours, layer, like)
    gates = _zeros_like(ours["bias"][: 2 * len(ours["hidden_bias"])])
    return {**written, "bias_hh": _joined([gates, ours["hidden_bias"]])}


def _read_attention(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """Of query, key and value, (heads · head_size, in) becomes (in, heads, head_size). Of the output likewise.

    The bias of the keys is left out: it adds the same number to all scores of a query, so the attention
    weights stay the same.
    """
    ours = {}
    for number, part in enumerate(("query", "key", "value")):
        if "in_proj_weight" in theirs:
            size = len(theirs["in_proj_weight"]) // 3
            weight = theirs["in_proj_weight"][number * size : (number + 1) * size]
        else:
            weight = theirs[f"{part[0]}_proj_weight"]
        ours[f"{part}/weight"] = weight.T.reshape(layer.shapes[f"{part}/weight"])
        if "in_proj_bias" in theirs and part != "key":
            size = len(theirs["in_proj_bias"]) // 3
            bias = theirs["in_proj_bias"][number * size : (number + 1) * size]
            ours[f"{part}/bias"] = bias.reshape(layer.shapes[f"{part}/weight"][1:])
    ours["output/weight"] = theirs["out_proj.weight"].T.reshape(layer.shapes["output/weight"])
    return ours | ({"output/bias": theirs["out_proj.bias"]} if "out_proj.bias" in theirs else {})


def _write_attention(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    weights = {part: _in_rows(ours[f"{part}/weight"]) for part in ("query", "key", "value")}
    if "q_proj_weight" not in like and len({weight.shape for weight in weights.values()}) == 1:
        written = {"in_proj_weight": _joined(list(weights.values()))}
    else:
        written = {f"{part[0]}_proj_weight": weight for part, weight in weights.items()}
    output = ours["output/weight"]
    written["out_proj.weight"] = output.reshape(-1, output.shape[-1]).T
    if "query/bias" in ours:
        query_bias, value_bias = ours["query/bias"].reshape(-1), ours["value/bias"].reshape(-1)
        written["in_proj_bias"] = _joined([query_bias, _zeros_like(query_bias), value_bias])
        written["out_proj.bias"] = ours["output/bias"]
    return written


def _in_rows(weight: np.ndarray) -> np.ndarray:
    """(in, heads, head_size) as (heads · head_size, in)."""
    return weight.reshape(len(weight), -1).T


def _joined(parts: list[np.ndarray]) -> Any:
    """One array after the other, of NumPy's or of JAX's."""
    return jnp.concatenate(parts) if isinstance(parts[0], jax.Array) else np.concatenate(parts)


def _zeros_like(array: np.ndarray) -> np.ndarray:
    return np.zeros(array.shape, array.dtype)


def _bias(arrays: Arrays) -> Arrays:
    return {"bias": arrays["bias"]} if "bias" in arrays else {}


def _channels_last(array: np.ndarray, first: int = 0) -> np.ndarray:
    """The axis ``first`` becomes the last one."""
    return array.transpose(*range(first), *range(first + 1, array.ndim), first)


def _channels_first(array: np.ndarray, first: int = 0) -> np.ndarray:
    """The last axis becomes the axis ``first``."""
    return array.transpose(*range(first), array.ndim - 1, *range(first, array.ndim - 1))


_SAME = renamed({"weight": "weight"})
_NORM = for_each_feature(
    renamed({"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"})
)
_RECURRENT = WeightMap(_read_recurrent, _write_recurrent)
_CONVOLUTION = WeightMap(_read_convolution, _write_convolution)

PYTORCH = {
    "dense": WeightMap(_read_dense, _write_dense),
    "embedding": _SAME,
    "unembedding": _SAME,
    "learned_positions": _SAME,
    "conv": _CONVOLUTION,
    "conv_transpose": _CONVOLUTION,
    "norm": _NORM,
    "batch_norm": _NORM,
    "prelu": for_each_feature(prelu("weight")),
    "rnn": _RECURRENT,
    "lstm": _RECURRENT,
    "gru": WeightMap(_read_gru, _write_gru),
    "attention": WeightMap(_read_attention, _write_attention),
}
"""The weight map of each kind of layer that PyTorch has."""
