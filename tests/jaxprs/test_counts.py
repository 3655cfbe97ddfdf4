"""Operations and bytes against counts by hand, and against what the compiler counts of an unrolled program."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import functional_nn as fnn
from functional_nn.jaxprs.counts import bytes_by_scope, flops_by_scope, uncounted
from functional_nn.jaxprs.walk import equations, flattened, layer_of, trace


def count_flops(function, *arguments) -> int:
    """The floating-point operations of one call; ``arguments`` may be shapes (``jax.ShapeDtypeStruct``)."""
    return flops_by_scope(trace(function, *arguments)).total()


def count_bytes(function, *arguments) -> int:
    """The fewest bytes that one call moves."""
    return bytes_by_scope(trace(function, *arguments)).total()


def started(layer, in_shape):
    return jax.eval_shape(lambda key: layer.init(key, in_shape), jax.random.key(0))


def shapes(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def apply(layer):
    return lambda params, state, x: layer.apply(params, state, x, train=True)[0]


def dense_flops(batch, in_size, out_size):
    return 2 * batch * in_size * out_size + batch * out_size


def conv_flops(batch, size, window, in_size, out_size):
    """In padding "same"; the bias is added once to each output."""
    return batch * size**2 * out_size * (2 * window**2 * in_size + 1)


def lstm_flops(batch, steps, in_size, hidden):
    """x W + b for all steps at once; each step then has h U, added, four gates and the formulas of c and h."""
    gates, step = 4 * hidden, 4 + 5
    return steps * batch * (2 * in_size * gates + gates + 2 * hidden * gates + gates + step * hidden)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("hand", [True, False])
def test_conv_counts_as_its_formula(groups, hand):
    layer = fnn.conv(4, 3, groups=groups, bias=False, lowering="native")
    params, state = started(layer, (6, 6, 4))
    forward = 2 * (2 * 6 * 6 * 4) * (3 * 3 * 4 // groups)
    x = shapes(2, 6, 6, 4)
    assert count_flops(apply(layer), params, state, x) == forward

    def gradients(params, state, x, y_bar):
        if hand:
            return layer.vjp(params, state, x, train=True)[2](y_bar)
        return jax.vjp(lambda params, x: apply(layer)(params, state, x), params, x)[1](y_bar)

    assert count_flops(gradients, params, state, x, x) == 2 * forward
    by_member = jax.vmap(gradients, in_axes=(0, None, 0, 0))
    three = [jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype) for leaf in (params["weight"], x)]
    assert count_flops(by_member, {"weight": three[0]}, state, three[1], three[1]) == 3 * 2 * forward


@pytest.mark.parametrize(
    ("layer", "in_shape", "flops"),
    [(fnn.conv(40, 3), (6, 6, 33), conv_flops(2, 6, 3, 33, 40)), (fnn.lstm(5), (7, 3), lstm_flops(2, 7, 3, 5))],
    ids=["conv", "lstm"],
)
def test_scan_and_vmap_multiply(layer, in_shape, flops):
    params, state = started(layer, in_shape)
    run = apply(layer)

    def several(params, state, x):
        return lax.scan(lambda _, x: (None, run(params, state, x)), None, x)[1]

    def mapped(params, state, x):
        return jax.vmap(run, in_axes=(None, None, 0))(params, state, x)

    def by_hand(params, state, x):
        return fnn.with_hand_vjp(layer).apply(params, state, x, train=True)[0]

    x = shapes(4, 2, *in_shape)
    assert count_flops(several, params, state, x) == 4 * flops
    assert count_flops(mapped, params, state, x) == 4 * flops
    assert count_flops(jax.vmap(several, in_axes=(None, None, 0)), params, state, shapes(3, *x.shape)) == 12 * flops
    assert count_flops(by_hand, params, state, shapes(2, *in_shape)) == flops
    assert count_flops(jax.jit(jax.checkpoint(by_hand)), params, state, shapes(2, *in_shape)) == flops
    stacked = jax.tree.map(lambda leaf: shapes(5, *leaf.shape), params)
    each = jax.vmap(run, in_axes=(0, None, None))
    assert count_flops(each, stacked, state, shapes(2, *in_shape)) == 5 * flops


def test_a_scan_counts_as_its_unrolled_program_which_the_compiler_counts_too():
    """XLA counts the body of a scan once; unrolled, products and elementwise operations are what it counts."""
    w = jnp.ones((16, 16))

    def step(x):
        return (x @ w) * 2

    def looped(x):
        return lax.scan(lambda x, _: (step(x), None), x, length=10)[0]

    def unrolled(x):
        for _ in range(10):
            x = step(x)
        return x

    x = jnp.ones((8, 16))
    by_compiler = jax.jit(unrolled).lower(x).compile().cost_analysis()["flops"]
    assert count_flops(looped, x) == count_flops(unrolled, x) == 10 * (2 * 8 * 16 * 16 + 8 * 16) == by_compiler
    assert jax.jit(looped).lower(x).compile().cost_analysis()["flops"] < by_compiler / 5


def test_of_branches_the_larger_counts_and_a_while_once():
    x = jnp.ones((4, 4))

    def branch(x, large):
        return lax.cond(large, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_flops(branch, x, True) == 2 * 2 * 4**3
    assert count_flops(lambda x, n: lax.fori_loop(0, n, lambda _, x: x @ x, x), x, 3) == 2 * 4**3
    assert count_flops(lambda x: lax.fori_loop(0, 3, lambda _, x: x @ x, x), x) == 3 * 2 * 4**3


def test_what_no_result_needs_is_not_counted():
    x = jnp.ones((4, 4))
    assert count_flops(lambda x: (x @ x, jnp.sin(x))[1], x) == 16
    assert count_flops(lambda x: jax.jit(lambda x: (x @ x, jnp.sin(x)))(x)[1], x) == 16
    assert count_flops(jax.grad(lambda w: (x @ w).sum()), x) == 2 * 4**3


def test_sums_over_windows_and_into_places():
    x = jnp.ones((1, 4, 4, 1))

    def pooled(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    assert count_flops(pooled, x) == 4 * 4
    assert count_flops(jax.grad(lambda x: pooled(x).sum()), x) == 4 * (4 + 1)
    for method in ("add", "subtract", "multiply", "min", "max"):
        assert count_flops(lambda x, y, m=method: getattr(x.at[jnp.array([0, 1])], m)(y), jnp.ones(9), jnp.ones(2)) == 2


def test_bytes_by_hand():
    """A product reads and writes whole; what is elementwise is fused and reads and writes what it must."""
    x, w, v = jnp.ones((8, 16)), jnp.ones((16, 4)), jnp.ones((4, 2))
    product = 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert count_bytes(jnp.matmul, x, w) == product
    assert count_bytes(lambda x: jnp.sin(x) * 2 + 1, x) == 2 * 4 * 8 * 16
    assert count_bytes(lambda x, y: (x + y, x - y), x, x) == 4 * 4 * 8 * 16
    between = 2 * 4 * 8 * 4  # read by the activation, and written for the second product
    assert count_bytes(lambda x, w, v: jax.nn.relu(x @ w) @ v, x, w, v) == product + between + 4 * (32 + 8 + 16)
    assert count_bytes(lambda x, w: (x.reshape(2, 4, 16).reshape(8, 16) @ w).T, x, w) == product
    assert count_bytes(lambda x: x.T.reshape(4, 32), x) == 2 * 4 * 8 * 16  # an argument that is copied into a result
    looped = lambda x, w: lax.scan(lambda _, x: (None, x @ w), None, x)[1]  # noqa: E731
    assert count_bytes(looped, jnp.ones((5, 8, 16)), w) == 5 * product


def test_bytes_of_taking_and_putting_are_those_of_the_part():
    x, rows = jnp.ones((1000, 8)), jnp.array([3, 5])
    put = count_bytes(lambda x, new: x.at[rows].set(new, mode="promise_in_bounds"), x, x[:2])
    assert 2 * (2 * 8 * 4) < put < 200
    add = count_bytes(lambda x, new: x.at[rows].add(new, mode="promise_in_bounds"), x, x[:2])
    assert add == put + 2 * 8 * 4  # the old elements, which it reads too
    assert count_bytes(lambda x, rows: x.at[rows].get(mode="clip"), x, rows) < 400
    assert (
        count_bytes(lambda x, row: lax.dynamic_update_slice(x, row, (2, 0)), x, jnp.ones((1, 8))) <= 2 * 8 * 4 + 32000
    )


def test_a_flat_program_has_no_calls_and_counts_the_same():
    net = fnn.with_hand_vjp(fnn.models.mlp(3, hidden=(4,)))
    params, state = started(net, (5,))
    program = trace(jax.jit(apply(net)), params, state, shapes(2, 5))
    flat = flattened(program)
    assert not {step.equation.primitive.name for step in flat.steps} & {"jit", "custom_vjp_call", "custom_jvp_call"}
    assert {layer_of(step.scope)[0] for step in flat.steps} >= {"dense_0", "relu_0", "dense_1"}
    assert len(flat.steps) == len(list(equations(program)))


def test_counts_are_by_layer_and_direction():
    net = fnn.models.mlp(3, hidden=(4,))
    params, state = started(net, (5,))

    def loss(params, state, x):
        return jnp.sum(jnp.square(apply(net)(params, state, x)))

    program = trace(jax.grad(loss), params, state, shapes(2, 5))
    forward, backward = {}, {}
    for scope, flops in flops_by_scope(program).items():
        layer, back = layer_of(scope)
        into = backward if back else forward
        into[layer] = into.get(layer, 0) + flops
    assert forward["dense_0"] == dense_flops(2, 5, 4)
    assert backward["dense_0"] >= 2 * 2 * 5 * 4
    assert backward["dense_1"] >= 2 * 2 * 2 * 4 * 3
    assert "dense_0" in {layer_of(scope)[0] for scope in bytes_by_scope(program)}


def test_products_of_complex_numbers_are_four_real_ones():
    x, w = jnp.ones((3, 4), jnp.complex64), jnp.ones((4, 5), jnp.complex64)
    assert count_flops(jnp.matmul, x, w) == 4 * (2 * 3 * 4 * 5)
    images, kernel = jnp.ones((1, 5, 5, 2), jnp.complex64), jnp.ones((3, 3, 2, 4), jnp.complex64)
    convolve = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    numbers = ("NHWC", "HWIO", "NHWC")
    assert count_flops(partial(convolve, dimension_numbers=numbers), images, kernel) == 4 * 2 * 25 * 9 * 2 * 4
    assert count_flops(lambda x: x + x, x) == 2 * 12
    assert count_flops(lambda x: x * x, x) == 6 * 12
    assert dict(uncounted(trace(lambda x: jnp.sin(x) + x, x))) == {"complex sin": 1}


def test_fourier_transforms_count_5_n_log_n():
    x = jnp.ones((3, 8), jnp.complex64)
    assert count_flops(jnp.fft.fft, x) == count_flops(jnp.fft.ifft, x) == 3 * 5 * 8 * 3
    assert count_flops(jnp.fft.rfft, x.real) == 3 * 5 * 8 * 3 // 2
    assert count_flops(jnp.fft.fft2, x[:2]) == 5 * 16 * 4
    assert not uncounted(trace(jnp.fft.fft, x))


def test_of_a_linear_system_only_the_solution_counts():
    """The programs for its derivatives do not run."""

    def solve_diagonal(a, b):
        return lax.custom_linear_solve(lambda x: a * x, b, lambda _, b: b / a, symmetric=True)

    assert count_flops(solve_diagonal, shapes(3), shapes(3)) == 3
    assert count_bytes(solve_diagonal, shapes(3), shapes(3)) == count_bytes(jnp.divide, shapes(3), shapes(3))
    program = trace(jnp.linalg.solve, shapes(3, 3), shapes(3))
    assert dict(uncounted(program)) == {"lu": 1, "triangular_solve": 2}


def test_operations_without_a_count_are_named():
    x = jnp.eye(3)

    def until(x):
        return lax.while_loop(lambda x: x[0, 0] < 5, lambda x: x @ x + 1, jnp.linalg.cholesky(x))

    def four_times(x):
        return lax.scan(lambda x, _: (jnp.linalg.cholesky(x), None), x, length=4)[0]

    def perhaps(x):
        return lax.cond(x[0, 0] > 0, jnp.linalg.cholesky, lambda x: x, x)

    assert dict(uncounted(trace(until, x))) == {"cholesky": 1, "while": 1}
    assert dict(uncounted(trace(four_times, x))) == {"cholesky": 4}
    assert dict(uncounted(trace(perhaps, x))) == {"cholesky": 1}
    assert not uncounted(trace(lambda x: lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ x), x), x))


def test_the_shares_of_a_mesh_count_once():
    """A mesh of 2 x 2 devices that are not there. Only axis a, then both axes, then both by nested calls."""
    mesh = jax.sharding.AbstractMesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = shapes(8, 8)

    def product(axes):
        return jax.shard_map(
            lambda x: x @ x.T, mesh=mesh, in_specs=P(axes), out_specs=P(axes), axis_names={*axes}, check_vma=False
        )

    def nested(x):
        inner = jax.shard_map(lambda x: x @ x.T, in_specs=P("b"), out_specs=P("b"), axis_names={"b"})
        return jax.shard_map(inner, mesh=mesh, in_specs=P("a"), out_specs=P("a"), axis_names={"a"})(x)

    assert count_flops(product(("a",)), x) == 2 * (2 * 4 * 4 * 8)
    assert count_flops(product(("a", "b")), x) == count_flops(nested, x) == 4 * (2 * 2 * 2 * 8)
