"""Parameters from and for PyTorch: modules, state dicts and their files."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from functional_nn.core.errors import DataError, InputError, check_data, imported, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.shapes import Shapes
from functional_nn.core.validation import check_trees
from functional_nn.exchange.network_layers import Arrays, NetworkLayer, network_layers
from functional_nn.exchange.pairing import Check, Names, Outputs, check_argument, paired, with_channels_first
from functional_nn.exchange.torch_maps import GROUPS, PYTORCH, Module, write_arrays
from functional_nn.storage.arrays import MOST_PARAMETERS, unpacked
from functional_nn.storage.files import check_path

RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_l\d+(?:_reverse)?)?")
"""The names of the arrays of ``RNN``, ``LSTM``, ``GRU`` and their cells: the array, and the layer and direction."""

IN_ATTENTION = ("in_proj_weight", "q_proj_weight")
"""The arrays by which ``MultiheadAttention`` is known."""


class HasStateDict(Protocol):
    """A ``torch.nn.Module``."""

    def state_dict(self) -> Mapping[str, Any]: ...


Source: TypeAlias = HasStateDict | Mapping[str, Any] | str | os.PathLike[str]
"""A module, a state dict, or the path of a file with one."""


def from_torch(
    net: Layer,
    source: Source,
    in_shape: Shapes,
    *,
    names: Names | None = None,
    check: Check = True,
) -> tuple[Params, State]:
    """The parameters and the state of a network from those of a PyTorch model: ``(params, state)``.

    The network has to consist of the same layers as the model. The layers of each kind are paired in order: ours in the
    order in which they run, PyTorch's in the order in which they were assigned in the module. A safetensors file is
    in alphabetical order instead. Where the two orders differ, ``names`` says which belong together.

    Args:
        net: the network.
        source: a ``torch.nn.Module``, its ``state_dict()``, a dict of NumPy arrays with the same names, or the path of
            a safetensors file. For what ``torch.save`` wrote, give ``torch.load(path, weights_only=True)``.
        in_shape: the shape of one example here, without the batch axis. Images are channels last: (28, 28, 1).
        names: for some layers, the path of the module, as in ``{"head": "fc3"}``.
        check: whether the outputs of both for a random batch are compared, or the function that computes those of the
            model, from inputs to outputs in the layout of this package. A state dict or a file cannot be run. So for
            these, a function or False is required.

    Raises:
        InputError: if the layers do not fit, with a list of those that differ and their shapes; or if the outputs
            differ or cannot be compared.
        DataError: if a file is missing or damaged.

    What changes: a weight (out, in) becomes (in, out); channels move to the last axis, also in a dense layer after
    ``flatten``; the two biases of a recurrent layer become one; the bias of attention's keys, which has no effect, is
    left out. Settings are not read: activations, strides, the epsilon of norms and the like are the network's own.

    >>> import functional_nn as fnn, numpy as np
    >>> net = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2))
    >>> shapes = {"0.weight": (3, 4), "0.bias": 3, "2.weight": (2, 3), "2.bias": 2}
    >>> state_dict = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
    >>> params, state = fnn.exchange.from_torch(net, state_dict, (4,), check=False)
    >>> net.apply(params, state, np.ones((1, 4), "float32"), train=False)[0]
    Array([[16., 16.]], dtype=float32)
    """
    net, check, modules = as_layer(net), check_argument(check), _modules(arrays_of_model("source", source))
    pairs = paired(net, in_shape, network_layers(net, in_shape), modules, names)
    params, state = pairs.read()
    pairs.check(params, state, check, _outputs_of(source, modules))
    return params, state


def to_torch(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    like: Source | None = None,
    *,
    names: Names | None = None,
    check: Check = True,
) -> dict[str, Any]:
    """The state dict of a PyTorch model with the parameters and the state of a network.

    If ``like`` is a module, it has tensors for ``module.load_state_dict(…)``; otherwise it has NumPy arrays. It is the
    inverse of ``from_torch``: reading it again gives the same bits. The first bias of a recurrent layer is ours, and
    the second one is 0; so is the bias of attention's keys. A bias of zeros is left out if ``like`` has none.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example here, without the batch axis.
        like: a module, a state dict or the file of one, with the names and shapes that are wanted. By default the
            names are the paths of the layers, such as ``dense_0.weight`` and ``lstm_0.weight_ih_l0``.
        names: for some layers, the path of the module in ``like``.
        check: whether a copy of the module with the parameters is run, and its outputs compared; see ``from_torch``.

    Raises:
        InputError: if the layers do not fit, or the outputs differ.

    >>> import functional_nn as fnn, jax
    >>> net = fnn.chain(fnn.dense(3), fnn.relu, fnn.dense(2))
    >>> state_dict = fnn.exchange.to_torch(net, *net.init(jax.random.key(0), (4,)), (4,))
    >>> {name: array.shape for name, array in state_dict.items()}
    {'dense_0.weight': (3, 4), 'dense_0.bias': (3,), 'dense_1.weight': (2, 3), 'dense_1.bias': (2,)}
    """
    net, check = as_layer(net), check_argument(check)
    check_trees(params, state)
    layers = network_layers(net, in_shape)
    modules = [_default_module(layer) for layer in layers] if like is None else _modules(arrays_of_model("like", like))
    pairs = paired(net, in_shape, layers, modules, names)
    written = pairs.write(params, state)
    if not _is_module(like):
        if like is not None:
            pairs.check(params, state, check, None)
        return written
    tensors = {name: tensor.clone() for name, tensor in like.state_dict().items()}
    tensors |= {name: _as_tensor(array) for name, array in written.items()}
    if check:
        module: Any = copy.deepcopy(like)
        module.load_state_dict(tensors)
        pairs.check(params, state, check, _outputs_of(module, modules))
    return tensors


def arrays_of_model(argument: str, source: Source) -> dict[str, np.ndarray]:
    """The arrays of floating-point numbers of a PyTorch model by their names; see ``from_torch``."""
    if isinstance(source, str | os.PathLike):
        return _arrays_of_file(argument, check_path(argument, source))
    if not isinstance(source, Mapping) and hasattr(source, "state_dict"):
        source = source.state_dict()
    if isinstance(source, Mapping) and isinstance(source.get("state_dict"), Mapping):
        source = source["state_dict"]  # a checkpoint that has a state dict beside other things
    if not isinstance(source, Mapping) or not source:
        expected = "a torch.nn.Module, a state dict, or the path of a file with one"
        raise InputError(argument, expected, "an empty dict" if isinstance(source, Mapping) else type(source).__name__)
    arrays = {name: _as_numpy(name, tensor) for name, tensor in source.items()}
    # Integers are no parameters: counters, positions and the like.
    return {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}


def from_state_dict(
    net: Layer, arrays: Arrays, in_shape: Shapes, names: Names | None, dtype: np.dtype
) -> tuple[Params, State]:
    """As ``from_torch`` with ``check=False``, for the arrays of a file, which are converted to a type if they fit."""
    return paired(net, in_shape, network_layers(net, in_shape), _modules(arrays), names).read(dtype)


def _is_module(source: object) -> TypeGuard[HasStateDict]:
    """Whether parameters come with a program: they do in a module, and not in a state dict or a file."""
    return not isinstance(source, Mapping | str | os.PathLike | None)


def _outputs_of(module: Any, modules: Sequence[Module]) -> Outputs | None:
    """The function that runs a copy of a module in evaluation; None for parameters alone. Images are channels last."""
    if not _is_module(module):
        return None
    torch = imported("torch", "torch", "source")

    def run(x: np.ndarray) -> np.ndarray:
        tensor = _as_tensor(x)
        in_evaluation: Any = copy.deepcopy(module)
        in_evaluation.eval()
        device = next(iter(in_evaluation.parameters())).device
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            y = in_evaluation((tensor.long() if x.dtype == np.int32 else tensor).to(device))
        return (y[0] if isinstance(y, tuple) else y).detach().cpu().double().numpy()

    return with_channels_first(run, modules)


def _as_tensor(array: np.ndarray) -> Any:
    """An array as a tensor, with a copy of its numbers."""
    torch = imported("torch", "torch", "like")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(np.ascontiguousarray(array))


def _arrays_of_file(argument: str, path: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file."""
    if not path.is_file():
        raise DataError(str(path), "a file of PyTorch parameters", "no such file")
    remedy = "PyTorch converts its files: safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
    check_data(str(path), path.name, "a file that ends in .safetensors", path.suffix == ".safetensors", remedy)
    arrays, _ = unpacked(path, has_checksum=False, most=MOST_PARAMETERS, follow_links=True)
    # The file is in alphabetical order, in which "10" comes before "2".
    return arrays_of_model(argument, dict(sorted(arrays.items(), key=lambda item: _in_order_of_numbers(item[0]))))


