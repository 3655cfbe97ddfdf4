"""Networks as models in ONNX, which ONNX Runtime and other programs run without JAX; their conversion by jax2onnx."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from types import ModuleType
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun
from jax.typing import ArrayLike

from functional_nn.core.errors import InputError, failing_as, imported, shortened
from functional_nn.core.layer import Layer, Params, State, as_layer
from functional_nn.core.products import ONNX, tracing_for
from functional_nn.core.shapes import Shapes, is_known, traced
from functional_nn.core.trees import PyTree, flatten
from functional_nn.core.validation import check_trees
from functional_nn.exchange.comparison import difference, random_batch
from functional_nn.exchange.stablehlo import of_any_batch
from functional_nn.jaxprs.evaluate import Compute, EquationPath, Value, bind, evaluate, run_scan
from functional_nn.jaxprs.walk import array_type, equations, layer_of, scan_parts, trace
from functional_nn.storage.files import check_path, write_whole
from functional_nn.training.precision import PRECISIONS
from functional_nn.training.step import forward

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

    >>> import functional_nn as fnn, jax
    >>> net = fnn.chain(fnn.dense(3), fnn.relu)
    >>> params, state = net.init(jax.random.key(0), (4,))
    >>> model = fnn.exchange.to_onnx(net, params, state, (4,))  # doctest: +SKIP
    >>> [node.op_type for node in model.graph.node]  # doctest: +SKIP
    ['Gemm', 'Relu', 'Identity']
    """
    if path is not None:
        path = check_path("path", path)
    model = evaluation_model(net, params, state, lambda program_of: traced(program_of, in_shape))
    if path is not None:
        write_whole(path, model.SerializeToString())
    return model


def evaluation_model(
    net: Layer,
    params: Params,
    state: State,
    trace_with: Callable[[Callable[[PyTree], tuple[PyTree, ...]]], tuple[PyTree, ...]],
    names: Sequence[str] = (),
) -> onnx.ModelProto:
    """The network in evaluation as a model in ONNX, after ONNX Runtime has run it; see ``to_onnx``.

    Args:
        net, params, state: the network and its trees.
        trace_with: calls a function with a batch, or with its shapes and types.
        names: the names of the arrays of both trees, if the model takes them. Otherwise it contains them.
    """
    net = as_layer(net)
    check_trees(params, state)
    imported("onnxruntime", "net", extra="onnx")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    if size > LARGEST:
        raise InputError("params", "at most 2 GB, as in every file of ONNX", f"{size / 1e9:.1f} GB", REMEDY)

    with jax.enable_x64(False):
        arrays, structure = jax.tree.flatten(jax.tree.map(as_float32, (params, state)))
        taken = arrays if names else []

        @jax.jit
        def apply(taken: list[jax.Array], x: PyTree) -> PyTree:
            params, state = jax.tree.unflatten(structure, taken or arrays)
            return forward(net, PRECISIONS["float32"], params, state, x, train=False)[0]

        def program_of(example: PyTree) -> tuple[PyTree, ClosedJaxpr, PyTree]:
            x = of_any_batch(example)
            return x, *jax.make_jaxpr(apply, return_shape=True)(taken, x)

        with tracing_for(ONNX):
            x, program, y = trace_with(program_of)
        model = converted(program, net.name, [*names, *by_name("input", x)], list(by_name("output", y)))
        run = session_of(model)
        batches = [random_batch(x, program, size) for size in BATCHES]
        found = [run({**dict(zip(names, taken, strict=True)), **by_name("input", x)}) for x in batches]
        expected = [jax.tree.leaves(apply(taken, x)) for x in batches]
    for ours, theirs in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        wanted, output = np.concatenate(ours), np.concatenate(theirs)
        given = f"an output of shape {output.shape} and type {output.dtype}"
        if output.shape == wanted.shape and output.dtype == wanted.dtype:
            given = difference(output, wanted)
        if given:
            raise InputError("net", "a model with the outputs of the network in ONNX Runtime", given, REMEDY)
    return model


