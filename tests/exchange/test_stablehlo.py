"""Whole networks as programs."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.errors import DataError, InputError
from functional_nn.core.layer import Layer
from functional_nn.exchange import load_stablehlo, to_stablehlo
from functional_nn.exchange.stablehlo import PLAIN_SIZE

pytest.importorskip("flatbuffers")
serialization = pytest.importorskip("jax._src.export.serialization")
BATCHES = (1, 7, 64)


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of all other tests, since Optax mixes types."""


def images(count):
    return np.random.default_rng(count).uniform(size=(count, 28, 28, 1)).astype("float32")


def check(net, params, state, path, **options):
    to_stablehlo(net, params, state, (28, 28, 1), path, **options)
    loaded = load_stablehlo(path)
    for count in BATCHES:
        x = images(count)
        expected, _ = net.apply(params, state, x, train=False)
        assert np.abs(np.asarray(loaded(x)) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    return loaded


@pytest.mark.slow
def test_a_network_with_batch_norm_and_its_gradient(tmp_path):
    net = fnn.chain(fnn.conv(2, 3), fnn.batch_norm(), fnn.relu, fnn.max_pool(2), fnn.flatten(), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (28, 28, 1))
    loaded = check(net, params, state, tmp_path / "net.stablehlo", gradient=True)
    assert repr(loaded) == "ExportedNetwork(chain of float32(batch, 28, 28, 1) for cpu, cuda, tpu)"
    assert loaded.text.count("stablehlo.convolution") == 3  # one for each platform
    x, y_bar = images(5), np.ones((5, 3), "float32")
    params_bar, x_bar = loaded.vjp(x, y_bar)
    _, pullback = jax.vjp(lambda p, x: net.apply(p, state, x, train=False)[0], params, x)
    expected = pullback(y_bar)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), (params_bar, x_bar), expected)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, params_bar)
    y, _ = net.apply(moved, state, x, train=False)
    np.testing.assert_allclose(dataclasses.replace(loaded, params=moved)(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("platforms", "convolutions"), [(["cpu"], 0), (["cuda"], 1), (["cpu", "cuda"], 2)])
def test_a_program_has_the_convolutions_of_its_platforms(platforms, convolutions):
    """One for each of several platforms. For CPUs alone, it is a matrix product."""
    net = fnn.chain(fnn.conv(2, 3), fnn.relu)
    program = to_stablehlo(net, *net.init(jax.random.key(0), (6, 6, 1)), (6, 6, 1), platforms=platforms)
    assert program.text.count("stablehlo.convolution") == convolutions


@pytest.mark.processes
def test_the_file_is_read_without_this_package(tmp_path):
    """Another process reads it and does not import this package."""
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (3,))
    path = tmp_path / "net.stablehlo"
    to_stablehlo(net, params, state, (3,), path, platforms=["cpu"])
    program = (
        "import sys, jax, numpy as np; from safetensors.numpy import load_file; file = load_file(sys.argv[1]);"
        "exported = jax.export.deserialize(bytearray(file.pop('program').tobytes()));"
        "params = {name.removeprefix('params/'): array for name, array in file.items()};"
        "assert 'functional_nn' not in sys.modules;"
        "print(np.asarray(exported.call(params, {}, np.ones((1, 3), np.float32))).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    expected = net.apply(params, state, np.ones((1, 3), np.float32), train=False)[0]
    np.testing.assert_allclose(eval(done.stdout), expected, rtol=1e-6)


def test_64_bit_numbers_are_not_narrowed_without_a_word(tmp_path):
    net = fnn.dense(2)
    with jax.enable_x64(True):
        params, state = jax.tree.map(lambda leaf: leaf.astype("float64"), net.init(jax.random.key(0), (3,)))
        to_stablehlo(net, params, state, (3,), tmp_path / "wide", platforms=["cpu"], dtype="float64")
        load_stablehlo(tmp_path / "wide")
    with pytest.raises(DataError, match="expected 64-bit numbers switched on, got 64-bit params/bias, params/weight"):
        load_stablehlo(tmp_path / "wide")


def test_wrong_arguments_and_files(tmp_path):
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (3,))
    path = tmp_path / "net.stablehlo"
    for platforms in ("cpu", [], ["gpu"], 3, None):
        with pytest.raises(InputError, match=r"platforms: expected a list with some of cpu, cuda, tpu, rocm"):
            to_stablehlo(net, params, state, (3,), platforms=platforms)
    with pytest.raises(DataError, match=r"expected a safetensors file, got No such file"):
        load_stablehlo(path)
    fnn.storage.save_parameters(path, params, state)
    with pytest.raises(DataError, match=r"got one without a program"):
        load_stablehlo(path)
    to_stablehlo(net, params, state, (3,), path, platforms=["cpu"])
    with pytest.raises(InputError, match=r"expected a file with a program of the gradient, got one without"):
        load_stablehlo(path).vjp(np.ones((1, 3), "float32"), np.ones((1, 2), "float32"))
    whole = path.read_bytes()
    for place in range(8, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError):
            load_stablehlo(path)


@jax.custom_vjp
def factored_in_the_gradient(x):
    return x


factored_in_the_gradient.defvjp(lambda x: (x, x), lambda x, y_bar: (y_bar * factored(x)[0, 0],))


