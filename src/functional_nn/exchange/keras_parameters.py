"""Parameters from and for Keras 3."""

from __future__ import annotations

from typing import Any, Protocol

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

PROJECTIONS = {"query": "query", "key": "key", "value": "value", "attention_output": "output"}
"""The parts of ``MultiHeadAttention`` by their names there and here."""


class HasWeights(Protocol):
    """A Keras model, or a layer that is built."""

    @property
    def weights(self) -> list[Any]: ...

    def set_weights(self, weights: list[np.ndarray]) -> None: ...

    def __call__(self, x: np.ndarray, *, training: bool) -> Any: ...


def from_keras(
    net: Layer, model: HasWeights, in_shape: Shapes, *, names: Names | None = None, check: Check = True
) -> tuple[Params, State]:
    """The parameters and the state of a network from those of a Keras model: ``(params, state)``.

    The layers of each kind are paired in order; see ``from_torch``.

    Args:
        net: the network. It has to consist of the same layers as the model.
        model: a Keras 3 model, or a layer that is built.
        in_shape: the shape of one example, without the batch axis.
        names: for some layers, the path of the Keras layer, as in ``{"head": "sequential/dense_3"}``.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit. It lists those that differ, with their shapes.

    What changes: the gates of a GRU get the order r, z, n. The parts of its second bias for r and z are added to the
    first one, and the part for n becomes ``hidden_bias``. The bias of attention's keys, which has no effect, is left
    out. Settings are not read. Note that Keras's layer norm and batch norm have another epsilon (0.001).
    """
    modules = _modules(model)
    return read_modules(KERAS, net, modules, in_shape, names, check, _outputs_of(model))


def to_keras(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    model: HasWeights,
    *,
    names: Names | None = None,
    check: Check = True,
) -> list[np.ndarray]:
    """The weights of a Keras model with the parameters and the state of a network: for ``model.set_weights(…)``.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example, without the batch axis.
        model: the Keras model. Its weights are the same afterwards.
        names: for some layers, the path of the Keras layer.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit.
    """
    modules = _modules(model)
    written = write_modules(KERAS, net, params, state, in_shape, modules, names)
    # What is no parameter, such as the state of a random generator, stays as it is.
    before = [_as_numpy(weight) for weight in model.weights]
    new = [written.get(str(number), array) for number, array in enumerate(before)]
    try:
        model.set_weights(new)
        check_written(net, params, state, in_shape, modules, check, _outputs_of(model))
    finally:
        model.set_weights(before)
    return new


def _as_numpy(value: Any) -> np.ndarray:
    """The numbers of a variable or a tensor of Keras."""
    keras = imported("keras", "keras", "model")
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))


def _outputs_of(model: HasWeights) -> Outputs:
    """The function that runs a model in evaluation."""

    def outputs(x: np.ndarray) -> np.ndarray:
        y = model(x, training=False)
        return _as_numpy(y[0] if isinstance(y, list | tuple) else y)

    return outputs


def _modules(model: object) -> list[Module]:
    """The layers of a model, each with its arrays, in the order in which they were made."""
    weights = getattr(model, "weights", None)
    if not isinstance(weights, list) or not all(hasattr(weight, "path") for weight in weights):
        raise InputError("model", "a Keras 3 model", type(model).__name__)
    paths = {weight.path for weight in weights}
    parts: dict[str, dict[str, str]] = {}
    arrays: dict[str, np.ndarray] = {}  # by their number, since two weights may have one path
    for number, weight in enumerate(weights):
        path, _, name = weight.path.rpartition("/")
        if not str(weight.dtype).startswith(("float", "bfloat")):
            continue  # the state of a random generator
        outer, _, part = path.rpartition("/")
        if part in PROJECTIONS and f"{outer}/attention_output/kernel".lstrip("/") in paths:
            path, name = outer, f"{part}/{name}"
        arrays[str(number)] = _as_numpy(weight)
        parts.setdefault(path, {})[name] = str(number)
    return modules_of(parts, arrays, _group)


def _group(arrays: Arrays) -> str:
    """The group of a layer, which its arrays tell."""
    if "query/kernel" in arrays:
        return GROUPS["attention"]
    if "recurrent_kernel" in arrays:
        return GROUPS["lstm"]
    if "moving_mean" in arrays:
        return GROUPS["batch_norm"]
    if "embeddings" in arrays:
        return GROUPS["embedding"]
    if "kernel" in arrays:
        return GROUPS["dense"] if arrays["kernel"].ndim == 2 else GROUPS["conv"]
    return GROUPS["norm"] if {"gamma", "beta", "scale", "alpha"} & set(arrays) else GROUPS["others"]


def _read_gru(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """The gates z, r, n become r, z, n. The reset gate multiplies a part of the second bias, which stays alone."""
    ours = {"input_weight": _exchanged(theirs["kernel"]), "hidden_weight": _exchanged(theirs["recurrent_kernel"])}
    bias = theirs["bias"]
    if bias.ndim == 1:
        return {**ours, "bias": _exchanged(bias)}
    size = bias.shape[1] // 3
    added = np.concatenate([bias[1, : 2 * size], np.zeros_like(bias[1, 2 * size :])])
    return {**ours, "bias": _exchanged(bias[0] + added), "hidden_bias": bias[1, 2 * size :]}


def _write_gru(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    theirs = {"kernel": _exchanged(ours["input_weight"]), "recurrent_kernel": _exchanged(ours["hidden_weight"])}
    bias = _exchanged(ours["bias"])
    if "hidden_bias" not in ours:
        return {**theirs, "bias": bias}
    second = np.concatenate([np.zeros_like(bias[: 2 * len(ours["hidden_bias"])]), ours["hidden_bias"]])
    return {**theirs, "bias": np.stack([bias, second])}


def _exchanged(array: np.ndarray) -> np.ndarray:
    """The columns of three gates with the first two exchanged."""
    first, second, third = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)


_KERNEL = renamed({"kernel": "weight", "bias": "bias"})
_RECURRENT = renamed({"kernel": "input_weight", "recurrent_kernel": "hidden_weight", "bias": "bias"})

KERAS = Library(
    "Keras",
    {
        "dense": _KERNEL,
        "embedding": renamed({"embeddings": "weight"}),
        "conv": _KERNEL,
        "conv_transpose": _KERNEL,
        "norm": renamed({"gamma": "scale", "scale": "scale", "beta": "bias"}),
        "batch_norm": renamed({"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "variance"}),
        "prelu": prelu("alpha"),
        "rnn": _RECURRENT,
        "lstm": _RECURRENT,
        "gru": WeightMap(_read_gru, _write_gru),
        "attention": projections(PROJECTIONS),
    },
)
