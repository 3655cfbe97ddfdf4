"""Pairing the layers of a network with the modules of PyTorch, exchanging their arrays, and comparing the outputs.

Layers and modules are paired in order, and a wrong pair of equal shapes gives no error. So both are run once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError, short_repr, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer, output_shape
from functional_nn.core.shapes import Shape, Shapes, is_shape
from functional_nn.core.texts import suggest
from functional_nn.core.validation import check_trees, is_function
from functional_nn.exchange.network_layers import Arrays, NetworkLayer, arrays_of, network_layers, trees_of
from functional_nn.exchange.torch_maps import GROUPS, PYTORCH, Module
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


Outputs: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From a batch of inputs to the outputs of the other model, both in the layout of this package."""

Check: TypeAlias = bool | Outputs
"""Whether the outputs are compared, or the function that computes those of the other model."""

EXAMPLES = 8
TOLERANCES = {8: (1e-9, 1e-12), 4: (1e-4, 2e-6), 2: (0.05, 0.02)}
"""How far outputs may differ, by the bytes of a number.

The tolerance is a share of the outputs' variation over the examples, plus a share of the largest output. If layers are
paired wrongly, the outputs differ by about as much as they vary.
"""

REMEDY = "Give check=function from inputs to the model's outputs, both in the layout of this package, or check=False."


def check_argument(check: object) -> Check:
    """Requires a flag or a function."""
    if isinstance(check, bool) or is_function(check):
        return check  # pyright: ignore[reportReturnType]
    raise InputError("check", "True, False, or a function from inputs to outputs", short_repr(check))


def with_channels_first(run: Outputs, modules: Sequence[Module]) -> Outputs:
    """The outputs in the layout of this package, from a function in that of PyTorch and Equinox.

    Inputs of three axes or more are images, whose channels are the first axis there. Inputs of two axes are places and
    channels if the model has a convolution, and otherwise time and features, which are in the same order in both.
    """
    has_convolutions = any(module.group == GROUPS["conv"] for module in modules)

    def outputs(x: np.ndarray) -> np.ndarray:
        is_moved = x.ndim > 3 or (x.ndim == 3 and has_convolutions)
        y = run(np.moveaxis(x, -1, 1) if is_moved else x)
        return np.moveaxis(y, 1, -1) if is_moved and y.ndim == x.ndim else y

    return outputs


def check_outputs(
    net: Layer, params: Params, state: State, in_shape: Shapes, layers: Sequence[NetworkLayer], outputs: Outputs
) -> None:
    """Runs the network and the model on a random batch, and compares their outputs.

    Raises:
        InputError: if they differ, or if the model cannot be run on such a batch.
    """
    x = _random_batch(net, params, state, in_shape, layers)
    found = np.asarray(net.apply(params, state, jnp.asarray(x), train=False)[0])
    try:
        expected = np.asarray(outputs(x))
    except Exception as error:  # the model is the user's, and may raise anything
        given = f"{type(error).__name__}: {shortened(error)}"
        raise InputError("check", f"a model that can be run on an input of shape {x.shape}", given, REMEDY) from error
    if expected.shape != found.shape or not jnp.issubdtype(found.dtype, jnp.floating):
        given = f"{expected.shape} of type {expected.dtype}"
        raise InputError("check", f"floating-point outputs of shape {found.shape}", given, REMEDY)
    if given := difference(found, expected):
        raise InputError(
            "net",
            "a network with the outputs of the model",
            given,
            "Compare the settings of the layers (activations, padding, epsilon), and the order of layers of equal "
            "shapes: names={path of a layer: path of its module} pairs them.",
        )


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """How outputs of one shape differ by more than rounding, as a part of a sentence; empty if they do not."""
    of_spread, of_size = TOLERANCES[found.dtype.itemsize]
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    # Infinite outputs, such as those of masks, have to be equal. They do not count for the tolerance.
    is_finite = np.isfinite(expected) & np.isfinite(found)
    finite = np.where(is_finite, expected, 0)
    spread, size = np.abs(finite - finite.mean(axis=0)).max(), np.abs(finite).max()
    largest = np.abs(finite - np.where(is_finite, found, 0)).max()
    is_same = is_finite | (found == expected) | (np.isnan(found) & np.isnan(expected))
    if largest <= of_spread * spread + of_size * size and is_same.all():
        return ""
    return f"outputs that differ by {largest:.2g}, where the largest is {size:.2g}"


def check_is_unambiguous(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    layers: Sequence[NetworkLayer],
    modules: Sequence[Module],
) -> None:
    """Requires parameters that fit in one way only, where no model can be run, as for a state dict or a file.

    These are the parameters of dense layers and norms of different shapes, from a vector to a vector.

    Raises:
        InputError: for other layers, for inputs or outputs of several axes, and for modules of equal shapes.
    """
    expected = "a function that computes the model's outputs, or False, since a state dict cannot be run"
    simple = ("dense", "norm", "batch_norm", "prelu")
    of_vectors = is_shape(in_shape) and len(in_shape) == 1 and all(layer.kind in simple for layer in layers)
    if not of_vectors or len(output_shape(net, params, state, tuple(in_shape))) != 1:
        given = "True for a network that has other layers than dense ones and norms, or other inputs than vectors"
        raise InputError("check", expected, given)
    for group in dict.fromkeys(module.group for module in modules):
        shapes = [
            tuple(sorted(np.shape(array) for array in module.arrays.values()))
            for module in modules
            if module.group == group
        ]
        if len(set(shapes)) < len(shapes):
            raise InputError("check", expected, f"True for {group} of equal shapes, whose order is not certain")


def _random_batch(
    net: Layer, params: Params, state: State, in_shape: Shapes, layers: Sequence[NetworkLayer]
) -> np.ndarray:
    """A batch of normally distributed numbers; of tokens if the network refuses numbers."""
    if not is_shape(in_shape):
        remedy = "Give check=False, and compare the outputs yourself."
        raise InputError("check", "a network of one array", f"one with the inputs {in_shape}", remedy)
    rng = np.random.default_rng(0)
    dtype = next((array.dtype for array in jax.tree.leaves(params)), np.dtype(np.float32))
    try:
        output_shape(net, params, state, tuple(in_shape), dtype)
    except (InputError, TypeError):
        counts = [layer.shapes["weight"][0] for layer in layers if layer.kind == "embedding"]
        return rng.integers(0, min(counts, default=2), (EXAMPLES, *in_shape)).astype(np.int32)
    return rng.normal(size=(EXAMPLES, *in_shape)).astype(dtype)
