"""Parameters from and for PyTorch: modules, state dicts and their files.

Layers and modules are paired in order, and a wrong pair of equal shapes gives no error. So both are run once.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from functional_nn.core import errors
from functional_nn.core.errors import DataError, InputError, check_data, failing_as, imported, shortened, shown
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.shapes import Shapes, is_shape, traced
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_choice, check_trees, is_function
from functional_nn.exchange.comparison import difference, random_batch
from functional_nn.exchange.network_layers import Arrays, NetworkLayer, arrays_of, network_layers, trees_of
from functional_nn.exchange.torch_maps import GROUPS, PYTORCH, Module, have_shapes_of, read_arrays, write_arrays
from functional_nn.storage.arrays import HEADER_OF_PARAMETERS, MOST_LISTED, listed, unpacked
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

Names: TypeAlias = Mapping[str, str]
"""For some layers, the path of the module with which each is paired."""

Outputs: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From a batch of inputs to the outputs of the other model, both in the layout of this package."""

Check: TypeAlias = bool | Outputs
"""Whether the outputs are compared, or the function that computes those of the other model."""

REMEDY = "Give check=function from inputs to the model's outputs, both in the layout of this package, or check=False."

EXAMPLES = 8
"""The number of examples for which outputs are compared."""


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
    order in which they run, PyTorch's in the order in which they were assigned in the module. Where the two orders
    differ, ``names`` says which belong together. A safetensors file keeps only the order of the alphabet. So if it has
    modules of equal shapes that are not just numbered, such as ``first`` and ``last``, ``names`` has to pair them.

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
    pairs = paired(net, in_shape, _modules(arrays_of_model("source", source)), names, check)
    pairs.check_order(source, names)
    params, state = pairs.read()
    pairs.compare(params, state, source)
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
    check_trees(params, state)
    pairs = paired(net, in_shape, None if like is None else _modules(arrays_of_model("like", like)), names, check)
    pairs.check_order(like, names)
    written = pairs.write(params, state)
    if not _is_module(like):
        if like is not None:
            pairs.compare(params, state, like)
        return written
    tensors = {name: tensor.clone() for name, tensor in like.state_dict().items()}
    tensors |= {name: _as_tensor(array) for name, array in written.items()}
    if check:
        module: Any = copy.deepcopy(like)
        module.load_state_dict(tensors)
        pairs.compare(params, state, module)
    return tensors


def arrays_of_model(argument: str, source: Source) -> dict[str, np.ndarray]:
    """The arrays of floating-point numbers of a PyTorch model by their names; see ``from_torch``."""
    if isinstance(source, str | os.PathLike):
        return _arrays_of_file(argument, check_path(argument, source))
    if not isinstance(source, Mapping) and hasattr(source, "state_dict"):
        source = source.state_dict()
    if isinstance(source, Mapping) and isinstance(source.get("state_dict"), Mapping):
        source = source["state_dict"]  # a checkpoint that has a state dict beside other things
    expected = "a torch.nn.Module, a state dict, or the path of a file with one"
    if not isinstance(source, Mapping) or not source:
        raise InputError(argument, expected, shown(source))
    arrays = {name: _as_numpy(name, tensor) for name, tensor in source.items()}
    # Integers are no parameters: counters, positions and the like.
    return {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}


