"""Whole networks as programs in StableHLO, which run without the network's definition and on other platforms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax._src.config import traceback_in_locations_limit  # JAX has no public context for it
from jax.typing import DTypeLike

from functional_nn.core.errors import check, imported
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.core.shapes import Shapes, traced
from functional_nn.core.trees import PyTree, flatten, map_with_path
from functional_nn.core.validation import check_dtype, check_flag, check_trees
from functional_nn.storage.arrays import named_arrays, packed
from functional_nn.storage.files import check_path, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM = "program"
"""The name of the program in the file. The parameters have their paths, which begin with params/ or state/."""


def to_stablehlo(
    net: Layer,
    params: Params,
    state: State,
    in_shape: Shapes,
    path: str | os.PathLike[str] | None = None,
    *,
    gradient: bool = False,
    platforms: Sequence[str] = PLATFORMS,
    dtype: DTypeLike | None = None,
) -> jax.export.Exported:
    """The network in evaluation as a program in StableHLO, for batches of any size, and as a file.

    The result is a ``jax.export.Exported`` of ``(values, x)``, where ``values`` are all parameters and arrays of the
    state by their paths, such as ``params/dense_0/weight``. The file has the program for all the platforms and the
    values. JAX reads it, as ``docs/how_to/running_elsewhere.md`` shows: neither this package nor the code that defines
    the network is needed. JAX runs programs of its older versions for six months.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example, without the batch axis.
        path: the file, a safetensors file; by default none is written.
        gradient: whether the file also has the program of the gradient, for the method ``vjp`` of what JAX reads.
        platforms: some of "cpu", "cuda", "rocm" and "tpu".
        dtype: the type of the input; by default a floating-point type, or an integer type if the network takes tokens.

    Raises:
        InputError: if an argument cannot be used, or the package flatbuffers is missing.

    >>> import functional_nn as fnn, numpy as np, jax
    >>> net = fnn.chain(fnn.dense(3), fnn.relu)
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> exported = fnn.exchange.to_stablehlo(net, params, state, (4,), platforms=["cpu"])
    >>> values = fnn.trees.flatten({"params": params, "state": state})
    >>> exported.call(values, np.ones((7, 4), np.float32)).shape
    (7, 3)
    """
    net = as_layer(net)
    check_trees(params, state)
    gradient = check_flag("gradient", gradient)
    if dtype is not None:
        check_dtype(dtype)

    if path is not None:
        path = check_path("path", path)
        imported("flatbuffers", "path", extra="stablehlo")

    trees = {"params": params, "state": state}
    values = flatten(trees)

    def apply(values: Mapping[str, jax.Array], x: PyTree) -> PyTree:
        return net.apply(**map_with_path(lambda path, leaf: values[path], trees), x=x, train=False)[0]

    apply.__name__ = net.name
    with exporting(platforms) as export:
        program = traced(lambda x: export(apply)(values, of_any_batch(x)), in_shape, dtype)
        if path is not None:
            write_program(path, program, values, gradient=gradient)
    return program


@contextmanager
def exporting(platforms: Sequence[str]) -> Iterator[Callable[..., Callable[..., jax.export.Exported]]]:
    """A context with a function that exports functions for these platforms: ``export(function)(*shapes)``."""
    known = (*PLATFORMS, "rocm")
    is_list = isinstance(platforms, list | tuple) and len(platforms) > 0
    are_known = is_list and all(isinstance(name, str) and name in known for name in platforms)
    check("platforms", platforms, f"a list with some of {', '.join(known)}", are_known)
    # In a program for several platforms, every convolution is XLA's. It is without the paths of this computer.
    platform = platforms[0] if len(platforms) == 1 else SEVERAL_PLATFORMS
    with traceback_in_locations_limit(0), tracing_for(platform):
        yield lambda function: jax.export.export(jax.jit(function), platforms=tuple(platforms))


def write_program(path: Path, program: jax.export.Exported, arrays: PyTree, *, gradient: bool = False) -> None:
    """Writes a program with its arrays, which have their paths as names, and perhaps with that of the gradient."""
    content = np.frombuffer(program.serialize(vjp_order=int(gradient)), np.uint8)
    write_whole(path, packed(named_arrays(arrays) | {PROGRAM: content}, {}))


def of_any_batch(example: PyTree) -> PyTree:
    """The shapes and types of a batch, with a symbolic size in place of its own."""
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype), example)
