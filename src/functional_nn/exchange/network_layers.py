"""The layers of a network that have parameters, in the order in which they run, and their arrays."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from functional_nn.core import trees
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shape, Shapes
from functional_nn.core.validation import check_entry_shapes
from functional_nn.jaxprs.layer_uses import LayerUse, layer_uses, trace_layers
from functional_nn.storage.arrays import tree_like

Arrays: TypeAlias = dict[str, np.ndarray]
"""The arrays of one layer by name, such as ``weight`` and ``bias``, or ``query/weight``."""

GATES = {1: "rnn", 3: "gru", 4: "lstm"}
"""The recurrent layers by the number of their gates. Each gate has ``hidden_size`` columns in the weights."""


OF_ONE_WEIGHT = ("dense", "embedding", "unembedding", "learned_positions", "conv", "conv_transpose")
"""The kinds of layers whose arrays are a weight, with or without a bias. Their names tell them apart."""


class NetworkLayer(NamedTuple):
    """A layer that has parameters or running statistics.

    Args:
        path: the path of its parameters in the network's trees.
        kind: the name of the function that makes such a layer, such as ``dense``; "norm" for all norms except
            ``batch_norm``.
        shapes: the shape of each array by its name. The arrays of the state are among them.
        copy: for a layer inside ``repeat``, the number of the copy; None for others.
        copies: the number of copies.
        flattened: for a layer after ``flatten``, the shape of an example before it; None if there is no difference
            between channels first and channels last.
        after_convolution: whether a convolution runs before it, so that two axes of its input are places and channels.
    """

    path: str
    kind: str
    shapes: dict[str, Shape]
    copy: int | None = None
    copies: int = 1
    flattened: Shape | None = None
    after_convolution: bool = False

    def path_of(self, name: str) -> str:
        """The path of one of its arrays in the network's trees."""
        return f"{self.path}/{name}" if self.path else name

    @property
    def in_size(self) -> int:
        """The number of features that it takes."""
        shape = self.shapes["weight"] if self.kind == "dense" else next(iter(self.shapes.values()))
        return shape[0] if shape else 1

    @property
    def label(self) -> str:
        """The path, with the number of the copy: ``repeat_0/dense_0[1]``. A network of one layer has an empty path."""
        path = self.path or "the network"
        return path if self.copy is None else f"{path}[{self.copy}]"


def network_layers(net: Layer, in_shape: Shapes) -> list[NetworkLayer]:
    """The layers of a network that have parameters or running statistics, in the order in which they run.

    Nothing is computed: the layers are read from the traced program of the forward pass.
    """
    program, params = trace_layers(net, in_shape)
    _, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    shapes, state_shapes = (
        {path: leaf.shape for path, leaf in trees.flatten({net.name: tree}).items()} for tree in (params, state)
    )
    uses = layer_uses(program, list(shapes))
    layers = _with_what_runs_before(uses, _names_of_layers(net, net.name), shapes, state_shapes)
    if left := [*shapes, *state_shapes]:
        given = ", ".join(_inside(path, net.name) for path in left)
        remedy = "Use the network inside frozen(...); its parameters are trees.merge(params, state['frozen'])."
        remedy *= any("frozen" in path.split("/") for path in left)
        expected = "parameters of layers that run, and running statistics of batch_norm"
        raise InputError("net", expected, f"also {given}", remedy)
    return [layer._replace(path=_inside(layer.path, net.name)) for layer in _in_order_of_copies(layers, uses)]


def arrays_of(layer: NetworkLayer, params: Params, state: State) -> dict[str, np.ndarray]:
    """The arrays of a layer in the trees of its network.

    Raises:
        InputError: if an array is missing or has another shape.
    """
    leaves = trees.flatten(params) | trees.flatten(state)
    copies = () if layer.copy is None else (layer.copies,)
    shapes = {layer.path_of(name): (*copies, *shape) for name, shape in layer.shapes.items()}
    check_entry_shapes("params", leaves, shapes)
    arrays = {name: np.asarray(leaves[layer.path_of(name)]) for name in layer.shapes}
    return arrays if layer.copy is None else {name: array[layer.copy] for name, array in arrays.items()}


def trees_of(
    net: Layer, in_shape: Shapes, layers: Sequence[NetworkLayer], arrays: Iterable[Arrays]
) -> tuple[Params, State]:
    """The trees of a network from the arrays of its layers: ``(params, state)``.

    Raises:
        InputError: for 64-bit numbers while JAX has them switched off.
    """
    found: Arrays = {}
    for layer, own in zip(layers, arrays, strict=True):
        for name in layer.shapes:
            path, array = layer.path_of(name), own[name]
            # The copies of a layer inside ``repeat`` lie along the first axis.
            found[path] = array if layer.copy is None else np.stack([*found.get(path, ()), array])
    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    return tree_like(params, found, "params", {}), tree_like(state, found, "state", {})


