"""Whole networks as programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.exchange import to_stablehlo

pytest.importorskip("flatbuffers")
BATCHES = (1, 7, 64)


def images(count):
    return np.random.default_rng(count).uniform(size=(count, 28, 28, 1)).astype("float32")


def read(path):
    """The program in a file, and its values, as docs/how_to/running_elsewhere.md reads them."""
    values = load_file(path)
    return jax.export.deserialize(bytearray(values.pop("program").tobytes())), values


@pytest.mark.slow
def test_a_network_with_batch_norm_and_its_gradient(tmp_path):
    net = fnn.chain(fnn.conv(2, 3), fnn.batch_norm(), fnn.relu, fnn.max_pool(2), fnn.flatten(), fnn.dense(3))
    params, state = net.init(jax.random.key(0), (28, 28, 1))
    to_stablehlo(net, params, state, (28, 28, 1), tmp_path / "net.stablehlo", gradient=True)
    program, values = read(tmp_path / "net.stablehlo")
    assert program.mlir_module().count("stablehlo.convolution") == 3  # one for each platform
    for count in BATCHES:
        x = images(count)
        expected, _ = net.apply(params, state, x, train=False)
        assert np.abs(np.asarray(program.call(values, x)) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    x, y_bar = images(5), np.ones((5, 3), "float32")
    *values_bar, x_bar = program.vjp().call(*jax.tree.leaves((values, x)), y_bar)
    found = fnn.trees.unflatten(dict(zip(sorted(values), values_bar, strict=True)))["params"], x_bar
    _, pullback = jax.vjp(lambda p, x: net.apply(p, state, x, train=False)[0], params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, pullback(y_bar))


@pytest.mark.parametrize(("platforms", "convolutions"), [(["cpu"], 0), (["cuda"], 1), (["cpu", "cuda"], 2)])
def test_a_program_has_the_convolutions_of_its_platforms(platforms, convolutions):
    """One for each of several platforms. For CPUs alone, it is a matrix product."""
    net = fnn.chain(fnn.conv(2, 3), fnn.relu)
    program = to_stablehlo(net, *net.init(jax.random.key(0), (6, 6, 1)), (6, 6, 1), platforms=platforms)
    assert program.mlir_module().count("stablehlo.convolution") == convolutions


def test_wrong_platforms():
    net = fnn.dense(2)
    for platforms in ("cpu", [], ["gpu"], 3, None):
        with pytest.raises(InputError, match=r"platforms: expected a list with some of cpu, cuda, tpu, rocm"):
            to_stablehlo(net, *net.init(jax.random.key(0), (3,)), (3,), platforms=platforms)


def test_programs_of_symbolic_sizes_are_read(tmp_path):
    """JAX writes a cumulative sum over the batch as a custom call, which it replaces by other operations."""
    path = tmp_path / "net.stablehlo"
    net = Layer("sums", lambda key, in_shape: ({}, {}), lambda params, state, x, **_: (jnp.cumsum(x, 0), state, ()))
    to_stablehlo(net, {}, {}, (3,), path)
    program, values = read(path)
    np.testing.assert_allclose(program.call(values, np.ones((4, 3), np.float32))[:, 0], [1, 2, 3, 4])


def test_a_file_has_no_paths_of_this_computer(tmp_path):
    net = fnn.dense(3)
    to_stablehlo(net, *net.init(jax.random.key(0), (4,)), (4,), tmp_path / "file", gradient=True, platforms=["cpu"])
    assert b".py" not in (tmp_path / "file").read_bytes()