class Pairs(NamedTuple):
    """A network whose layers are paired with modules.

    Args:
        net: the network.
        in_shape: the shape of an example.
        pairs: each layer with its module, in the order in which the layers run.
        check: whether outputs are compared, or the function that computes the model's.
    """

    net: Layer
    in_shape: Shapes
    pairs: Sequence[tuple[NetworkLayer, Module]]
    check: Check

    def read(self) -> tuple[Params, State]:
        """The trees of the network with the arrays of the modules: ``(params, state)``."""
        arrays = [read_arrays(layer, module.arrays) for layer, module in self.pairs]
        self._check_fit(arrays)
        return trees_of(self.net, self.in_shape, [layer for layer, _ in self.pairs], arrays)

    def write(self, params: Params, state: State) -> Arrays:
        """The arrays of the network for the modules, by their full names in the model."""
        fitting: list[Arrays] = []
        for layer, module in self.pairs:
            theirs = write_arrays(layer, arrays_of(layer, params, state), module.arrays)
            # A bias of zeros that the module does not have changes nothing.
            spare = {name for name in set(theirs) - set(module.arrays) if "bias" in name and not np.any(theirs[name])}
            theirs = {name: array for name, array in theirs.items() if name not in spare}
            fitting.append(theirs if have_shapes_of(theirs, module.arrays) else {})
        self._check_fit(fitting)
        # In C order, since safetensors writes the memory of an array as it is, also of a transposed one.
        return {
            module.names[name]: np.array(array, order="C")
            for (_, module), theirs in zip(self.pairs, fitting, strict=True)
            for name, array in theirs.items()
        }

    def _check_fit(self, exchanged: Sequence[Arrays]) -> None:
        """Requires arrays for each pair."""
        problems = [_misfit(*pair) for pair, arrays in zip(self.pairs, exchanged, strict=True) if not arrays]
        if problems:
            raise InputError("net", "layers with the shapes of the PyTorch model", f"others: {listed(problems)}")

    def check_order(self, source: Source | None, names: Names | None) -> None:
        """Requires names for the modules of a file that have equal shapes, unless their names differ only by numbers.

        Names are sorted in a file. So nothing in it says which of these modules runs first.
        """
        if not isinstance(source, str | os.PathLike):
            return
        alike: dict[Any, dict[str, str]] = {}
        for layer, module in self.pairs:
            if layer.label not in (names or {}):
                shapes = sorted((name, array.shape) for name, array in module.arrays.items())
                alike.setdefault((module.group, *shapes), {})[layer.label] = module.path
        for guessed in alike.values():
            # Numbers say an order. What follows a colon is a layer or a direction of one module.
            if len({re.sub(r"\d+", "0", path.partition(":")[0]) for path in guessed.values()}) > 1:
                order = ", ".join(f"{label}={shortened(path)}" for label, path in list(guessed.items())[:MOST_LISTED])
                remedy = "Pair each layer with its module: names={layer: module}, or --pair LAYER=MODULE as a flag."
                expected = "the order of modules of equal shapes, which a file does not tell"
                raise InputError("names", expected, f"only the order of the alphabet: {order}", remedy)

    def compare(self, params: Params, state: State, source: Source) -> None:
        """Runs the network with these trees and the model on a random batch, and compares their outputs."""
        if not self.check:
            return
        expected = "False, or a function that computes the model's outputs, since a state dict cannot be run"
        errors.check("check", True, expected, self.check is not True or _is_module(source))
        outputs = self._outputs_of(source) if self.check is True else self.check
        if not is_shape(self.in_shape):
            remedy = "Give check=False, and compare the outputs yourself."
            raise InputError("check", "a network of one array", f"one with the inputs {self.in_shape}", remedy)

        def apply(x: PyTree) -> PyTree:
            return self.net.apply(params, state, x, train=False)[0]

        floating = next((array.dtype for array in jax.tree.leaves(params)), float)
        made = traced(lambda x: (x, jax.make_jaxpr(apply)(x)), tuple(self.in_shape), floating=floating)
        x = random_batch(*made, EXAMPLES)
        found = np.asarray(apply(jnp.asarray(x)))
        with failing_as("check", f"a model that can be run on an input of shape {x.shape}", remedy=REMEDY):
            expected = np.asarray(outputs(x))
        if expected.shape != found.shape or not jnp.issubdtype(found.dtype, jnp.floating):
            given = f"{expected.shape} of type {expected.dtype}"
            raise InputError("check", f"floating-point outputs of shape {found.shape}", given, REMEDY)
        if given := difference(found, expected):
            remedy = (
                "Compare the settings of the layers (activations, padding, epsilon), and the order of layers of equal "
                "shapes: names={path of a layer: path of its module} pairs them."
            )
            raise InputError("net", "a network with the outputs of the model", given, remedy)

    def _outputs_of(self, module: Any) -> Outputs:
        """The function that runs a copy of a module in evaluation. Channels are last."""
        torch = imported("torch", "source")
        has_convolutions = any(module.group == GROUPS["conv"] for _, module in self.pairs)

        def run(x: np.ndarray) -> np.ndarray:
            # Inputs of three axes or more are images, whose channels are the first axis there. Inputs of two axes are
            # places and channels if the model has a convolution, and otherwise time and features, in the same order.
            is_moved = x.ndim > 3 or (x.ndim == 3 and has_convolutions)
            tensor = _as_tensor(np.moveaxis(x, -1, 1) if is_moved else x)
            in_evaluation = copy.deepcopy(module)
            in_evaluation.eval()
            device = next(iter(in_evaluation.parameters())).device
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                y = in_evaluation((tensor.long() if x.dtype == np.int32 else tensor).to(device))
            y = (y[0] if isinstance(y, tuple) else y).detach().cpu().double().numpy()
            return np.moveaxis(y, 1, -1) if is_moved and y.ndim == x.ndim else y

        return run