def _inside(path: str, name: str) -> str:
    """A path without the name of the network, which is its first part."""
    return path.removeprefix(name).removeprefix("/")


def _names_of_layers(layer: Layer, path: str) -> dict[str, str]:
    """The name of each layer inside a network by its path. The path may end in another name, such as ``head``."""
    names = {path: layer.name}
    for name, child in layer.layers:
        names |= _names_of_layers(child, f"{path}/{name}")
    return names


def _with_what_runs_before(
    uses: Sequence[LayerUse], names: Mapping[str, str], shapes: dict[str, Shape], state_shapes: dict[str, Shape]
) -> list[tuple[LayerUse, NetworkLayer]]:
    """The layers with arrays, and how the layers before them affect the order of their features.

    The arrays of the layers are taken out of ``shapes`` and ``state_shapes``.
    """
    layers = []
    flattened: Shape | None = None
    after_convolution = False
    for use in uses:
        before, after = use.read_shape or (), use.output_shape
        if not use.parameters and len(after) < len(before) and math.prod(after) == math.prod(before):
            # The layer gives the same numbers in fewer axes, as ``flatten`` does and other functions may. Channels
            # first and channels last are two orders, but two axes are (time, features) in both, unless they come from
            # a convolution.
            shape = before[len(after) - 1 :]
            has_channels = len(shape) >= (2 if after_convolution else 3)
            are_several = math.prod(shape[-1:]) > 1 and math.prod(shape[:-1]) > 1
            flattened = shape if has_channels and are_several else None
        own = {path: shapes.pop(path) for path in use.parameters if path in shapes}
        if not own:
            continue
        path = use.scope if use.has_own_path else use.name
        arrays = {leaf.removeprefix(f"{path}/"): shape for leaf, shape in own.items()}
        for leaf in [leaf for leaf in state_shapes if posixpath.dirname(leaf) == path]:
            arrays[posixpath.basename(leaf)] = state_shapes.pop(leaf)
        # Without a name of its own, ``chain/dense_0`` is called ``dense``.
        name = names.get(use.scope, re.sub(r"_\d+$", "", posixpath.basename(use.scope)))
        layer = NetworkLayer(path, _kind(name, arrays), arrays)
        if flattened is not None and layer.in_size == math.prod(flattened):
            layer = layer._replace(flattened=flattened)
        layers.append((use, layer._replace(after_convolution=after_convolution)))
        after_convolution = after_convolution or layer.kind in ("conv", "conv_transpose")
        if layer.kind not in ("batch_norm", "norm", "prelu"):
            flattened = None  # the layer mixes the features, so its outputs have no order of pixels
    return layers


def _in_order_of_copies(
    layers: Sequence[tuple[LayerUse, NetworkLayer]], uses: Sequence[LayerUse]
) -> list[NetworkLayer]:
    """The layers, with a layer inside ``repeat`` once for each copy. A copy runs whole before the next one."""
    placed: list[tuple[tuple[int, int], NetworkLayer]] = []
    first_of_loop: dict[str, int] = {}
    for place, (use, layer) in enumerate(layers):
        if not use.loops:
            placed.append(((place, 0), layer))
            continue
        if use.loops > 1:
            given = f"{layer.path}, inside a repeat in a repeat"
            raise InputError("net", "layers in at most one repeat", given, "Write the outer one as a chain.")
        # The innermost path around the layer that is in no loop is that of ``repeat``.
        outside = [other.scope for other in uses if not other.loops and trees.is_under(use.scope, other.scope)]
        place_of_loop = first_of_loop.setdefault(max(outside, key=len), place)
        # The arrays have a leading axis for the copies.
        shapes = {name: shape[1:] for name, shape in layer.shapes.items()}
        of_one = layer._replace(shapes=shapes, kind=_kind(layer.kind, shapes), copies=use.repeats)
        placed += [((place_of_loop, copy), of_one._replace(copy=copy)) for copy in range(use.repeats)]
    # The sort is stable, so the layers of a copy keep their order.
    return [layer for _, layer in sorted(placed, key=itemgetter(0))]


def _kind(name: str, shapes: Mapping[str, Shape]) -> str:
    """The kind of a layer: what its arrays tell; where they are those of several kinds, its name."""
    if "query/weight" in shapes:
        return "attention"
    if "hidden_weight" in shapes:
        hidden_size, width = shapes["hidden_weight"][-2], shapes["hidden_weight"][-1]
        return GATES.get(width // hidden_size, name)
    if "variance" in shapes:
        return "batch_norm"
    if "scale" in shapes:
        return "norm"
    if "negative_slope" in shapes:
        return "prelu"
    # A dense layer with a name of its own. Without a bias it could be an embedding, so then the name has to tell.
    has_weight_and_bias = set(shapes) == {"weight", "bias"} and len(shapes["weight"]) == 2
    return "dense" if has_weight_and_bias and name not in OF_ONE_WEIGHT else name