def as_float32(leaf: jax.Array | np.ndarray) -> jax.Array:
    array = jnp.asarray(leaf)
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def by_name(prefix: str, tree: PyTree) -> dict[str, jax.Array]:
    """The arrays of a tree by their names: the prefix and the keys that lead to them."""
    return {f"{prefix}/{path}".rstrip("/").replace("/", "_"): leaf for path, leaf in flatten(tree).items()}


def session_of(model: onnx.ModelProto) -> Callable[[Mapping[str, ArrayLike]], list[np.ndarray]]:
    """The function that runs a model in ONNX Runtime: from its inputs by name to its outputs.

    Raises:
        InputError: if the model cannot be loaded or run.
    """
    onnxruntime = imported("onnxruntime", "net", extra="onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, and need not be printed as well

    expected = "a model that ONNX Runtime can run"
    with failing_as("net", expected, remedy=REMEDY):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Mapping[str, ArrayLike]) -> list[np.ndarray]:
        with failing_as("net", expected, remedy=REMEDY):
            return session.run(None, {name: np.asarray(inputs[name]) for name in names})

    return run


OPSET = 21
"""The version of the operators. Runtimes of 2024 and later know it, also those in browsers."""

REMEDY = "Use other layers, or export the network by to_stablehlo, which takes every network."


def converted(
    program: ClosedJaxpr, name: str, input_names: Sequence[str], output_names: Sequence[str]
) -> onnx.ModelProto:
    """A traced program as a model in ONNX.

    Args:
        program: the program. Its first axes may be of a symbolic size.
        name: the name of the model.
        input_names, output_names: the names of the arrays that it takes and returns.

    Raises:
        InputError: if jax2onnx is missing or cannot convert an operation, which the error names.
    """
    # The same program without calls, and with some operations replaced by others that jax2onnx can convert.
    shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in program.in_avals]
    convertible = trace(lambda *arguments: evaluate(program, arguments, _replaced), *shapes)
    for scope, equation, *_ in equations(convertible):
        if equation.primitive.name == "random_bits":  # those of ONNX would be other numbers than those of JAX
            given = f"random numbers in {layer_of(scope)[0] or 'the network'}"
            raise InputError("net", "layers that draw no random numbers", given, REMEDY)
    with _process_left_unchanged():
        jax2onnx = imported("jax2onnx", "net", extra="onnx")
        try:
            model = _convert(jax2onnx, convertible, name, input_names)
        except Exception as error:  # jax2onnx raises errors of many kinds
            given = f"{_first_that_fails(jax2onnx, convertible)} ({shortened(error)})"
            raise InputError("net", "operations that jax2onnx can convert", given, REMEDY) from error
    _remove_unread_constants(model.graph)
    # Two outputs, or an output and an input, may be one value, so each becomes one of its own with its name.
    for output, output_name in zip(model.graph.output, output_names, strict=True):
        model.graph.node.add(op_type="Identity", input=[output.name], output=[output_name])
        output.name = output_name
    return model


def _replaced(path: EquationPath, equation: JaxprEqn, operands: list[Value], compute: Compute) -> list[Value]:
    """The hook of ``evaluate``: the results of an equation, computed by operations that jax2onnx can convert."""
    # The scopes of layers are kept, so that an error can name the layer.
    scope = str(equation.source_info.name_stack)
    with jax.named_scope(scope) if scope else contextlib.nullcontext():
        if equation.primitive.name == "scan" and scan_parts(equation).reverse:
            return _scanned_forward(path, equation, operands)
        replacement = REPLACEMENTS.get(equation.primitive.name)
        return [replacement(equation, *operands)] if replacement else compute(operands)


