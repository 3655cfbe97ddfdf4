"""Pairing the layers of a network with the modules of PyTorch, exchanging their arrays, and comparing the outputs.

Layers and modules are paired in order, and a wrong pair of equal shapes gives no error. So both are run once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from functional_nn.core.errors import InputError, check, shortened
from functional_nn.core.layer import Layer, Params, State
from functional_nn.core.shapes import Shape, Shapes, is_shape, traced
from functional_nn.core.texts import suggest
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import is_function
from functional_nn.exchange.network_layers import Arrays, NetworkLayer, arrays_of, trees_of
from functional_nn.exchange.torch_maps import GROUPS, PYTORCH, Module, read_arrays, write_arrays
from functional_nn.jaxprs.walk import all_equations, array_type
from functional_nn.storage.arrays import MOST_LISTED, listed

Names: TypeAlias = Mapping[str, str]
"""For some layers, the path of the module with which each is paired."""

Outputs: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From a batch of inputs to the outputs of the other model, both in the layout of this package."""

Check: TypeAlias = bool | Outputs
"""Whether the outputs are compared, or the function that computes those of the other model."""


class Pairs(NamedTuple):
    """A network whose layers are paired with modules.

    Args:
        net: the network.
        in_shape: the shape of an example.
        pairs: each layer with its module, in the order in which the layers run.
    """

    net: Layer
    in_shape: Shapes
    pairs: Sequence[tuple[NetworkLayer, Module]]

    def read(self, dtype: np.dtype | None = None) -> tuple[Params, State]:
        """The trees of the network with the arrays of the modules, in their types or in one: ``(params, state)``."""
        arrays = [read_arrays(layer, module.arrays, dtype) for layer, module in self.pairs]
        self._check_fit(arrays)
        layers = [layer for layer, _ in self.pairs]
        return trees_of(self.net, self.in_shape, layers, [ours for ours in arrays if ours is not None])

    def write(self, params: Params, state: State) -> Arrays:
        """The arrays of the network for the modules, by their full names in the model."""
        fitting: list[Arrays | None] = []
        for layer, module in self.pairs:
            theirs = write_arrays(layer, arrays_of(layer, params, state), module.arrays) or {}
            # A bias of zeros that the module does not have changes nothing.
            spare = {name for name in set(theirs) - set(module.arrays) if "bias" in name and not np.any(theirs[name])}
            theirs = {name: array for name, array in theirs.items() if name not in spare}
            fitting.append(theirs if _shapes(theirs) == _shapes(module.arrays) else None)
        self._check_fit(fitting)
        # In C order, since safetensors writes the memory of an array as it is, also of a transposed one.
        return {
            module.names[name]: np.array(array, order="C")
            for (_, module), theirs in zip(self.pairs, fitting, strict=True)
            for name, array in (theirs or {}).items()
        }

    def _check_fit(self, exchanged: Sequence[Arrays | None]) -> None:
        """Requires arrays for each pair."""
        problems = [_misfit(*pair) for pair, arrays in zip(self.pairs, exchanged, strict=True) if arrays is None]
        if problems:
            raise InputError("net", "layers with the shapes of the PyTorch model", f"others: {listed(problems)}")

    def check(self, params: Params, state: State, check: Check, outputs: Outputs | None) -> None:
        """Runs the network and the model on a random batch, and compares their outputs.

        Args:
            params, state: the trees of the network.
            check: whether they are compared, or the function that computes the model's.
            outputs: the function that runs the model; None if there are parameters only.
        """
        if not check:
            return
        outputs = outputs if check is True else check
        if outputs is None:
            expected = "False, or a function that computes the model's outputs, since a state dict cannot be run"
            raise InputError("check", expected, "True")
        if not is_shape(self.in_shape):
            remedy = "Give check=False, and compare the outputs yourself."
            raise InputError("check", "a network of one array", f"one with the inputs {self.in_shape}", remedy)

        def apply(x: PyTree) -> PyTree:
            return self.net.apply(params, state, x, train=False)[0]

        def with_input(dtype: np.dtype) -> tuple[PyTree, ClosedJaxpr]:
            return traced(lambda x: (x, jax.make_jaxpr(apply)(x)), tuple(self.in_shape), dtype)

        try:
            made = with_input(next((array.dtype for array in jax.tree.leaves(params)), np.dtype(np.float32)))
        except (InputError, TypeError):
            made = with_input(np.dtype(np.int32))  # tokens
        x = random_batch(*made, EXAMPLES)
        found = np.asarray(apply(jnp.asarray(x)))
        try:
            expected = np.asarray(outputs(x))
        except Exception as error:  # the model is the user's, and may raise anything
            expected = f"a model that can be run on an input of shape {x.shape}"
            raise InputError("check", expected, f"{type(error).__name__}: {shortened(error)}", REMEDY) from error
        if expected.shape != found.shape or not jnp.issubdtype(found.dtype, jnp.floating):
            given = f"{expected.shape} of type {expected.dtype}"
            raise InputError("check", f"floating-point outputs of shape {found.shape}", given, REMEDY)
        if given := difference(found, expected):
            remedy = (
                "Compare the settings of the layers (activations, padding, epsilon), and the order of layers of equal "
                "shapes: names={path of a layer: path of its module} pairs them."
            )
            raise InputError("net", "a network with the outputs of the model", given, remedy)


