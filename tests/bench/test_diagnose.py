"""Each warning has its cause planted, names its layer and remedy; programs without a cause give none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.bench.diagnose import explain
from functional_nn.bench.network_programs import MeasuredNetwork, workload


def in_network(function, *arguments, **options):
    """The one finding of a function that works in the layer ``chain_0/mine_0``."""

    def scoped(*arguments):
        with jax.named_scope("chain_0"), jax.named_scope("mine_0"):
            return function(*arguments)

    (finding,) = explain(scoped, *arguments, **options).findings
    assert finding.layer.startswith("chain_0/mine_0")
    assert finding.remedy
    assert str(finding).startswith(f"{finding.kind} in chain_0/mine_0")
    return finding


def convolution(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_convolution_in_a_loop():
    """The gradient that JAX makes of a native convolution, in a scan; the same outside of the loop is no cause."""
    x = jnp.ones((3, 2, 5, 5, 2))

    def programs(net):
        params, state = net.init(jax.random.key(0), (5, 5, 2))

        def step(params, x):
            return jax.grad(lambda params: jnp.sum(net.apply(params, state, x, train=True)[0] ** 2))(params)

        def loop(params, x):
            return lax.scan(lambda p, x: (jax.tree.map(lambda p, g: p - g, p, step(p, x)), None), params, x)[0]

        return params, step, loop

    net = fnn.chain(fnn.conv(2, 3, lowering="native"))
    params, step, loop = programs(net)
    (finding,) = explain(loop, params, x).findings
    assert finding.kind == "convolution in a loop"
    assert finding.layer == "conv_0 (backward)"
    assert "with_hand_vjp" in finding.remedy
    assert not explain(step, params, x[0]).findings
    params, _, loop = programs(fnn.with_hand_vjp(net))
    assert not explain(loop, params, x).findings


def test_scatter_of_a_pooling_gradient():
    def loss(x):
        return jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") ** 2)

    finding = in_network(jax.grad(loss), jnp.ones((2, 4, 4, 3)))
    assert finding.kind == "scatter of a pooling gradient"
    assert "(1, 2, 2, 1)" in finding.message
    assert "max_pool" in finding.remedy
    pool = fnn.max_pool(2)
    assert not explain(
        jax.grad(lambda x: jnp.sum(pool.apply({}, {}, x, train=True)[0])), jnp.ones((2, 4, 4, 3))
    ).findings


def test_captured_constant():
    w = np.ones((600, 600), np.float32)

    def product(x):
        return x @ w

    finding = in_network(jax.jit(product), jnp.ones((2, 600)))
    assert finding.kind == "captured constant"
    assert "float32[600, 600] of 1.44 MB" in finding.message
    assert "test_diagnose.py" in finding.message
    assert not explain(lambda x, w: x @ w, jnp.ones((2, 600)), w).findings


def test_float64(float64):
    finding = in_network(lambda x: x * np.float64(2) + jnp.ones(3, jnp.float64), jnp.ones(3, jnp.float32))
    assert finding.kind == "float64"
    assert "test_diagnose.py" in finding.message
    assert not explain(lambda x: x * 2.0, jnp.ones(3, jnp.float32)).findings
    assert not explain(lambda x: x * 2.0, jnp.ones(3, jnp.float64)).findings


def test_conversion_of_an_argument():
    (finding,) = explain(jnp.sin, np.ones(3)).findings
    assert finding.kind == "conversion"
    assert "argument 0 is a NumPy array in float64" in finding.message


def test_donation():
    """An argument that comes back changed; a gradient has the same shapes, but is no changed argument."""
    w, x = jnp.ones((200, 200)), jnp.ones((3, 200))

    def update(params, x):
        gradient = jax.grad(lambda params: jnp.sum((x @ params["w"]) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    (finding,) = explain(update, {"w": w}, x).findings
    assert finding.kind == "donation"
    assert "argument 0" in finding.message
    assert "160 kB" in finding.message
    assert "donate_argnums=0" in finding.remedy
    assert not explain(update, {"w": w}, x, donate=(0,)).findings
    assert not explain(jax.jit(update, donate_argnums=0), {"w": w}, x).findings
    assert explain(jax.jit(update), {"w": w}, x).kinds == {"donation"}
    assert not explain(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), w, x).findings

    def epoch(params, x):
        return lax.scan(lambda params, x: (update(params, x), None), params, x)[0]

    assert explain(epoch, {"w": w}, x[None]).kinds == {"donation"}


def test_retracing_by_what_comes_back():
    def step(carry, x):
        return {"step": carry["step"] + jnp.int32(1), "sum": carry["sum"] + x}, x

    (finding,) = explain(step, {"step": 0, "sum": jnp.float32(0)}, jnp.float32(1)).findings
    assert finding.kind == "retracing"
    assert "argument 0['step'] was int32[] (weak, as of a Python number) and comes back as int32[]" in finding.message
    assert "jax.numpy.int32" in finding.remedy
    assert not explain(step, {"step": jnp.int32(0), "sum": jnp.float32(0)}, jnp.float32(1)).findings


def test_slow_product_in_groups():
    """A convolution mapped over its weights becomes one in groups."""
    x, w = jnp.ones((3, 2, 5, 5, 2)), jnp.ones((3, 3, 3, 2, 4))
    finding = in_network(jax.vmap(convolution), x, w)
    assert finding.kind == "slow product"
    assert "3 groups" in finding.message
    assert not explain(convolution, x[0], w[0]).findings


@pytest.mark.parametrize(("name", "what"), [("cnn", "hand"), ("lstm", "predict")])
def test_the_networks_of_this_package_are_clean(name, what):
    net = fnn.model(name, 10, hidden=(4,))
    network = MeasuredNetwork(net, fnn.cross_entropy, optax.adam, (28, 28, 1), 10)
    made = workload(what, network, 4)
    assert not explain(made.function, *made.arguments, donate=made.donate).findings


def test_a_whole_epoch_is_clean():
    net = fnn.with_hand_vjp(fnn.models.cnn(3, hidden=(2, 2)))
    optimizer = optax.adam(1e-3)
    start = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (8, 8, 1))
    epoch = fnn.training.make_epoch(fnn.training.make_train_step(net, fnn.cross_entropy, optimizer), 4)
    arguments = start, jnp.zeros((8, 8, 8, 1), jnp.uint8), jnp.zeros(8, jnp.int32), jnp.int32(0)
    assert not explain(epoch, *arguments, donate=(0,)).findings
