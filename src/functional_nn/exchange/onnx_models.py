"""Whole networks as models in ONNX, which ONNX Runtime and other programs run without JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from functional_nn.core.errors import InputError, imported, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.layer_checks import check_trees
from functional_nn.core.shapes import Shapes, traced
from functional_nn.core.trees import PyTree
from functional_nn.exchange.onnx_conversion import REMEDY, converted
from functional_nn.exchange.output_check import difference
from functional_nn.jaxprs.inner_programs import array_type
from functional_nn.jaxprs.walk import all_equations
from functional_nn.storage.files import check_path, write_whole

if TYPE_CHECKING:
    import onnx  # pyright: ignore[reportMissingImports]

BATCHES = (1, 2, 5)
"""The sizes of the batches for which a model is checked."""

LARGEST = 2**31 - 1
"""The largest size of a message of Protocol Buffers, in bytes. A model in ONNX is such a message."""


def to_onnx(
    net: Layer, params: Params, state: State, in_shape: Shapes, path: str | os.PathLike[str] | None = None
) -> onnx.ModelProto:
    """The network in evaluation as a model in ONNX, for batches of any size, and as a file.

    The model has the parameters. It takes and returns what ``net.apply`` does, with the batch as the first axis and the
    channels as the last one. An array is called ``input`` and ``output``. Several arrays are called by their keys, such
    as ``input_image`` in a dict, ``input_0`` in a tuple, and ``input_values`` and ``input_mask`` in a masked sequence.
    Its numbers are of the types float32, int32 and bool; parameters of other floating-point types are converted.

    ONNX Runtime runs the model on random batches of 1, 2 and 5 examples before it is written. Its outputs have to agree
    with those of the network.

    The conversion is by jax2onnx, which replaces functions of JAX while it runs. Do not use JAX in other threads then.

    Args:
        net: the network.
        params, state: its trees.
        in_shape: the shape of one example, without the batch axis.
        path: the file, by convention with the ending .onnx; by default none is written.

    Raises:
        InputError: if jax2onnx cannot convert an operation of the network, if ONNX Runtime cannot run the model or
            computes other outputs, if the parameters are larger than 2 GB, or if one of these packages is missing.

    >>> import functional_nn as fnn
    >>> net = fnn.chain(fnn.dense(3), fnn.relu)
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> model = to_onnx(net, params, state, (4,))  # doctest: +SKIP
    >>> [node.op_type for node in model.graph.node]  # doctest: +SKIP
    ['Gemm', 'Relu', 'Identity']
    """
    net = as_layer(net)
    check_trees(params, state)
    if path is not None:
        path = check_path("path", path)
    imported("onnxruntime", "onnxruntime", "net", extra="onnx")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    if size > LARGEST:
        raise InputError("params", "at most 2 GB, as in every file of ONNX", f"{size / 1e9:.1f} GB", REMEDY)

    with jax.enable_x64(False):
        params, state = jax.tree.map(_as_float32, (params, state))

        @jax.jit
        def apply(x: PyTree) -> PyTree:
            return net.apply(params, state, x, train=False)[0]

        (batch,) = jax.export.symbolic_shape("batch")

        def program_of(example: PyTree) -> tuple[PyTree, ClosedJaxpr, PyTree]:
            x = jax.tree.map(lambda one: jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype), example)
            return x, *jax.make_jaxpr(apply, return_shape=True)(x)

        x, program, y = traced(program_of, in_shape)
        model = converted(program, net.name, list(_by_name("input", x)), list(_by_name("output", y)))
        content = model.SerializeToString()
        _check_by_running(content, apply, [_random_batch(x, program, size) for size in BATCHES])
    if path is not None:
        write_whole(path, content)
    return model


def _as_float32(leaf: jax.Array | np.ndarray) -> jax.Array:
    array = jnp.asarray(leaf)
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _by_name(prefix: str, tree: PyTree) -> dict[str, jax.Array]:
    """The arrays of a tree by their names: the prefix and the keys that lead to them."""
    paths, _ = jax.tree.flatten_with_path(tree)
    keys = [jax.tree_util.keystr(path, simple=True, separator="_") for path, _ in paths]
    return {f"{prefix}_{key}" if key else prefix: leaf for key, (_, leaf) in zip(keys, paths, strict=True)}


def _random_batch(x: PyTree, program: ClosedJaxpr, size: int) -> PyTree:
    """A batch of normally distributed numbers, tokens, and masks of sequences of different lengths."""
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


def _check_by_running(content: bytes, apply: Callable[[PyTree], PyTree], batches: Sequence[PyTree]) -> None:
    """Runs a model by ONNX Runtime and compares its outputs with those of the network.

    Raises:
        InputError: if they differ, or if the model cannot be run.
    """
    onnxruntime = imported("onnxruntime", "onnxruntime", "net", extra="onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, and need not be printed as well
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = [session.run(None, _by_name("input", x)) for x in batches]
    except Exception as error:  # ONNX Runtime raises errors of many kinds
        raise InputError("net", "a model that ONNX Runtime can run", shortened(error), REMEDY) from error
    expected = [jax.tree.leaves(apply(x)) for x in batches]
    for ours, theirs in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        _check_output(np.concatenate(ours), np.concatenate(theirs))


def _check_output(expected: np.ndarray, found: np.ndarray) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        given = f"one of shape {found.shape} and type {found.dtype}"
        wanted = f"an output of shape {expected.shape} and type {expected.dtype} from ONNX Runtime"
        raise InputError("net", wanted, given, REMEDY)
    if jnp.issubdtype(expected.dtype, jnp.floating):
        given = difference(found, expected)
    else:
        given = "" if np.array_equal(found, expected) else f"other values of type {found.dtype}"
    if given:
        raise InputError("net", "a model with the outputs of the network in ONNX Runtime", given, REMEDY)
