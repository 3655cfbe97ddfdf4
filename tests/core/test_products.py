"""A program is chosen by the platform that is compiled for, in every transformation of JAX."""

import functools
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tests.jaxprs.counts import count_bytes, count_flops

import functional_nn as fnn
from functional_nn.core.products import PlatformPrograms, bilinear, summed_product
from functional_nn.jaxprs.evaluate import evaluate
from functional_nn.jaxprs.walk import equations


def operations(function, arguments, platforms):
    """How many products and convolutions are exported for these platforms."""
    text = jax.export.export(jax.jit(function), platforms=platforms)(*arguments).mlir_module()
    return {name: len(re.findall(rf"stablehlo\.{name}\b", text)) for name in ("dot_general", "convolution", "case")}


@functools.cache
def train_step(name, by_hand, lowering="auto"):
    net = fnn.conv(2, 3, lowering=lowering) if name == "conv" else fnn.models.cnn(3, hidden=(8, 4))
    net = fnn.chain(net, fnn.flatten(), fnn.dense(3)) if name == "conv" else net
    net = fnn.with_hand_vjp(net) if by_hand else net
    params, state = net.init(jax.random.key(0), (8, 8, 1))

    def loss(params, x, labels):
        return fnn.cross_entropy(net.apply(params, state, x, train=True)[0], labels)

    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    return jax.value_and_grad(loss), (params, x, jnp.arange(4) % 3)


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_exported_step_has_the_operations_of_its_platform(by_hand):
    """Two convolutions and a dense layer, with two and three products each, since the first has no x_bar."""
    step, arguments = train_step("cnn", by_hand)
    # On a CPU the first forward pass is always a product. Without the formula all other maps are products, too.
    on_cpu = (
        {"dot_general": 4, "convolution": 4, "case": 0} if by_hand else {"dot_general": 8, "convolution": 0, "case": 0}
    )
    assert operations(step, arguments, ["cpu"]) == on_cpu
    for platform in ("cuda", "rocm", "tpu"):
        assert operations(step, arguments, [platform]) == {"dot_general": 3, "convolution": 5, "case": 0}


@pytest.mark.slow
def test_an_export_for_several_platforms_has_the_operations_of_each():
    step, arguments = train_step("cnn", False)
    cpu, cuda, both = (operations(step, arguments, names) for names in (["cpu"], ["cuda"], ["cpu", "cuda"]))
    for name in ("dot_general", "convolution"):
        assert both[name] == cpu[name] + cuda[name]
    assert both["case"] > 0
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "tpu"])(*arguments)
    a, b = exported.call(*arguments), step(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize(("lowering", "convolutions"), [("native", 2), ("product", 0)])
def test_a_lowering_that_is_given_is_the_same_for_every_platform(lowering, convolutions):
    step, arguments = train_step("conv", False, lowering)
    for platform in ("cpu", "cuda"):
        assert operations(step, arguments, [platform])["convolution"] == convolutions


@dataclass(frozen=True)
class Scaled:
    """``factor`` · first @ second."""

    factor: float

    def __call__(self, first, second):
        return self.factor * (first @ second)


PROGRAMS = PlatformPrograms(formula=Scaled(1.0), cpu=Scaled(2.0), others=Scaled(3.0))
ON_CPU = PROGRAMS.on("cpu")
X, W = (jax.random.normal(jax.random.key(seed), (4, 3, 3)) for seed in (0, 1))


def chosen(x, w):
    return bilinear(x, w, PROGRAMS)


def same(make, *arguments):
    """What is made of the chosen program is what is made of the CPU's, compiled or not."""
    for compiled in (make, lambda function: jax.jit(make(function))):
        a, b = compiled(chosen)(*arguments), compiled(ON_CPU)(*arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)


@pytest.fixture(autouse=True)
def on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the values are those of a CPU's program")


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_mapped(axes):
    arguments = [array if axis == 0 else array[0] for array, axis in zip((X, W), axes, strict=True)]
    same(lambda function: jax.vmap(function, axes), *arguments)
    same(lambda function: jax.vmap(jax.grad(lambda x, w: jnp.sum(function(x, w) ** 2), (0, 1)), axes), *arguments)
    same(
        lambda function: jax.grad(lambda x, w: jnp.sum(jax.vmap(function, axes)(x, w) ** 2), argnums=(0, 1)), *arguments
    )


def test_derivatives():
    def value(function):
        return lambda x, w: jnp.sum(jnp.sin(function(x, w)))

    same(lambda function: jax.grad(value(function), (0, 1)), X[0], W[0])
    same(lambda function: jax.grad(jax.checkpoint(value(function)), (0, 1)), X[0], W[0])
    same(lambda function: jax.hessian(value(function)), X[0], W[0])
    same(lambda function: lambda x, w: jax.jvp(function, (x, w), (w, x)), X[0], W[0])


@pytest.mark.parametrize(
    ("policy", "products"),
    [
        (None, 7),
        (jax.checkpoint_policies.dots_saveable, 5),
        (jax.checkpoint_policies.everything_saveable, 5),
        (jax.checkpoint_policies.nothing_saveable, 7),
    ],
)
def test_a_policy_that_keeps_products_keeps_what_is_chosen(policy, products):
    """Two layers have two products forward and three backward. A policy that keeps none computes two of them again."""

    def value(function):
        def two_layers(weights):
            return jnp.sum(jnp.sin(function(jnp.sin(function(X[0], weights[0])), weights[1])))

        return jax.grad(jax.checkpoint(two_layers, policy=policy))

    same(value, W[:2])
    text = str(jax.make_jaxpr(value(chosen))(W[:2]))
    assert text.count("= bilinear[") == products


def test_in_loops():
    same(lambda function: lambda x, w: jax.lax.scan(lambda x, w: (function(x, w), None), x, w)[0], X[0], W)
    same(
        lambda function: jax.grad(
            lambda x, w: jax.lax.scan(lambda x, w: (jnp.sin(function(x, w)), None), x, w)[0].sum(), (0, 1)
        ),
        X[0],
        W,
    )


def test_divided_among_devices():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def mapped(function):
        def share(x, w):
            return jax.lax.psum(jax.grad(lambda w: jnp.sum(function(x[0], w) ** 2))(w), "batch")

        specs = PartitionSpec("batch"), PartitionSpec()
        return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)

    def varying(function):
        specs = PartitionSpec("batch"), PartitionSpec()
        return jax.shard_map(
            lambda x, w: jax.grad(lambda w: jnp.sum(function(x[0], w) ** 2))(w),
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(),
        )

    same(mapped, X[:1], W[0])
    same(varying, X[:1], W[0])
    # The program of one device can be read, too: two products, and one operation for each of 9 elements and the sum.
    names = [equation.primitive.name for _, equation, *_ in equations(jax.make_jaxpr(varying(chosen))(X[:1], W[0]))]
    assert names.count("dot_general") == 2
    assert count_flops(varying(chosen), X[:1], W[0]) >= 2 * 2 * 3**3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_16_bits(dtype):
    x, w = X[0].astype(dtype), W[0].astype(dtype)
    assert chosen(x, w).dtype == jax.jit(jax.grad(lambda x: chosen(x, w).sum()))(x).dtype == dtype