def factored(x):
    """A Cholesky factorization, which calls a native function, inside an operation."""
    return jax.lax.cond(x.sum() > 0, jnp.linalg.cholesky, jnp.negative, jnp.eye(2) * x.sum())


@pytest.mark.parametrize("function", [factored, factored_in_the_gradient])
def test_a_program_that_calls_a_native_function_is_refused(function, tmp_path):
    path = tmp_path / "net.stablehlo"
    net = Layer("calls", lambda key, in_shape: ({}, {}), lambda params, state, x, **_: (function(x), state, ()))
    to_stablehlo(net, {}, {}, (3,), path, platforms=["cpu"], gradient=function is factored_in_the_gradient)
    with pytest.raises(DataError, match="a program that calls no native function, got one that calls lapack_"):
        load_stablehlo(path)


def test_programs_of_symbolic_sizes_are_read(tmp_path):
    """JAX writes a cumulative sum over the batch as a custom call, which it replaces by other operations."""
    path = tmp_path / "net.stablehlo"
    net = Layer("sums", lambda key, in_shape: ({}, {}), lambda params, state, x, **_: (jnp.cumsum(x, 0), state, ()))
    to_stablehlo(net, {}, {}, (3,), path)
    np.testing.assert_allclose(load_stablehlo(path)(np.ones((4, 3), np.float32))[:, 0], [1, 2, 3, 4])


@pytest.mark.parametrize("has_names", [False, True])
def test_a_small_file_with_a_huge_tree_is_refused(tmp_path, monkeypatch, has_names):
    """Each container has the next one twice, or one long name for all. To build the tree would take for ever."""

    def named(builder, _):
        name = builder.CreateString("x" * 10_000)
        reader.PyTreeDefStartChildrenNamesVector(builder, 1000)
        for _ in range(1000):
            builder.PrependUOffsetTRelative(name)
        names = builder.EndVector()
        reader.PyTreeDefStart(builder)
        reader.PyTreeDefAddChildrenNames(builder, names)
        return reader.PyTreeDefEnd(builder)

    def deep(builder, _):
        reader.PyTreeDefStart(builder)
        reader.PyTreeDefAddKind(builder, reader.PyTreeDefKind.none)
        node = reader.PyTreeDefEnd(builder)
        for _ in range(60):
            reader.PyTreeDefStartChildrenVector(builder, 2)
            builder.PrependUOffsetTRelative(node)
            builder.PrependUOffsetTRelative(node)
            children = builder.EndVector()
            reader.PyTreeDefStart(builder)
            reader.PyTreeDefAddKind(builder, reader.PyTreeDefKind.tuple)
            reader.PyTreeDefAddChildren(builder, children)
            node = reader.PyTreeDefEnd(builder)
        return node

    reader = serialization.ser_flatbuf
    monkeypatch.setattr(serialization, "_serialize_pytreedef", named if has_names else deep)
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (3,))
    to_stablehlo(net, params, state, (3,), tmp_path / "net", platforms=["cpu"])
    with pytest.raises(DataError, match="parts that are used more than once"):
        load_stablehlo(tmp_path / "net")


def test_a_size_that_takes_for_ever_to_read_is_refused():
    for size in (b"9^3000000000", b"b^\\\n9000", b"max(a+b, 1)^90", b"b^9_000", b"b+" * 600):
        assert not PLAIN_SIZE.fullmatch(size)
    for size in (b"64", b"batch_2", b"2*b + 1"):
        assert PLAIN_SIZE.fullmatch(size)


def nested(depth):
    """A program as MLIR's bytes whose branches are inside each other."""
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo
    from jax.interpreters import mlir

    text = (
        "func.func public @main(%a: tensor<3x2xf32>) -> tensor<i32> { %c = stablehlo.constant dense<0> : tensor<i32> "
    )
    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(text + "return %c : tensor<i32> }")
        zero, end = module.body.operations[0].regions[0].blocks[0].operations
        for _ in range(depth):
            case = stablehlo.CaseOp([zero.result.type], zero.result, 1, ip=ir.InsertionPoint(end))
            end = stablehlo.ReturnOp([zero.result], ip=ir.InsertionPoint(case.branches[0].blocks.append()))
        return mlir.module_to_bytecode(module)


def test_deeply_nested_operations_are_refused(tmp_path, monkeypatch):
    """MLIR reads them by recursion, which ended the process. In a larger stack it does not."""
    net, export = fnn.dense(2), jax.export.export
    params, state = net.init(jax.random.key(0), (3,))

    def replaced(*about, **more):
        return lambda *trees: dataclasses.replace(export(*about, **more)(*trees), mlir_module_serialized=nested(1100))

    monkeypatch.setattr(jax.export, "export", replaced)
    to_stablehlo(net, params, state, (3,), tmp_path / "net", platforms=["cpu"])
    with pytest.raises(DataError, match="operations inside each other, more than 1,000 deep"):
        load_stablehlo(tmp_path / "net")


def test_a_file_has_no_paths_of_this_computer(tmp_path):
    net = fnn.dense(3)
    to_stablehlo(net, *net.init(jax.random.key(0), (4,)), (4,), tmp_path / "file", gradient=True, platforms=["cpu"])
    assert b".py" not in (tmp_path / "file").read_bytes()
