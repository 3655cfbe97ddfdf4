"""Parameters from and for Equinox."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.extras import imported
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shapes
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_array
from functional_nn.exchange.network_layers import Arrays, NetworkLayer
from functional_nn.exchange.output_check import Check, Outputs, with_channels_first
from functional_nn.exchange.pairing import Names, check_written, read_modules, write_modules
from functional_nn.exchange.pytorch_maps import PYTORCH, for_each_feature
from functional_nn.exchange.weight_maps import (
    GROUPS,
    Library,
    Module,
    WeightMap,
    group_of_weight,
    modules_of,
    prelu,
    renamed,
)

MANY_BATCHES = 1_000_000
"""The number of batches that ``BatchNorm`` is said to have seen, so that it takes its statistics as they are.

Equinox divides them by 1 - momentumⁿ for n batches, which is 1 for this n.
"""

PROJECTIONS = {"query_proj": "query", "key_proj": "key", "value_proj": "value", "output_proj": "output"}
"""The parts of ``MultiheadAttention`` by their names there and here."""


def from_equinox(
    net: Layer,
    model: PyTree,
    in_shape: Shapes,
    model_state: Any = None,
    *,
    names: Names | None = None,
    check: Check = True,
) -> tuple[Params, State]:
    """The parameters and the state of a network from those of an Equinox model: ``(params, state)``.

    The layers of each kind are paired in order; see ``from_torch``. What changes is as for PyTorch. Equinox
    has its shapes, except that only the candidate of a GRU has a second bias, and that the window of a transposed
    convolution is turned around.

    Args:
        net: the network. It has to consist of the same layers as the model.
        model: the Equinox model.
        in_shape: the shape of one example here, without the batch axis. Images are channels last.
        model_state: the model's state, if it has batch norms.
        names: for some layers, the path of the Equinox layer, as in ``{"head": "layers/2"}``.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit. It lists those that differ, with their shapes.
    """
    modules = _modules(model, model_state)
    return read_modules(EQUINOX, net, modules, in_shape, names, check, _outputs_of(model, model_state, modules))


def to_equinox(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    model: PyTree,
    model_state: Any = None,
    *,
    names: Names | None = None,
    check: Check = True,
) -> tuple[PyTree, Any]:
    """An Equinox model with the parameters and the state of a network: ``(model, model_state)``.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example here, without the batch axis.
        model: a model of the same layers. It is not changed.
        model_state: its state, if it has batch norms.
        names: for some layers, the path of the Equinox layer.
        check: whether the outputs of both for a random batch are compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit.
    """
    modules = _modules(model, model_state)
    written = write_modules(EQUINOX, net, params, state, in_shape, modules, names)

    def leaf(path: jax.tree_util.KeyPath, value: Any) -> Any:
        array = written.get(_name_of(path))
        return value if array is None else jnp.asarray(array).reshape(value.shape)

    for path, norm in _batch_norms(model):
        index = _statistics_of(norm)
        statistics = tuple(jnp.asarray(written[f"{path}/{name}".lstrip("/")]) for name in ("mean", "variance"))
        model_state = model_state.set(index, statistics)
        if norm.batch_counter is not None:
            model_state = model_state.set(norm.batch_counter, jnp.asarray(MANY_BATCHES))
        if norm.ema_first_time_index is not None:  # or the first batch would replace the statistics
            model_state = model_state.set(norm.ema_first_time_index, jnp.asarray(False))
    model = jax.tree_util.tree_map_with_path(leaf, model)
    check_written(net, params, state, in_shape, modules, check, _outputs_of(model, model_state, modules))
    return model, model_state


def _outputs_of(model: PyTree, model_state: Any, modules: Sequence[Module]) -> Outputs:
    """The function that runs a model in evaluation, on each example of a batch. Images are channels last for it."""
    eqx = imported("equinox", "equinox", "model")

    def run(x: np.ndarray) -> np.ndarray:
        in_evaluation = eqx.nn.inference_mode(model)
        if model_state is None:
            return np.asarray(jax.vmap(in_evaluation)(x))
        y, _ = jax.vmap(in_evaluation, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, model_state)
        return np.asarray(y)

    return with_channels_first(run, modules)


def _modules(model: PyTree, model_state: Any) -> list[Module]:
    """The layers of a model, each with its arrays, in the order of the fields."""
    parts: dict[str, dict[str, str]] = {}
    arrays: dict[str, np.ndarray] = {}
    statistics = dict(_batch_norms(model))
    if statistics and model_state is None:
        raise InputError(
            "model_state", "the state of the batch norms", "None", "equinox.nn.make_with_state returns it."
        )
    for keys, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue  # no parameter
        full_name = _name_of(keys)
        path, _, name = full_name.rpartition("/")
        outer, _, part = path.rpartition("/")
        if part in PROJECTIONS:
            path, name = outer, f"{part}/{name}"
        array = np.asarray(leaf)
        # The bias of a convolution has axes of length 1 for the places.
        arrays[full_name] = (
            array.reshape(-1) if name == "bias" and array.shape[1:] == (1,) * (array.ndim - 1) else array
        )
        parts.setdefault(path, {})[name] = full_name
    for path, norm in statistics.items():
        momentum = norm.momentum ** model_state.get(norm.batch_counter) if norm.batch_counter is not None else 0.0
        scale = np.asarray(1 - momentum if momentum < 1 else 1.0)
        for name, array in zip(("mean", "variance"), model_state.get(_statistics_of(norm)), strict=True):
            full_name = f"{path}/{name}".lstrip("/")
            arrays[full_name] = (np.asarray(array) / scale).astype(array.dtype)
            parts.setdefault(path, {})[name] = full_name
    return modules_of(parts, arrays, _group)


def _batch_norms(model: PyTree) -> Iterator[tuple[str, Any]]:
    """The batch norms of a model by their paths."""

    def is_batch_norm(node: object) -> bool:
        return hasattr(node, "batch_state_index") and hasattr(node, "ema_state_index")

    for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_batch_norm)[0]:
        if is_batch_norm(node):
            yield _name_of(path), node


def _statistics_of(norm: Any) -> Any:
    return norm.ema_state_index if norm.batch_state_index is None else norm.batch_state_index


def _name_of(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _group(arrays: Arrays) -> str:
    """The group of a layer, which its arrays tell."""
    if "query_proj/weight" in arrays:
        return GROUPS["attention"]
    if "weight_hh" in arrays:
        return GROUPS["lstm"]
    if "variance" in arrays:
        return GROUPS["batch_norm"]
    return GROUPS["prelu"] if "negative_slope" in arrays else group_of_weight(arrays)


def _read_recurrent(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """Weights are transposed. The gates have the same order; only the candidate of a GRU has a second bias."""
    ours = {"input_weight": theirs["weight_ih"].T, "hidden_weight": theirs["weight_hh"].T}
    ours["bias"] = theirs["bias"] if "bias" in theirs else np.zeros_like(theirs["weight_hh"][:, 0])
    if layer.kind == "gru":
        ours["hidden_bias"] = theirs["bias_n"] if "bias_n" in theirs else np.zeros_like(theirs["weight_hh"][0])
    return ours


def _write_recurrent(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    theirs = {"weight_ih": ours["input_weight"].T, "weight_hh": ours["hidden_weight"].T, "bias": ours["bias"]}
    return theirs | ({"bias_n": ours["hidden_bias"]} if "hidden_bias" in ours else {})


def _read_conv_transpose(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """(out, in, *window) becomes (*window, out, in), and the window is turned around."""
    weight = theirs["weight"]
    window = tuple(range(2, weight.ndim))
    return {**theirs, "weight": np.flip(weight, window).transpose(*window, 0, 1)}


def _write_conv_transpose(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    *window, out_axis, in_axis = range(ours["weight"].ndim)
    weight = ours["weight"].transpose(out_axis, in_axis, *window)
    return {**ours, "weight": np.flip(weight, tuple(range(2, weight.ndim)))}


def _read_attention(theirs: Arrays, layer: NetworkLayer) -> Arrays:
    """Weights (heads · head_size, in) become (in, heads, head_size). The bias of the keys has no effect."""
    ours = {}
    for part, own in PROJECTIONS.items():
        ours[f"{own}/weight"] = theirs[f"{part}/weight"].T.reshape(layer.shapes[f"{own}/weight"])
        if f"{part}/bias" in theirs and own != "key":
            shape = layer.shapes[f"{own}/weight"]
            ours[f"{own}/bias"] = theirs[f"{part}/bias"].reshape(shape[-1:] if own == "output" else shape[1:])
    return ours


def _write_attention(ours: Arrays, layer: NetworkLayer, like: Arrays) -> Arrays:
    theirs = {}
    for part, own in PROJECTIONS.items():
        weight = ours[f"{own}/weight"]
        rows = weight.reshape(-1, weight.shape[-1]) if own == "output" else weight.reshape(len(weight), -1)
        theirs[f"{part}/weight"] = rows.T
        if f"{own}/bias" in ours:
            theirs[f"{part}/bias"] = ours[f"{own}/bias"].reshape(-1)
    if "query_proj/bias" in theirs:
        theirs["key_proj/bias"] = np.zeros_like(theirs["query_proj/bias"])
    return theirs


_RECURRENT = WeightMap(_read_recurrent, _write_recurrent)
_OF_PYTORCH = ("dense", "embedding", "unembedding", "learned_positions", "conv", "norm")

EQUINOX = Library(
    "Equinox",
    {kind: PYTORCH.maps[kind] for kind in _OF_PYTORCH}
    | {
        "batch_norm": for_each_feature(
            renamed({"weight": "scale", "bias": "bias", "mean": "mean", "variance": "variance"})
        ),
        "prelu": for_each_feature(prelu("negative_slope")),
        "conv_transpose": WeightMap(_read_conv_transpose, _write_conv_transpose),
        "rnn": _RECURRENT,
        "lstm": _RECURRENT,
        "gru": _RECURRENT,
        "attention": WeightMap(_read_attention, _write_attention),
    },
)