def _in_order_of_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in a name by their value."""
    # Of two numbers, the larger one has more digits. Python converts only numbers of at most 4,300 digits.
    parts = re.split(r"(\d+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def _as_numpy(name: object, tensor: Any) -> np.ndarray:
    """A tensor as a NumPy array. NumPy alone has no bfloat16, so such a tensor goes by its bits."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            torch = imported("torch", "torch", "source")
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        try:
            tensor = tensor.numpy()
        except TypeError as error:  # a float8 or a sparse tensor
            given = f"{shortened(name)} ({shortened(error)})"
            raise InputError("source", "tensors that NumPy has a type for", given) from None
    if not isinstance(name, str) or not hasattr(tensor, "dtype") or not hasattr(tensor, "shape"):
        raise InputError("source", "tensors by their names", f"{shortened(name)}: {type(tensor).__name__}")
    return np.asarray(tensor)


def _modules(arrays: Mapping[str, np.ndarray]) -> list[Module]:
    """The modules of a state dict, each with its arrays, in the order of the state dict."""
    parts: dict[str, dict[str, str]] = {}
    for full_name in arrays:
        path, _, name = full_name.rpartition(".")
        around = path.removesuffix("out_proj")
        if around != path and any(f"{around}{array}" in arrays for array in IN_ATTENTION):
            path, name = around.rstrip("."), f"out_proj.{name}"
        elif recurrent := RECURRENT.fullmatch(name):
            # A module of several layers and directions is several of ours.
            name, place = recurrent.groups(default="")
            path = f"{path}:{place.removeprefix('_')}" if place else path
        parts.setdefault(path, {})[name] = full_name
    modules = []
    for path, names in parts.items():
        own = {name: arrays[full_name] for name, full_name in names.items()}
        modules.append(Module(path, _group(own), own, names))
    return modules


