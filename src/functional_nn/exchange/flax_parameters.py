"""Parameters from and for Flax NNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.extras import imported
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shapes
from functional_nn.exchange.network_layers import Arrays, NetworkLayer
from functional_nn.exchange.output_check import Check, Outputs
from functional_nn.exchange.pairing import Names, check_written, read_modules, write_modules
from functional_nn.exchange.weight_maps import (
    GROUPS,
    Library,
    Module,
    WeightMap,
    modules_of,
    prelu,
    projections,
    renamed,
)

Path: TypeAlias = tuple[str | int, ...]
"""The attributes and numbers that lead to a variable of a module."""

Owners: TypeAlias = tuple[object, ...]
"""The modules around a variable, the innermost one last."""

WHOLE = ("MultiHeadAttention", "LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")
"""The modules of ``flax.nnx`` that consist of other modules, and are one layer here."""

PROJECTIONS = {"query": "query", "key": "key", "value": "value", "out": "output"}
"""The parts of ``MultiHeadAttention`` by their names there and here."""


def from_flax(
    net: Layer, model: Any, in_shape: Shapes, *, names: Names | None = None, check: Check = True
) -> tuple[Params, State]:
    """The parameters and the state of a network from those of a Flax NNX module: ``(params, state)``.

    The layers of each kind are paired in order; see ``from_torch``.

    Args:
        net: the network. It has to consist of the same layers as the module.
        model: the module.
        in_shape: the shape of one example, without the batch axis.
        names: for some layers, the path of the Flax module, as in ``{"head": "layers/2"}``.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit. It lists those that differ, with their shapes.

    What changes: the window of a transposed convolution is turned around; the bias of attention's keys, which has no
    effect, is left out. Settings are not read.
    """
    return read_modules(FLAX, net, _modules(model), in_shape, names, check, _outputs_of(model))


def to_flax(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    model: Any,
    *,
    names: Names | None = None,
    check: Check = True,
) -> Any:
    """The state of a Flax NNX module with the parameters of a network: for ``nnx.update(model, …)``.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example, without the batch axis.
        model: a module of the same layers. It is not changed.
        names: for some layers, the path of the Flax module.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit.
    """
    modules = _modules(model)
    written = write_modules(FLAX, net, params, state, in_shape, modules, names)
    nnx = imported("flax.nnx", "flax", "model")
    variables = {path: variable for path, variable, _ in _variables(model, ()) if _joined(path) in written}
    new = {path: variable.replace(jnp.asarray(written[_joined(path)])) for path, variable in variables.items()}
    new_state = nnx.from_flat_state(new)
    with_parameters = nnx.clone(model)
    nnx.update(with_parameters, new_state)
    check_written(net, params, state, in_shape, modules, check, _outputs_of(with_parameters))
    return new_state


def _outputs_of(model: Any) -> Outputs:
    """The function that runs a copy of a module in evaluation."""

    def outputs(x: np.ndarray) -> np.ndarray:
        in_evaluation = imported("flax.nnx", "flax", "model").clone(model)
        in_evaluation.eval()
        return np.asarray(in_evaluation(jnp.asarray(x)))

    return outputs


def _joined(path: Path) -> str:
    return "/".join(map(str, path))


def _variables(node: object, path: Path, owners: Owners = ()) -> Iterator[tuple[Path, Any, Owners]]:
    """The variables of a module with their paths and the modules around them, the innermost one last.

    They are in the order in which the attributes were assigned. The state that Flax makes is in alphabetical order.
    """
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, Sequence) and not isinstance(node, str):
        children = enumerate(node)
    else:
        children = vars(node).items() if _is_module(node) else ()
    for name, child in children:
        if _is_variable(child):
            yield (*path, name), child, (*owners, node)
        else:
            yield from _variables(child, (*path, name), (*owners, node))


def _is_variable(node: object) -> bool:
    return isinstance(node, imported("flax.nnx", "flax", "model").Variable)


def _is_module(node: object) -> bool:
    return isinstance(node, imported("flax.nnx", "flax", "model").Module)


def _modules(model: object) -> list[Module]:
    """The modules that are layers here, each with its arrays."""
    if not _is_module(model):
        raise InputError("model", "a flax.nnx.Module", type(model).__name__)
    parts: dict[str, dict[str, str]] = {}
    arrays: dict[str, np.ndarray] = {}
    nnx = imported("flax.nnx", "flax", "model")
    whole = tuple(getattr(nnx, name) for name in WHOLE)
    for keys, variable, owners in _variables(model, ()):
        value = variable.get_value()
        if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
            continue  # the state of a random generator
        *outer, name = map(str, keys)
        *around, owner = owners
        if around and isinstance(around[-1], whole):
            name = f"{outer.pop()}/{name}"
        if name == "kernel" and getattr(owner, "transpose_kernel", False):
            name = "transposed_kernel"
        full_name = _joined(keys)
        arrays[full_name] = np.asarray(value)
        parts.setdefault("/".join(outer), {})[name] = full_name
    return modules_of(parts, arrays, _group)


def _group(arrays: Arrays) -> str:
    """The group of a module, which its arrays tell."""
    if "query/kernel" in arrays:
        return GROUPS["attention"]
    if "dense_h/kernel" in arrays or "hi/kernel" in arrays:
        return GROUPS["lstm"]
    if "embedding" in arrays:
        return GROUPS["embedding"]
    if "mean" in arrays:
        return GROUPS["batch_norm"]
    if "transposed_kernel" in arrays:
        return GROUPS["conv_transpose"]
    if "kernel" in arrays:
        return GROUPS["dense"] if arrays["kernel"].ndim == 2 else GROUPS["conv"]
    return GROUPS["norm"] if {"scale", "bias", "negative_slope"} & set(arrays) else GROUPS["others"]


def _read_lstm(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """The gates i, f, g, o have this order here too; ``LSTMCell`` has a module for each."""
    if "dense_h/kernel" in theirs:
        return _read_recurrent(theirs, layer)
    input_weights = [theirs[f"{name}/kernel"] for name in ("ii", "if_", "ig", "io")]
    hidden_weights = [theirs[f"{name}/kernel"] for name in ("hi", "hf", "hg", "ho")]
    return {
        "input_weight": np.concatenate(input_weights, axis=1),
        "hidden_weight": np.concatenate(hidden_weights, axis=1),
        "bias": np.concatenate([theirs[f"{name}/bias"] for name in ("hi", "hf", "hg", "ho")]),
    }


def _write_lstm(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    if "hi/kernel" not in like:
        return _write_recurrent(ours, layer, like)
    theirs = {}
    for names, array in (
        (("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel"), ours["input_weight"]),
        (("hi/kernel", "hf/kernel", "hg/kernel", "ho/kernel"), ours["hidden_weight"]),
        (("hi/bias", "hf/bias", "hg/bias", "ho/bias"), ours["bias"]),
    ):
        theirs |= dict(zip(names, np.split(array, 4, axis=-1), strict=True))
    return theirs


def _read_recurrent(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """A bias is added to one of the two products. A GRU has none for the hidden state."""
    input_weight, hidden_weight = theirs["dense_i/kernel"], theirs["dense_h/kernel"]
    bias = theirs["dense_h/bias" if layer.kind == "lstm" else "dense_i/bias"]
    ours = {"input_weight": input_weight, "hidden_weight": hidden_weight, "bias": bias}
    return ours | (
        {"hidden_bias": np.zeros_like(hidden_weight[0, : len(hidden_weight)])} if layer.kind == "gru" else {}
    )


def _write_recurrent(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    theirs = {"dense_i/kernel": ours["input_weight"], "dense_h/kernel": ours["hidden_weight"]}
    theirs["dense_h/bias" if layer.kind == "lstm" else "dense_i/bias"] = ours["bias"]
    return theirs | ({"dense_h/bias": ours["hidden_bias"]} if "hidden_bias" in ours else {})


def _read_conv_transpose(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """With ``transpose_kernel`` the kernel is as here. Otherwise its last two axes and its window are turned around."""
    if "transposed_kernel" in theirs:
        weight = theirs["transposed_kernel"]
    else:
        weight = np.flip(theirs["kernel"], tuple(range(theirs["kernel"].ndim - 2))).swapaxes(-1, -2)
    return {"weight": weight} | ({"bias": theirs["bias"]} if "bias" in theirs else {})


def _write_conv_transpose(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    weight = ours["weight"]
    bias = {"bias": ours["bias"]} if "bias" in ours else {}
    if "transposed_kernel" in like:
        return {"transposed_kernel": weight, **bias}
    return {"kernel": np.flip(weight, tuple(range(weight.ndim - 2))).swapaxes(-1, -2), **bias}


_KERNEL = renamed({"kernel": "weight", "bias": "bias"})
_RECURRENT = WeightMap(_read_recurrent, _write_recurrent)

FLAX = Library(
    "Flax",
    {
        "dense": _KERNEL,
        "embedding": renamed({"embedding": "weight"}),
        "unembedding": renamed({"embedding": "weight"}),
        "conv": _KERNEL,
        "conv_transpose": WeightMap(_read_conv_transpose, _write_conv_transpose),
        "norm": renamed({"scale": "scale", "bias": "bias"}),
        "batch_norm": renamed({"scale": "scale", "bias": "bias", "mean": "mean", "var": "variance"}),
        "prelu": prelu("negative_slope"),
        "rnn": _RECURRENT,
        "lstm": WeightMap(_read_lstm, _write_lstm),
        "gru": _RECURRENT,
        "attention": projections(PROJECTIONS),
    },
)
