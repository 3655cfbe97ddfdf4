"""Pairing the layers of a network with the modules of PyTorch, and exchanging their arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from functional_nn.core.errors import InputError, short_repr, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import check_trees
from functional_nn.core.shapes import Shape, Shapes
from functional_nn.core.suggestions import suggest
from functional_nn.exchange.network_layers import Arrays, NetworkLayer, arrays_of, network_layers, trees_of
from functional_nn.exchange.output_check import Check, Outputs, check_argument, check_is_unambiguous, check_outputs
from functional_nn.exchange.pytorch_maps import PYTORCH
from functional_nn.exchange.weight_maps import GROUPS, Module
from functional_nn.storage.arrays import MOST_LISTED, listed

Names: TypeAlias = Mapping[str, str]
"""For some layers, the path of the module with which each is paired."""


def read_modules(
    net: Layer,
    modules: Sequence[Module],
    in_shape: Shapes,
    names: Names | None,
    check: Check,
    outputs: Outputs | None,
) -> tuple[Params, State]:
    """The trees of a network with the arrays of modules: ``(params, state)``.

    Args:
        net: the network.
        modules: the modules with their arrays.
        in_shape: the shape of an example.
        names: for some layers, the path of the module.
        check: whether the outputs are compared, or the function that computes the model's.
        outputs: the function that runs the model; None if there are parameters only.
    """
    net, check = as_layer(net), check_argument(check)
    layers = network_layers(net, in_shape)
    pairs = _pairs(layers, modules, names)
    arrays, problems = [], []
    for layer, module in pairs:
        weight_map = PYTORCH[layer.kind]
        ours = _mapped(weight_map.read, module.arrays, layer)
        # The other direction has to give all arrays of the module back. Otherwise one of them was not read.
        back = {} if ours is None else _mapped(weight_map.write, ours, layer, module.arrays) or {}
        if ours is None or _shapes(ours) != layer.shapes or set(module.arrays) - set(back):
            problems.append(_misfit(layer, module))
        else:
            arrays.append(ours)
    _raise_if_any(problems)
    params, state = trees_of(net, in_shape, layers, arrays)
    _check(net, params, state, in_shape, layers, modules, check, outputs)
    return params, state


def write_modules(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    modules: Sequence[Module],
    names: Names | None,
) -> dict[str, np.ndarray]:
    """The arrays of a network for modules of these shapes, by their full names in the model."""
    check_trees(params, state)
    written: dict[str, np.ndarray] = {}
    problems = []
    for layer, module in _pairs(network_layers(as_layer(net), in_shape), modules, names):
        theirs = _mapped(PYTORCH[layer.kind].write, arrays_of(layer, params, state), layer, module.arrays) or {}
        # A bias of zeros that the module does not have changes nothing.
        left_out = {name for name in set(theirs) - set(module.arrays) if "bias" in name and not np.any(theirs[name])}
        theirs = {name: array for name, array in theirs.items() if name not in left_out}
        if _shapes(theirs) == _shapes(module.arrays):
            # In C order, since safetensors writes the memory of an array as it is, also of a transposed one.
            written |= {module.names[name]: np.array(array, order="C") for name, array in theirs.items()}
        else:
            problems.append(_misfit(layer, module))
    _raise_if_any(problems)
    return written


def check_written(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    modules: Sequence[Module],
    check: Check,
    outputs: Outputs | None,
) -> None:
    """Compares the outputs of a network with those of the model to which its parameters were written."""
    net = as_layer(net)
    _check(net, params, state, in_shape, network_layers(net, in_shape), modules, check_argument(check), outputs)


def _pairs(
    layers: Sequence[NetworkLayer], modules: Sequence[Module], names: Names | None
) -> list[tuple[NetworkLayer, Module]]:
    """Each layer with its module: those that ``names`` says, and the others of each group in their order."""
    unknown = [layer for layer in layers if layer.kind not in PYTORCH]
    if unknown:
        given = ", ".join(f"{layer.label} ({layer.kind})" for layer in unknown)
        raise InputError("net", f"layers that PyTorch has too ({', '.join(PYTORCH)})", given)
    by_label = {layer.label: layer for layer in layers}
    by_path = {module.path: module for module in modules}
    chosen: dict[str, Module] = {}
    names = {} if names is None else names
    if not isinstance(names, Mapping) or not all(isinstance(text, str) for pair in names.items() for text in pair):
        raise InputError("names", "a dict from paths of layers to paths of modules", short_repr(names))
    for label, path in names.items():
        if label not in by_label:
            raise InputError("names", "layers of the network", repr(label), suggest(label, by_label))
        if path not in by_path:
            raise InputError("names", "modules of the PyTorch model", repr(path), suggest(path, by_path))
        chosen[label] = by_path.pop(path)
    problems = []
    for group in dict.fromkeys(GROUPS.values()):
        ours = [layer.label for layer in layers if GROUPS[layer.kind] == group and layer.label not in chosen]
        theirs = [module for module in by_path.values() if module.group == group]
        if len(ours) != len(theirs):
            paths = [shortened(module.path) or "the model itself" for module in theirs]
            listing = ", ".join([*paths[:MOST_LISTED], *(["…"] if len(paths) > MOST_LISTED else [])]) or "none"
            problems.append(f"{len(ours)} {group} in the network ({', '.join(ours) or 'none'}), {len(theirs)} in ")
            problems[-1] += f"the model ({listing})"
        chosen |= dict(zip(ours, theirs, strict=False))
    if problems:
        remedy = "Change the network, or pair them yourself: names={path of a layer: path of its module}."
        raise InputError("net", "as many layers of each kind as the PyTorch model has", listed(problems), remedy)
    return [(layer, chosen[layer.label]) for layer in layers]


def _mapped(function: Callable[..., Arrays], *arguments: object) -> Arrays | None:
    """One direction of a weight map; None if arrays are missing or have other shapes."""
    try:
        return function(*arguments)
    except (KeyError, ValueError, IndexError):
        return None


def _shapes(arrays: Arrays) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _misfit(layer: NetworkLayer, module: Module) -> str:
    """A layer and a module that do not fit, with the shapes of their arrays."""
    ours, theirs = (
        ", ".join(f"{shortened(name)} {shape}" for name, shape in sorted(shapes.items())[:MOST_LISTED])
        for shapes in (layer.shapes, _shapes(module.arrays))
    )
    path = shortened(module.path) or "the model itself"
    return f"{layer.label} ({layer.kind}: {ours}) does not fit {path} ({theirs})"


def _raise_if_any(problems: Sequence[str]) -> None:
    if problems:
        raise InputError("net", "layers with the shapes of the PyTorch model", f"others: {listed(problems)}")


def _check(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    layers: Sequence[NetworkLayer],
    modules: Sequence[Module],
    check: Check,
    outputs: Outputs | None,
) -> None:
    """Compares outputs, by the function of the caller or by running the model; see ``read_modules``."""
    if check is True and outputs is None:
        check_is_unambiguous(net, params, state, in_shape, layers, modules)
    elif check and (run := outputs if check is True else check):
        check_outputs(net, params, state, in_shape, layers, run)