def _group(arrays: Arrays) -> str:
    """The group of a module, which its arrays tell."""
    if any(name in arrays for name in IN_ATTENTION):
        return GROUPS["attention"]
    if "weight_ih" in arrays:
        return GROUPS["lstm"]
    if "running_mean" in arrays:
        return GROUPS["batch_norm"]
    if "weight" not in arrays:
        return GROUPS["others"]
    axes = arrays["weight"].ndim
    # The bias of a norm over several axes has as many axes as its weight.
    if axes < 2 or ("bias" in arrays and arrays["bias"].ndim == axes):
        return GROUPS["norm"]
    return GROUPS["dense"] if axes == 2 else GROUPS["conv"]


def _default_module(layer: NetworkLayer) -> Module:
    """The module of a layer whose path is the layer's, with points in place of slashes."""
    zeros = {name: np.zeros(shape, np.bool_) for name, shape in layer.shapes.items()}
    path = layer.path.replace("/", ".") + (f".{layer.copy}" if layer.copy is not None else "")
    arrays = write_arrays(layer, zeros, {}) or {} if layer.kind in PYTORCH else {}
    suffix = "_l0" if "weight_ih" in arrays else ""
    names = {name: f"{path}.{name}{suffix}".lstrip(".") for name in arrays}
    return Module(path, GROUPS.get(layer.kind, GROUPS["others"]), arrays, names)