def test_the_precision_of_products_is_that_of_the_call():
    def precise(x, w):
        with jax.default_matmul_precision("highest"):
            return chosen(x, w)

    text = jax.jit(jax.grad(lambda x, w: precise(x, w).sum(), (0, 1))).lower(X[0], W[0]).as_text()
    assert text.count("[HIGHEST, HIGHEST]") == text.count("stablehlo.dot_general") == 2


def test_operations_are_the_formula_s_and_programs_those_of_the_platform_at_hand():
    """The formula multiplies once by its factor, as the other programs do; a cheaper formula is counted as itself."""
    cheap = PlatformPrograms(jnp.matmul, cpu=Scaled(2.0), others=Scaled(3.0))

    def cheaply(x, w):
        return bilinear(x, w, cheap)

    assert count_flops(cheaply, X[0], W[0]) == 2 * 3**3
    assert count_flops(jax.vmap(cheaply), X, W) == 4 * 2 * 3**3
    assert count_flops(jax.grad(lambda w: cheaply(X[0], w).sum()), W[0]) == 2 * 3**3
    traced = jax.make_jaxpr(jax.vmap(cheaply))(X, W)
    assert [equation.primitive.name for _, equation, *_ in equations(traced)] == ["dot_general", "mul"]
    np.testing.assert_allclose(evaluate(traced, [X, W])[0], 2 * X @ W, rtol=1e-5)
    assert count_bytes(cheaply, X[0], W[0]) >= 3 * 4 * 3**2


def test_one_program_for_all_platforms_needs_no_choice():
    alike = PlatformPrograms(Scaled(2.0), Scaled(2.0), Scaled(2.0))
    assert "bilinear" not in str(jax.make_jaxpr(lambda x, w: bilinear(x, w, alike))(X[0], W[0]))
    assert "bilinear" in str(jax.make_jaxpr(chosen)(X[0], W[0]))


@pytest.mark.parametrize("sizes", [(3, 5), (9, 2), (2, 9), (40, 1)])
def test_both_orders_are_the_same_product(sizes):
    """Wide rows and few columns are multiplied the other way round, and the result is transposed."""
    left, right = sizes
    keys = jax.random.split(jax.random.key(0))
    rows, columns = (jax.random.normal(key, (4, 6, size)) for key, size in zip(keys, sizes, strict=True))
    expected = np.einsum("bti,btj->ij", *(np.asarray(part, np.float64) for part in (rows, columns)))

    np.testing.assert_allclose(summed_product(rows, columns), expected, rtol=1e-5, atol=1e-5)
    # The way is visible in the program: only a result that is transposed has a barrier.
    reversed_order = "optimization_barrier" in str(jax.make_jaxpr(summed_product)(rows, columns))
    assert reversed_order == (24 * left > 24 * right + left * right)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_under_vmap(dtype):
    """jaxlib ended the process when a product of three axes was transposed by its layout."""
    with jax.enable_x64(dtype == np.float64):
        keys = jax.random.split(jax.random.key(0))
        rows, columns = (jax.random.normal(key, (3, 7, size), dtype) for key, size in zip(keys, (9, 2), strict=True))
        result = jax.jit(jax.vmap(summed_product))(rows, columns)

    expected = np.einsum("kbi,kbj->kij", np.asarray(rows, np.float64), np.asarray(columns, np.float64))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
