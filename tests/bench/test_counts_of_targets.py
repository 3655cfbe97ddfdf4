"""Padding, least bytes and the lower bound, with numbers counted by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.bench.chips import CHIPS, Chip, chip_named
from functional_nn.bench.compiled_program import Memory
from functional_nn.bench.diagnose import Explanation
from functional_nn.bench.targets import (
    PaddedProduct,
    ProductSizes,
    TargetReport,
    padded_products,
    product_sizes,
    wasted_share,
)
from functional_nn.jaxprs.counts import least_bytes
from functional_nn.jaxprs.walk import all_equations, trace
from functional_nn.jaxprs.xla_options import for_platform

V5E, V6E, H100 = CHIPS["tpu-v5e"], CHIPS["tpu-v6e"], CHIPS["cuda-h100"]


def products(function, *shapes, chip=V5E, dtype=jnp.float32):
    return padded_products(trace(function, *(jnp.ones(shape, dtype) for shape in shapes)), chip)


@pytest.mark.parametrize(
    ("left", "right", "chip", "dtype", "padded"),
    [
        ((128, 784), (784, 128), V5E, "float32", 2 * 128 * 896 * 128),
        ((128, 784), (784, 128), V6E, "float32", 2 * 128 * 1024 * 256),
        # The 10 columns may be the rows that pass through the unit: 10 become 16, and 100 become 128.
        ((100, 64), (64, 10), V5E, "float32", 2 * 128 * 128 * 16),
        # A register has 16 rows of 16-bit numbers.
        ((20, 128), (128, 128), V5E, "bfloat16", 2 * 32 * 128 * 128),
        ((5, 8, 128), (5, 128, 128), V5E, "float32", 5 * 2 * 8 * 128 * 128),
        # The rows or the columns are rounded up to 16, and the others to 8: 16 and 24, or 24 and 32.
        ((9, 17), (17, 20), H100, "float32", 2 * 16 * 24 * 24),
        ((9, 17), (17, 20), H100, "bfloat16", 2 * 16 * 32 * 24),
    ],
)
def test_padding_of_a_product(left, right, chip, dtype, padded):
    (product,) = products(jnp.matmul, left, right, chip=chip, dtype=dtype)
    assert product.padded_flops == padded
    assert product.flops == 2 * left[-1] * right[-1] * jnp.ones(left[:-1]).size
    assert product.wasted == 1 - product.flops / padded


def test_a_convolution_is_the_product_of_windows_and_weights():
    def convolve(x, weight, **options):
        return lax.conv_general_dilated(
            x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    plain = trace(convolve, jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 7))).jaxpr.eqns[0]
    assert product_sizes(plain) == ProductSizes(1, rows=2 * 5 * 5, shared=3 * 3 * 3, columns=7)
    grouped = trace(
        lambda x, weight: convolve(x, weight, feature_group_count=2), jnp.ones((2, 5, 5, 4)), jnp.ones((3, 3, 2, 6))
    ).jaxpr.eqns[0]
    assert product_sizes(grouped) == ProductSizes(2, rows=2 * 5 * 5, shared=3 * 3 * 2, columns=3)


def test_products_count_in_loops_and_have_the_cost_of_their_precision():
    def steps(x, w):
        return lax.fori_loop(0, 5, lambda _, x: jnp.matmul(x, w, precision="highest"), x)

    (product,) = products(steps, (8, 128), (128, 128))
    assert (product.flops, product.cost) == (5 * 2 * 8 * 128 * 128, 6)
    (narrow,) = products(lambda x, w: jnp.matmul(x, w, precision="highest"), (8, 8), (8, 8), dtype=jnp.bfloat16)
    assert narrow.cost == 1
    for chip, cost in ((V5E, 1), (H100, 0.5)):
        (float8,) = products(jnp.matmul, (8, 8), (8, 8), chip=chip, dtype=jnp.float8_e4m3fn)
        assert float8.cost == cost
    assert products(jnp.matmul, (8, 8), (8, 8), dtype=jnp.int32) == ()


def test_the_products_of_an_mlp_are_those_counted_by_hand():
    """Three products for each dense layer: the output and the gradients of the weight and, but for the first, of x."""
    net = fnn.models.mlp(10, hidden=(128, 64))
    params, state = net.init(jax.random.key(0), (784,))
    x, labels = jnp.ones((32, 784)), jnp.zeros(32, jnp.int32)

    def loss(params):
        return fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)

    found = padded_products(trace(jax.grad(loss), params), V5E)
    assert sum(product.flops for product in found) == 2 * 32 * (2 * 784 * 128 + 3 * 128 * 64 + 3 * 64 * 10)
    assert {product.layer for product in found} >= {"dense_0", "dense_0 (backward)", "dense_2"}


def test_wasted_share_weighs_by_cost():
    one, two = PaddedProduct("", "", 10, 20, cost=1), PaddedProduct("", "", 10, 10, cost=3)
    assert wasted_share((one, two)) == 1 - 40 / 50
    assert wasted_share(()) == 0


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda x: jnp.sum(x), 400 + 4),
        (lambda x: x[3], 40),
        (lambda x: x.reshape(4, 25)[1] * 2, 100),
        (lambda x: lax.scan(lambda sum, row: (sum + row, None), jnp.zeros(10), x)[0], 400 + 40),
        (lambda x: lax.fori_loop(0, 3, lambda i, sum: sum + x[i], jnp.zeros(10)), 40),
        (lambda x: lax.cond(True, lambda x: 2 * x, lambda x: 0 * x, x), 400),
        (lambda x: (x, x), 0),
        (lambda x: x.T, 400 + 400),
        (lambda x: x.T.reshape(4, 25), 400 + 400),
        (lambda x: x.reshape(4, 25), 0),  # as a donated argument it stays in its place
        (lambda x: lax.dynamic_update_slice(x, jnp.zeros((1, 10)), (3, 0)), 40),
        (lambda x: lax.dynamic_update_slice(2 * x, jnp.zeros((1, 10)), (3, 0)), 400 + 400),
        (lambda x: x.at[3].set(0.0, mode="promise_in_bounds"), 40),
    ],
)
def test_least_bytes(function, read):
    """Of 10 x 10 numbers, all or a part is needed; the result counts if it is computed."""
    assert least_bytes(trace(function, jnp.ones((10, 10)))) == read


def test_a_program_is_read_as_its_platform_computes_it():
    """The forward pass that JAX differentiates is a convolution on a TPU, and matrix products on a CPU."""
    net = fnn.chain(fnn.conv(4, 3), fnn.global_average_pool())
    params, state = net.init(jax.random.key(0), (6, 6, 1))
    x = jnp.ones((2, 6, 6, 1))

    def gradient(params):
        return jax.grad(lambda params: net.apply(params, state, x, train=True)[0].sum())(params)

    def convolutions(platform):
        program = for_platform(trace(gradient, params), platform)
        names = [equation.primitive.name for equation in all_equations(program)]
        assert "bilinear" not in names
        lowered = jax.jit(gradient).trace(params).lower(lowering_platforms=(platform,)).as_text()
        assert lowered.count("stablehlo.convolution") == names.count("conv_general_dilated")
        return names.count("conv_general_dilated")

    assert (convolutions("cpu"), convolutions("tpu")) == (0, 1)


CHIP = Chip("chip", "", {}, 100.0, 10.0, memory=1000, cache=0, blocks={}, float32_costs={}, float8_cost=1, source="")
"""It computes 100 operations and moves 10 bytes in a second."""


def report(**changes):
    values = {
        "name": "mine",
        "chip": CHIP,
        "stages": {"compile": 1.0},
        "reason": "",
        "memory": Memory(600, 100, 350, 50, None),
        "flops": 500,
        "bytes": 90,
        "least_bytes": 40,
        "products": (PaddedProduct("2×3 · 3×4", "dense_0", 200, 400, cost=3),),
        "findings": Explanation(()),
    }
    return TargetReport(**{**values, **changes})


def test_the_lower_bound_is_the_larger_of_two_times():
    by_products = report()
    assert (by_products.product_seconds, by_products.byte_seconds) == (6, 4)
    assert (by_products.lower_bound, by_products.uncached_seconds) == (6, 9)
    assert report(least_bytes=80).lower_bound == 8
    assert report(least_bytes=80, chip=replace(CHIP, cache=30)).byte_seconds == 5
    assert report(least_bytes=20, chip=replace(CHIP, cache=30)).byte_seconds == 0
    assert by_products.fits
    assert not report(memory=Memory(600, 100, 550, 50, None)).fits


def test_the_texts_of_a_report():
    text = str(report(steps=4, uncounted={"while": 1}))
    assert "lower bound   6.00 s a call, 1.50 s a step" in text
    assert "50% of 2×3 · 3×4 in dense_0" in text
    assert "while (1)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert repr(report()) == (
        "TargetReport(mine for chip: compiles, 1 kB, at least 6.00 s a call, 50% of the products is padding)"
    )
    failed = report(reason="Too large.", memory=None)
    assert "compiles      no: Too large." in str(failed)
    assert "does not compile" in repr(failed)
    assert not failed.compiles
    assert not failed.fits


def test_an_unknown_chip():
    with pytest.raises(fnn.InputError, match="Did you mean tpu-v5e"):
        chip_named("tpu-v5")