def paired(
    net: Layer, in_shape: Shapes, layers: Sequence[NetworkLayer], modules: Sequence[Module], names: Names | None
) -> Pairs:
    """Pairs each layer with its module: those that ``names`` says, and the others of each group in their order."""
    unknown = [layer for layer in layers if layer.kind not in PYTORCH]
    if unknown:
        given = ", ".join(f"{layer.label} ({layer.kind})" for layer in unknown)
        raise InputError("net", f"layers that PyTorch has too ({', '.join(PYTORCH)})", given)
    by_label = {layer.label: layer for layer in layers}
    by_path = {module.path: module for module in modules}
    chosen: dict[str, Module] = {}
    names = {} if names is None else names
    are_texts = isinstance(names, Mapping) and all(isinstance(text, str) for pair in names.items() for text in pair)
    check("names", names, "a dict from paths of layers to paths of modules", are_texts)
    for label, path in names.items():
        known = (label, by_label, "layers of the network"), (path, by_path, "modules of the PyTorch model")
        for name, among, expected in known:
            if name not in among:
                raise InputError("names", expected, repr(name), suggest(name, among))
        chosen[label] = by_path.pop(path)
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
    return Pairs(net, in_shape, [(layer, chosen[layer.label]) for layer in layers])


def _shapes(arrays: Arrays) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _path(module: Module) -> str:
    return shortened(module.path) or "the model itself"


def _misfit(layer: NetworkLayer, module: Module) -> str:
    """A layer and a module that do not fit, with the shapes of their arrays."""
    ours, theirs = (
        ", ".join(f"{shortened(name)} {shape}" for name, shape in sorted(shapes.items())[:MOST_LISTED])
        for shapes in (layer.shapes, _shapes(module.arrays))
    )
    return f"{layer.label} ({layer.kind}: {ours}) does not fit {_path(module)} ({theirs})"


EXAMPLES = 8
TOLERANCES = {8: (1e-9, 1e-12), 4: (1e-4, 2e-6), 2: (0.05, 0.02)}
"""How far outputs may differ, by the bytes of a number.

The tolerance is a share of the outputs' variation over the examples, plus a share of the largest output. If layers are
paired wrongly, the outputs differ by about as much as they vary.
"""

REMEDY = "Give check=function from inputs to the model's outputs, both in the layout of this package, or check=False."


def check_argument(value: Any) -> Check:
    """Requires a flag or a function."""
    is_known = isinstance(value, bool) or is_function(value)
    check("check", value, "True, False, or a function from inputs to outputs", is_known)
    return value


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


def random_batch(x: PyTree, program: ClosedJaxpr, size: int) -> PyTree:
    """A batch of normally distributed numbers, tokens, and masks of sequences of different lengths.

    Args:
        x: the shapes and types of the arrays that a network takes.
        program: the traced program of the network.
        size: the number of examples.
    """
    rng = np.random.default_rng(size)
    # A token is a row of a table, and there is no way to tell which one. So all tokens are rows of the smallest one.
    tables = [array_type(one.invars[0]).shape for one in all_equations(program) if one.primitive.name == "gather"]
    tokens = min((shape[0] for shape in tables if shape and isinstance(shape[0], int)), default=2)

    def draw(like: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = (size, *like.shape[1:])
        if like.dtype == bool:
            lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
            return np.arange(shape[-1]) < lengths
        if jnp.issubdtype(like.dtype, jnp.integer):
            return rng.integers(0, tokens, shape).astype(like.dtype)
        return rng.normal(size=shape).astype(like.dtype)

    return jax.tree.map(draw, x)


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """How outputs of one shape differ by more than rounding, as a part of a sentence; empty if they do not."""
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return "" if np.array_equal(found, expected) else f"other values of type {found.dtype}"
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
