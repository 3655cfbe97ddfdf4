"""Programs are traced for a platform, and products of matrices have the faster order."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.core.products import SEVERAL_PLATFORMS, summed_product, tracing_for


def operations(function, arguments, platforms):
    """How many products and convolutions are exported for these platforms."""
    with tracing_for(platforms[0] if len(platforms) == 1 else SEVERAL_PLATFORMS):
        text = jax.export.export(jax.jit(function), platforms=platforms)(*arguments).mlir_module()
    return {name: len(re.findall(rf"stablehlo\.{name}\b", text)) for name in ("dot_general", "convolution", "case")}


@functools.cache
def train_step(name, by_hand, lowering="auto"):
    net = fnn.conv(2, 3, lowering=lowering) if name == "conv" else fnn.models.cnn(3, hidden=(8, 4))
    net = fnn.chain(net, fnn.flatten(), fnn.dense(3)) if name == "conv" else net
    net = fnn.with_hand_vjp(net) if by_hand else net
    params, state = jax.eval_shape(lambda key: net.init(key, (8, 8, 1)), jax.random.key(0))

    def loss(params, x, labels):
        return fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)

    x, labels = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    return jax.value_and_grad(loss), (params, x, labels)


@pytest.mark.parametrize(("by_hand", "others"), [(False, ["rocm"]), (True, ["cuda", "tpu"])])
def test_an_exported_step_has_the_operations_of_its_platform(by_hand, others):
    """Two convolutions and a dense layer, with two and three products each, since the first has no x_bar."""
    step, arguments = train_step("cnn", by_hand)
    # On a CPU the first forward pass is always a product. Without the formula all other maps are products, too.
    on_cpu = (
        {"dot_general": 4, "convolution": 4, "case": 0} if by_hand else {"dot_general": 8, "convolution": 0, "case": 0}
    )
    assert operations(step, arguments, ["cpu"]) == on_cpu
    for platform in others:
        assert operations(step, arguments, [platform]) == {"dot_general": 3, "convolution": 5, "case": 0}


@pytest.mark.parametrize(("lowering", "convolutions"), [("native", 2), ("product", 0)])
def test_a_lowering_that_is_given_is_the_same_for_every_platform(lowering, convolutions):
    step, arguments = train_step("conv", False, lowering)
    for platform in ("cpu", "cuda"):
        assert operations(step, arguments, [platform])["convolution"] == convolutions


def test_a_function_is_traced_anew_for_each_platform():
    """JAX's caches know the context, also in loops, under ``vmap`` and in a checkpointed function."""
    layer = fnn.conv(2, 3)
    params, state = layer.init(jax.random.key(0), (8, 8, 1))

    @jax.jit
    def apply(x):
        return layer.apply(params, state, x, train=True)[0]

    def many(x):
        step = jax.checkpoint(lambda x: apply(x).sum())
        return jax.lax.map(jax.vmap(jax.grad(step)), x)

    x = jnp.ones((2, 3, 1, 8, 8, 1))
    for name, convolutions in [("cpu", 0), ("tpu", 2), ("cpu", 0), (SEVERAL_PLATFORMS, 2)]:
        with tracing_for(name):
            text = jax.jit(many).lower(x).as_text()
        assert (text.count("stablehlo.convolution") > 0) == (convolutions > 0)


def test_the_default_device_decides_the_platform(monkeypatch):
    """On a machine with a GPU, a program may still be for the CPU. JAX's caches know the default device, too."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    step, arguments = train_step("cnn", True)
    step = jax.jit(step)
    for device, convolutions in [(None, 5), (jax.devices("cpu")[0], 4), ("cpu", 4), (None, 5)]:
        with jax.default_device(device):
            assert step.lower(*arguments).as_text().count("stablehlo.convolution") == convolutions
    with jax.default_device("cpu"), tracing_for("tpu"):
        assert step.lower(*arguments).as_text().count("stablehlo.convolution") == 5


@pytest.mark.parametrize("sizes", [(3, 5), (9, 2)])
def test_both_orders_are_the_same_product(sizes):
    """Wide rows and few columns are multiplied the other way round, and the result is transposed."""
    left, right = sizes
    random = np.random.default_rng(0)
    rows, columns = (random.normal(size=(4, 6, size)).astype(np.float32) for size in sizes)
    expected = np.einsum("bti,btj->ij", *(np.asarray(part, np.float64) for part in (rows, columns)))
    np.testing.assert_allclose(summed_product(rows, columns), expected, rtol=1e-5, atol=1e-5)
    # The way is visible in the program: only a result that is transposed has a barrier.
    reversed_order = "optimization_barrier" in str(jax.make_jaxpr(summed_product)(rows, columns))
    assert reversed_order == (24 * left > 24 * right + left * right)


def test_under_vmap():
    """jaxlib ended the process when a product of three axes was transposed by its layout."""
    random = np.random.default_rng(0)
    rows, columns = (random.normal(size=(3, 7, size)).astype(np.float32) for size in (9, 2))
    result = jax.jit(jax.vmap(summed_product))(rows, columns)
    expected = np.einsum("kbi,kbj->kij", rows, columns)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