def paired(net: Layer, in_shape: Shapes, modules: Sequence[Module] | None, names: Names | None, check: Check) -> Pairs:
    """Pairs each layer with its module: those that ``names`` says, and the others of each group in their order.

    Without modules, they are made for the layers.
    """
    is_known = isinstance(check, bool) or is_function(check)
    errors.check("check", check, "True, False, or a function from inputs to outputs", is_known)
    net = as_layer(net)
    layers = network_layers(net, in_shape)
    unknown = [layer for layer in layers if layer.kind not in PYTORCH]
    if unknown:
        given = ", ".join(f"{layer.label} ({layer.kind})" for layer in unknown)
        raise InputError("net", f"layers that PyTorch has too ({', '.join(PYTORCH)})", given)
    modules = [_default_module(layer) for layer in layers] if modules is None else modules
    by_label = {layer.label: layer for layer in layers}
    by_path = {module.path: module for module in modules}
    chosen: dict[str, Module] = {}
    names = {} if names is None else names
    are_texts = isinstance(names, Mapping) and all(isinstance(text, str) for pair in names.items() for text in pair)
    errors.check("names", names, "a dict from paths of layers to paths of modules", are_texts)
    for label, path in names.items():
        check_choice("a layer in names", label, by_label)
        chosen[label] = by_path.pop(check_choice("a module in names", path, by_path))
    problems = []
    for group in dict.fromkeys(GROUPS.values()):
        ours = [layer.label for layer in layers if GROUPS[layer.kind] == group and layer.label not in chosen]
        theirs = [module for module in by_path.values() if module.group == group]
        if len(ours) != len(theirs):
            paths = [_path(module) for module in theirs]
            listing = ", ".join([*paths[:MOST_LISTED], *(["…"] if len(paths) > MOST_LISTED else [])]) or "none"
            problems.append(f"{len(ours)} {group} in the network ({', '.join(ours) or 'none'}), {len(theirs)} in ")
            problems[-1] += f"the model ({listing})"
        chosen |= dict(zip(ours, theirs, strict=False))
    if problems:
        remedy = "Change the network, or pair them yourself: names={path of a layer: path of its module}."
        raise InputError("net", "as many layers of each kind as the PyTorch model has", listed(problems), remedy)
    return Pairs(net, in_shape, [(layer, chosen[layer.label]) for layer in layers], check)


def _path(module: Module) -> str:
    return shortened(module.path) or "the model itself"


def _misfit(layer: NetworkLayer, module: Module) -> str:
    """A layer and a module that do not fit, with the shapes of their arrays."""
    ours, theirs = (
        ", ".join(f"{shortened(name)} {shape}" for name, shape in sorted(shapes.items())[:MOST_LISTED])
        for shapes in (layer.shapes, {name: array.shape for name, array in module.arrays.items()})
    )
    return f"{layer.label} ({layer.kind}: {ours}) does not fit {_path(module)} ({theirs})"


def _is_module(source: object) -> TypeGuard[HasStateDict]:
    """Whether parameters come with a program: they do in a module, and not in a state dict or a file."""
    return not isinstance(source, Mapping | str | os.PathLike | None)


def _as_tensor(array: np.ndarray) -> Any:
    """An array as a tensor, with a copy of its numbers."""
    torch = imported("torch", "like")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(np.ascontiguousarray(array))


def _arrays_of_file(argument: str, path: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file."""
    if not path.is_file():
        raise DataError(str(path), "a file of PyTorch parameters", "no such file")
    remedy = "PyTorch converts its files: safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
    check_data(str(path), path.name, "a file that ends in .safetensors", path.suffix == ".safetensors", remedy)
    arrays, _ = unpacked(path, has_checksum=False, longest=HEADER_OF_PARAMETERS, follow_links=True)
    # The file is in alphabetical order, in which "10" comes before "2".
    return arrays_of_model(argument, dict(sorted(arrays.items(), key=lambda item: _in_order_of_numbers(item[0]))))


def _in_order_of_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in a name by their value."""
    # Of two numbers, the larger one has more digits. Python converts only numbers of at most 4,300 digits.
    return [(len(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _as_numpy(name: object, tensor: Any) -> np.ndarray:
    """A tensor as a NumPy array. NumPy alone has no bfloat16, so such a tensor goes by its bits."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            return tensor.view(imported("torch", "source").int16).numpy().view(ml_dtypes.bfloat16)
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
    arrays = write_arrays(layer, zeros, {})
    suffix = "_l0" if "weight_ih" in arrays else ""
    names = {name: f"{path}.{name}{suffix}".lstrip(".") for name in arrays}
    return Module(path, GROUPS[layer.kind], arrays, names)