def _scanned_forward(path: EquationPath, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
    """A ``lax.scan`` in reverse by a forward one of reversed arrays. jax2onnx converts only those."""
    scan = scan_parts(equation)
    constants, carry, inputs = scan.split_operands(operands)

    def body(*arguments: Value) -> list[Value]:
        return evaluate(scan.body, arguments, _replaced, path)

    operands = [*constants, *carry, *(lax.rev(x, [0]) for x in inputs)]
    carry, outputs = scan.split_results(run_scan(scan._replace(reverse=False), operands, body))
    return [*carry, *(lax.rev(y, [0]) for y in outputs)]


def _padded(equation: JaxprEqn, x: jax.Array, value: jax.Array) -> jax.Array:
    """``lax.pad`` by concatenations and slices. jax2onnx converts it neither in a batch of symbolic size nor inside."""
    for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
        if interior:
            # Each entry becomes a row that begins with it and goes on with padding. The rows are joined to one again.
            rows = lax.expand_dims(x, [axis + 1])
            rows = lax.concatenate([rows, _filled(rows, axis + 1, interior, value)], axis + 1)
            x = lax.collapse(rows, axis, axis + 2)
        start, end = max(-low, 0), x.shape[axis] - interior - max(-high, 0)
        if (start, end) != (0, x.shape[axis]):
            x = lax.slice_in_dim(x, start, end, axis=axis)
        edges = [_filled(x, axis, count, value) if count > 0 else None for count in (low, high)]
        parts = [part for part in (edges[0], x, edges[1]) if part is not None]
        x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _filled(like: jax.Array, axis: int, count: int, value: jax.Array) -> jax.Array:
    """An array of one value, of the same shape as another one except for the size of one axis."""
    return lax.broadcast_in_dim(value, (*like.shape[:axis], count, *like.shape[axis + 1 :]), ())


def _clamped(equation: JaxprEqn, low: jax.Array, x: jax.Array, high: jax.Array) -> jax.Array:
    """``lax.clamp`` by a maximum and a minimum. jax2onnx does not convert it for a batch of symbolic size."""
    return jnp.minimum(jnp.maximum(x, low), high)


def _product(equation: JaxprEqn, x: jax.Array, y: jax.Array) -> jax.Array:
    """``lax.dot_general`` as a product of matrices. Of other products jax2onnx writes a wrong ``Gemm``."""
    if not is_known(x.size * y.size):  # a batch of symbolic size, in evaluation
        return bind(equation, [x, y])[0]
    (x_sums, y_sums), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_free = [axis for axis in range(x.ndim) if axis not in (*x_sums, *x_batch)]
    y_free = [axis for axis in range(y.ndim) if axis not in (*y_sums, *y_batch)]
    rows = lax.transpose(x, (*x_batch, *x_free, *x_sums))
    columns = lax.transpose(y, (*y_batch, *y_sums, *y_free))
    sizes = [x.shape[axis] for axis in x_batch]
    sums = math.prod(x.shape[axis] for axis in x_sums)
    product = jnp.matmul(rows.reshape(*sizes, -1, sums), columns.reshape(*sizes, sums, -1))
    return product.reshape(array_type(equation.outvars[0]).shape)


def _selected(equation: JaxprEqn, which: jax.Array, *cases: jax.Array) -> jax.Array:
    """``lax.select_n``; of booleans by logical operations, since ONNX Runtime has no ``Where`` for them."""
    if len(cases) != 2 or cases[0].dtype != bool:
        return bind(equation, [which, *cases])[0]
    return (which & cases[1]) | (~which & cases[0])


def _integer_power(equation: JaxprEqn, x: jax.Array) -> jax.Array:
    """``lax.integer_pow`` as products, which are faster than ``Pow``."""
    power = equation.params["y"]
    return reduce(jnp.multiply, [x] * power) if 0 < power < 5 else bind(equation, [x])[0]


def _sum(equation: JaxprEqn, x: jax.Array) -> jax.Array:
    """``lax.reduce_sum`` axis by axis, and an axis of more than 32 numbers in two steps of about √size numbers.

    ONNX Runtime adds one number after the other, and with one step its rounding error was up to 70 times that of XLA.
    """
    for axis in sorted(equation.params["axes"], reverse=True):
        size = x.shape[axis]
        if is_known(x.size) and size > 32:
            part = max(part for part in range(1, math.isqrt(size) + 1) if size % part == 0)
            x = jnp.sum(x.reshape(*x.shape[:axis], size // part, part, *x.shape[axis + 1 :]), axis + 1)
        x = jnp.sum(x, axis)
    return x


def _rounded(equation: JaxprEqn, x: jax.Array) -> jax.Array:
    """``lax.reduce_precision`` as Veltkamp's splitting: the sum and the difference round off the last digits."""
    large = x * (2.0 ** (jnp.finfo(x.dtype).nmant - equation.params["mantissa_bits"]) + 1)
    return large - (large - x)


def _shifted_left(equation: JaxprEqn, x: jax.Array, places: jax.Array) -> jax.Array:
    """``lax.shift_left`` of unsigned integers. ONNX shifts no others."""
    return lax.shift_left(x.astype(jnp.uint32), places.astype(jnp.uint32)).astype(x.dtype)


def _float_of_bits(equation: JaxprEqn, bits: jax.Array) -> jax.Array:
    """``lax.bitcast_convert_type`` of the bits of a positive normal number of float32."""
    exponent, fraction = bits // 2**23 - 127, bits % 2**23
    return jnp.power(2.0, exponent.astype(jnp.float32)) * (1 + fraction.astype(jnp.float32) / 2**23)


REPLACEMENTS: Mapping[str, Callable[..., jax.Array]] = {
    "name": lambda equation, x: x,  # the mark of a layer's output
    "pad": _padded,
    "clamp": _clamped,
    "dot_general": _product,
    "bitcast_convert_type": _float_of_bits,
    "shift_left": _shifted_left,
    "integer_pow": _integer_power,
    "reduce_sum": _sum,
    "select_n": _selected,
    "reduce_precision": _rounded,
}
"""Functions that compute the result of an equation from its operands in another way."""


def _convert(
    jax2onnx: ModuleType, program: ClosedJaxpr, name: str, input_names: Sequence[str] | None = None
) -> onnx.ModelProto:
    return jax2onnx.to_onnx(
        jaxpr_as_fun(program),
        inputs=[jax.ShapeDtypeStruct(one.shape, one.dtype) for one in program.in_avals],
        model_name=name,
        opset=OPSET,
        input_names=input_names,
    )


def _remove_unread_constants(graph: onnx.GraphProto) -> set[str]:
    """Removes the constants that nothing reads, also those of loops, and returns the names of all values that are read.

    jax2onnx leaves them in loops. ONNX Runtime would print a warning about each when the model is loaded.
    """
    read = {output.name for output in graph.output}
    for node in graph.node:
        read.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= _remove_unread_constants(attribute.g)
    for number in reversed(range(len(graph.initializer))):
        if graph.initializer[number].name not in read:
            del graph.initializer[number]
    return read


def _first_that_fails(jax2onnx: ModuleType, program: ClosedJaxpr) -> str:
    """The first operation that jax2onnx cannot convert, and its layer.

    Beginnings of the program are converted: longer ones as long as they convert, and shorter ones otherwise.
    """
    operations = program.jaxpr.eqns

    def fails(count: int) -> bool:
        beginning = program.jaxpr.replace(eqns=operations[:count], outvars=operations[count - 1].outvars)
        try:
            _convert(jax2onnx, program.replace(jaxpr=beginning), "beginning")
        except Exception:
            return True
        return False

    # If the beginnings without the last operation convert, it is the last one.
    operation = operations[bisect_left(range(1, len(operations)), True, key=fails)]
    layer, _ = layer_of(str(operation.source_info.name_stack))
    return f"{operation.primitive.name} in {layer or 'the network'}"


@contextlib.contextmanager
def _process_left_unchanged() -> Iterator[None]:
    """Undoes what jax2onnx changes in the process: functions of JAX, warning filters and the root logger."""
    modules = [
        module for name, module in list(sys.modules.items()) if f"{name}.".startswith("jax.") and "._src" not in name
    ]
    functions = [(module, name, value) for module in modules for name, value in vars(module).items() if callable(value)]
    silent = logging.NullHandler()
    level = logging.root.manager.disable
    # jax2onnx logs to the root logger, which gets a handler for the terminal if it has none.
    logging.root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        logging.root.removeHandler(silent)
        for module, name, value in functions:
            if vars(module).get(name) is not value:
                setattr(module, name, value)
