"""Whole networks as programs in StableHLO, which run without the network's definition and on other platforms."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.config import traceback_in_locations_limit  # JAX has no public context for it
from jax.extend.mlir import ir
from jax.interpreters import mlir
from jax.typing import ArrayLike, DTypeLike

from functional_nn.core import trees
from functional_nn.core.errors import DataError, InputError, check, imported, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.core.shapes import Shapes, traced
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import check_dtype, check_flag, check_trees
from functional_nn.storage.arrays import check_not_narrowed, named_arrays, packed, unpacked
from functional_nn.storage.files import check_path, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM = "program"
"""The name of the program in the file. The parameters have their paths, which begin with params/ or state/."""

SAFE_TARGETS = ("shape_assertion", "stablehlo.dynamic_reduce_window", "stablehlo.dynamic_rng_bit_generator")
"""The custom calls that JAX itself replaces by operations of StableHLO. Others call native functions by their name."""

MOST_DEPTH = 1000
"""How deep operations may be inside others, such as those of loops and branches."""

PLAIN_SIZE = re.compile(rb"[\w*+ -]{1,200}")
"""A symbolic size without powers and functions, which JAX could take for ever to read."""


@dataclass(frozen=True, repr=False)
class ExportedNetwork:
    """A network as a program, with its parameters. Calling it with x gives the output in evaluation.

    Args:
        params, state: the trees of the network. Other values of the same shapes may be put in their place
            (``dataclasses.replace``), as for fine-tuning.
        program: a ``jax.export.Exported`` of ``(params, state, x)``.
    """

    params: Params
    state: State
    program: jax.export.Exported

    def __call__(self, x: ArrayLike | PyTree) -> jax.Array | PyTree:
        """The output of the network in evaluation for a batch of any size."""
        return self.program.call(self.params, self.state, x)

    def vjp(self, x: ArrayLike | PyTree, y_bar: ArrayLike | PyTree) -> tuple[Params, jax.Array | PyTree]:
        """The cotangents of the parameters and of x: ``(params_bar, x_bar)``.

        Raises:
            InputError: if the file has no program of the gradient.
        """
        if not self.program.has_vjp():
            expected = "a file with a program of the gradient"
            raise InputError("network", expected, "one without", "Export it by to_stablehlo(…, gradient=True).")
        leaves, structure = jax.tree.flatten((self.params, self.state, x))
        bars = self.program.vjp().call(*leaves, *jax.tree.leaves(y_bar))
        params_bar, _, x_bar = jax.tree.unflatten(structure, bars)
        return params_bar, x_bar

    @property
    def text(self) -> str:
        """The program as text."""
        return self.program.mlir_module()

    def __repr__(self) -> str:
        platforms = ", ".join(self.program.platforms)
        *_, x = jax.tree.unflatten(self.program.in_tree, self.program.in_avals)[0]
        shapes = ", ".join(f"{leaf.dtype}{tuple(map(str, leaf.shape))}".replace("'", "") for leaf in jax.tree.leaves(x))
        return f"ExportedNetwork({self.program.fun_name} of {shapes} for {platforms})"


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
) -> ExportedNetwork:
    """The network in evaluation as a program in StableHLO, for batches of any size, and as a file.

    The file has the program for all the platforms and the parameters. ``load_stablehlo`` reads it, and the code that
    defines the network is not needed. JAX runs programs of its older versions for six months.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example, without the batch axis.
        path: the file, a safetensors file; by default none is written.
        gradient: whether the file also has the program of the gradient, for ``ExportedNetwork.vjp``.
        platforms: some of "cpu", "cuda", "rocm" and "tpu".
        dtype: the type of the input; by default a floating-point type, or an integer type if the network takes tokens.

    Raises:
        InputError: if an argument cannot be used, or the package flatbuffers is missing.

    >>> import functional_nn as fnn, numpy as np, jax
    >>> net = fnn.chain(fnn.dense(3), fnn.relu)
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> exported = fnn.exchange.to_stablehlo(net, params, state, (4,), platforms=["cpu"])
    >>> exported
    ExportedNetwork(chain of float32(batch, 4) for cpu)
    >>> exported(np.ones((7, 4), np.float32)).shape
    (7, 3)
    """
    net = as_layer(net)
    check_trees(params, state)
    gradient = check_flag("gradient", gradient)
    if dtype is not None:
        check_dtype("dtype", dtype)

    if path is not None:
        path = check_path("path", path)
        imported("flatbuffers", "flatbuffers", "path", extra="stablehlo")

    def apply(params: Params, state: State, x: PyTree) -> PyTree:
        return net.apply(params, state, x, train=False)[0]

    apply.__name__ = net.name

    with exporting(platforms) as export:
        program = traced(lambda x: export(apply)(params, state, of_any_batch(x)), in_shape, dtype)
        if path is not None:
            write_program(path, program, {"params": params, "state": state}, gradient=gradient)
    return ExportedNetwork(params, state, program)


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


def load_stablehlo(path: str | os.PathLike[str]) -> ExportedNetwork:
    """Reads a file of ``to_stablehlo``.

    Neither reading the file nor calling the network can run code of the file's author: a program that calls a native
    function by its name is refused. This also refuses linear algebra, such as ``jnp.linalg.svd``. The program can
    still take any time and memory, and XLA, which compiles it, is not made for hostile programs.

    Raises:
        DataError: if the file is missing, damaged, or of a version that this JAX cannot read; if its program calls a
            native function; or if it has 64-bit numbers and JAX has them switched off.
        InputError: if the package flatbuffers is missing.
    """
    path = check_path("path", path)
    imported("flatbuffers", "flatbuffers", "path", extra="stablehlo")
    arrays, _ = unpacked(path, follow_links=True)
    program = arrays.pop(PROGRAM, None)
    if program is None:
        raise DataError(str(path), "a file that to_stablehlo wrote", "one without a program")
    if "step" in arrays:
        remedy = "Load it as docs/how_to/training_without_python.md shows."
        raise DataError(str(path), "a program of a network", "one of a training step", remedy)
    check_not_narrowed(arrays, str(path))
    try:
        content = bytearray(program.tobytes())
        _check_size(content)
        exported = jax.export.deserialize(content)
        # MLIR reads, walks and frees nested operations by recursion. The stack of this thread could end.
        usual = threading.stack_size(min(2**24 + 128 * len(content), 2**30))
        try:
            with ThreadPoolExecutor(1) as threads:
                calls = threads.submit(_native_calls, exported).result()
        finally:
            threading.stack_size(usual)
    except Exception as error:  # JAX and flatbuffers raise errors of many kinds
        raise DataError(str(path), "a program that this JAX can read", shortened(error)) from None
    if calls:
        remedy = "If you trust the file's author, read it by jax.export.deserialize."
        given = f"one that calls {shortened(', '.join(calls))}"
        raise DataError(str(path), "a program that calls no native function", given, remedy)
    tree = trees.unflatten({name: jnp.asarray(array) for name, array in arrays.items()})
    return ExportedNetwork(tree.get("params", {}), tree.get("state", {}), exported)


def _check_size(content: bytearray) -> None:
    """Requires that a program is no larger in memory than in its file, and has plain sizes, before JAX reads it.

    Parts of a file can be used more than once. So a small one can have a huge tree, or a million long names. JAX itself
    writes each part anew.
    """
    from jax._src.export import serialization_generated as reader  # JAX's public functions read all or nothing

    left, waiting = len(content), [reader.Exported.GetRootAs(content)]
    while waiting:
        part = waiting.pop()
        for name in _entries(type(part)):
            read = getattr(part, name)
            length = getattr(part, f"{name}Length", None)
            count = 1 if length is None else length()
            left -= 0 if length is None else count
            for value in map(read, range(count)) if length is not None else [read()]:
                if isinstance(value, int) or value is None:
                    break  # so are all others
                left -= 4 + (len(value) if isinstance(value, bytes) else 0)
                if left < 0:
                    raise ValueError("parts that are used more than once")
                if not isinstance(value, bytes):
                    waiting.append(value)
                elif name == "Shape" and not PLAIN_SIZE.fullmatch(value):  # it may be as large as 9^3000000000
                    raise ValueError(f"the size {shortened(value.decode(errors='replace'))}")


@cache
def _entries(kind: type) -> list[str]:
    """The names of the entries of a part of a program, which are methods of its class."""
    names = [name for name in vars(kind) if not name.startswith(("_", "GetRootAs", "Init"))]
    return [name for name in names if not name.endswith(("Length", "AsNumpy", "IsNone"))]


def _native_calls(program: jax.export.Exported) -> list[str]:
    """The native functions that a program, or its gradient, calls by name."""
    found: set[str] = set()
    above: list[ir.Operation] = []
    depth = 0

    def look(operation: ir.Operation) -> ir.WalkResult:
        nonlocal depth
        while above and above[-1] != operation.parent:
            above.pop()
        above.append(operation)
        depth = max(depth, len(above))
        if depth > MOST_DEPTH:
            return ir.WalkResult.INTERRUPT
        if operation.name.endswith("custom_call"):
            found.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        program.mlir_module(serialized=False).operation.walk(look, ir.WalkOrder.PRE_ORDER)
        above.clear()
    if depth > MOST_DEPTH:
        raise ValueError(f"operations inside each other, more than {MOST_DEPTH:,} deep")
    more = _native_calls(program.vjp()) if program.has_vjp() else []
    return sorted(found.difference(SAFE_TARGETS).union(more))
