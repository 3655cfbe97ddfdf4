"""Normalization against NumPy's own statistics, over masks, axes and devices, and at the ends of the number range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.layers.jitted import jitted
from tests.other_process import python

import functional_nn as fnn
from functional_nn.core.validation import EXAMPLES

NORMS = [fnn.layer_norm(), fnn.rms_norm(), fnn.group_norm(2), fnn.instance_norm(), fnn.batch_norm()]


def by_name(layer):
    return layer.name


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape) * 2 + 3


def standardised(x, axes, epsilon=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def applied(layer, x, in_shape=None):
    params, state = layer.init(None, jnp.shape(x)[1:] if in_shape is None else in_shape)
    return jitted(layer).apply(params, state, x, train=True)


@functools.cache
def with_gradients(layer):
    """A program for x (7, 5, 4): the output, the new state, and x_bar by the formula and by jax.grad of apply."""
    params, state = layer.init(None, (5, 4))

    @jax.jit
    def computed(x, y_bar):
        y, new_state, pullback = layer.vjp(params, state, x, train=True)
        automatic = jax.grad(lambda x: jnp.sum(layer.apply(params, state, x, train=True)[0] * y_bar))(x)
        return y, new_state, pullback(y_bar)[1], automatic

    return computed


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (fnn.layer_norm(axes=(-1, 1), epsilon=0.1), (1, 3)),
        (fnn.layer_norm(axes=2, scale=False, bias=False), (2,)),
        (fnn.instance_norm(), (1, 2)),
        (fnn.group_norm(1), (1, 2, 3)),
        (fnn.batch_norm(axes=(0, 2, 3)), (0, 2, 3)),
    ],
)
def test_norms_standardise_along_their_axes(layer, axes, float64):
    x = normal(7, 3, 2, 5)
    y, _ = applied(layer, jnp.asarray(x))
    np.testing.assert_allclose(y, standardised(x, axes, 0.1 if axes == (1, 3) else 1e-5), atol=1e-12)


def test_rms_norm_divides_by_the_root_mean_square(float64):
    x, scale = normal(7, 5), normal(5, seed=1)
    y, _ = jitted(fnn.rms_norm(epsilon=0.1)).apply({"scale": jnp.asarray(scale)}, {}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, x / np.sqrt((x**2).mean(1, keepdims=True) + 0.1) * scale, atol=1e-12)


def test_parameters_lie_along_the_axes_and_can_be_left_out():
    shapes = lambda layer: jax.tree.map(jnp.shape, layer.init(None, (3, 2, 5))[0])  # noqa: E731
    assert shapes(fnn.layer_norm(axes=(1, 3))) == {"scale": (3, 5), "bias": (3, 5)}
    assert shapes(fnn.layer_norm(bias=False)) == {"scale": (5,)}
    assert shapes(fnn.group_norm(5, scale=False)) == {"bias": (5,)}
    assert shapes(fnn.rms_norm()) == {"scale": (5,)}
    assert shapes(fnn.batch_norm(axes=(0, 2))) == {"scale": (3, 5), "bias": (3, 5)}


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (fnn.batch_norm(), (1, 3), "x: expected at least two values per channel"),
        (fnn.batch_norm(axis_name="parts"), (3, 4), "expected an axis that vmap or shard_map"),
    ],
)
def test_batches_that_do_not_fit(layer, shape, words):
    with pytest.raises(fnn.InputError, match=words):
        applied(layer, jnp.ones(shape))


def test_batch_norm_refuses_single_examples():
    layer = fnn.batch_norm()
    params, state = layer.init(None, (4,))
    with pytest.raises(fnn.InputError, match="a whole batch, since this layer couples its examples"):
        jax.vmap(lambda x: layer.apply(params, state, x[None], train=True)[0], axis_name=EXAMPLES)(jnp.ones((3, 4)))


@pytest.mark.parametrize("layer", NORMS, ids=by_name)
def test_norms_far_from_zero(layer):
    """A mean a hundred thousand times the deviation: the digits that x has are kept."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5, 4)) + 1e5, jnp.float32)
    exact = np.asarray(x, np.float64)
    y, *_ = with_gradients(layer)(x, jnp.zeros_like(x))
    if layer.name == "rms_norm":
        expected = exact / np.sqrt(np.square(exact).mean(2, keepdims=True))
    elif layer.name == "group_norm":
        expected = standardised(exact.reshape(7, 5, 2, 2), (1, 3)).reshape(exact.shape)
    else:
        expected = standardised(exact, {"layer_norm": 2, "instance_norm": 1, "batch_norm": (0, 1)}[layer.name])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", NORMS, ids=by_name)
def test_norms_of_huge_values(layer):
    """1e30 x is normalized as x is, and its cotangent is 1e-30 of that of x: no square overflows."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5, 4)) * 10, jnp.float32)
    y_bar = jnp.asarray(normal(7, 5, 4, seed=1), jnp.float32)
    y, _, expected, _ = with_gradients(layer)(x, y_bar)
    huge, state, *found = with_gradients(layer)(1e30 * x, y_bar)
    np.testing.assert_allclose(huge, y, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    for x_bar in found:
        np.testing.assert_allclose(np.asarray(x_bar, np.float64) * 1e30, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("size", [0.0, 1e30 / 3])
@pytest.mark.parametrize("layer", NORMS, ids=by_name)
def test_equal_values(layer, size):
    """They have no deviation, whatever the rounding of their mean; the gradient is finite."""
    y_bar = jnp.asarray(normal(7, 5, 4), jnp.float32)
    y, _, hand, automatic = with_gradients(layer)(jnp.full((7, 5, 4), size), y_bar)
    np.testing.assert_allclose(y, 1.0 if layer.name == "rms_norm" and size else 0.0, rtol=1e-6)
    assert np.isfinite(hand).all()
    np.testing.assert_allclose(automatic, hand, rtol=1e-4, atol=1e-4 * abs(hand).max())


@pytest.mark.parametrize("layer", NORMS, ids=by_name)
def test_low_precision_rounds_only_the_result(layer):
    """Statistics of bfloat16 values are computed in float32."""
    x = jnp.asarray(normal(7, 5, 4) + 50, jnp.bfloat16)
    y, _ = applied(layer, x)
    assert y.dtype == jnp.bfloat16
    x = x.astype(jnp.float32)
    np.testing.assert_array_equal(y, with_gradients(layer)(x, x)[0].astype(jnp.bfloat16))


def test_batch_norm_of_many_values_in_float16():
    """70,000 values per channel are more than float16 can count; x_bar still sums to 0."""
    layer, x = jitted(fnn.batch_norm()), jax.random.normal(jax.random.key(0), (70_000, 1), jnp.float16)
    params, state = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), layer.init(None, (1,)))
    y, _, pullback = layer.vjp(params, state, x, train=True)
    params_bar, x_bar = pullback(jax.random.uniform(jax.random.key(1), y.shape, jnp.float16))
    assert {leaf.dtype for leaf in jax.tree.leaves((params_bar, x_bar))} == {jnp.dtype(jnp.float16)}
    assert abs(float(x_bar.astype(jnp.float32).mean())) < 1e-3


def test_settings_may_be_traced():
    x = jnp.arange(6.0).reshape(3, 2)

    @jax.jit
    def apply(momentum, epsilon):
        batch, state = applied(fnn.batch_norm(momentum=momentum, epsilon=epsilon), x)
        return batch, state, applied(fnn.layer_norm(epsilon=epsilon), x)[0]

    batch, state, features = apply(0.5, 1e-3)
    np.testing.assert_allclose(batch, standardised(np.asarray(x), 0, 1e-3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features, standardised(np.asarray(x), 1, 1e-3), rtol=1e-5)
    np.testing.assert_allclose(state["mean"], [1.0, 1.5])


# Masked sequences


def test_only_real_steps_are_counted(float64):
    mask = np.arange(5) < np.array([[5], [1], [3]])
    x = fnn.Masked(jnp.asarray(np.where(mask[..., None], normal(3, 5, 4) - 100, np.nan)), jnp.asarray(mask))
    values, real = np.asarray(x.values), np.asarray(x.mask)
    y, state = applied(fnn.batch_norm(momentum=0.0), x, (5, 4))
    np.testing.assert_allclose(y.values[real], standardised(values[real], 0), atol=1e-12)
    assert (y.values[~real] == 0).all()
    np.testing.assert_allclose(state["mean"], values[real].mean(0), rtol=1e-6)
    np.testing.assert_allclose(state["variance"], values[real].var(0, ddof=1), rtol=1e-6)
    y, _ = applied(fnn.group_norm(2), x, (5, 4))
    np.testing.assert_allclose(y.values[2, :3, 2:], standardised(values[2, :3, 2:], (0, 1)), atol=1e-12)


def test_a_batch_of_padding_alone():
    layer = fnn.batch_norm()
    params, state = layer.init(None, (5, 4))
    x = fnn.Masked(jnp.ones((3, 5, 4)), jnp.zeros((3, 5), bool))
    with pytest.raises(fnn.InputError, match="x: expected at least two real steps in training, got 0"):
        layer.apply(params, state, x, train=True)
    (y, new_state), x_bar = jax.jit(
        lambda x: (
            layer.apply(params, state, x, train=True),
            jax.grad(lambda v: layer.apply(params, state, x._replace(values=v), train=True)[0].values.sum())(x.values),
        )
    )(x)
    assert (y.values == 0).all()
    assert (x_bar == 0).all()
    jax.tree.map(np.testing.assert_array_equal, new_state, state)


@pytest.mark.parametrize("layer", [fnn.layer_norm(axes=(1, 2)), fnn.group_norm(2)], ids=by_name)
def test_an_example_of_padding_alone(layer):
    params, state = layer.init(None, (5, 4))

    @jax.jit
    def computed(x):
        y, _, pullback = layer.vjp(params, state, x, train=True)
        return y, pullback(fnn.Masked(x.values, None))[1]

    y, x_bar = computed(fnn.Masked(jnp.ones((3, 5, 4)), jnp.array([[True] * 5, [False] * 5, [True] * 5])))
    assert (y.values[1] == 0).all()
    assert (x_bar.values[1] == 0).all()


# One batch in parts


def test_statistics_are_joined_over_a_mapped_axis(float64):
    """Two parts under vmap with a name are one batch, also where their numbers of real steps differ."""
    mask = np.arange(5) < np.array([[5], [1], [3], [2]])
    whole = fnn.Masked(jnp.asarray(normal(4, 5, 3)), jnp.asarray(mask))
    y_bar = jnp.asarray(normal(4, 5, 3, seed=1))
    layer, joined = fnn.batch_norm(), fnn.batch_norm(axis_name="parts")
    params, state = layer.init(None, (5, 3))
    params = {"scale": jnp.arange(1.0, 4.0), "bias": jnp.arange(3.0)}

    def run(layer):
        def of_layer(x, y_bar):
            y, new_state, pullback = layer.vjp(params, state, x, train=True)
            return y.values, new_state, *pullback(fnn.Masked(y_bar, None))

        return of_layer

    split = lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:])  # noqa: E731
    y, new_state, params_bar, x_bar = jax.jit(run(layer))(whole, y_bar)
    parts = jax.jit(jax.vmap(run(joined), axis_name="parts"))(jax.tree.map(split, whole), split(y_bar))
    np.testing.assert_allclose(parts[0].reshape(y.shape), y, atol=1e-12)
    np.testing.assert_allclose(parts[3].values.reshape(y.shape), x_bar.values, atol=1e-12)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(parts[1][name], [new_state[name]] * 2, rtol=1e-6)
    for name in params:
        np.testing.assert_allclose(parts[2][name].sum(0), params_bar[name], atol=1e-12)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import functional_nn as fnn

layer = fnn.batch_norm()
params, state = layer.init(None, (3, 5))
arrays = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 8, 3, 5))

@jax.jit
def run(x, y_bar):
    y, new_state, pullback = layer.vjp(params, state, x, train=True)
    loss = lambda params, x: jnp.sum(layer.apply(params, state, x, train=True)[0] * y_bar)
    return y, new_state, pullback(y_bar), jax.grad(loss, (0, 1))(params, x)

expected = run(*arrays)
mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(mesh):
    found = run(*(jax.device_put(array, NamedSharding(mesh, PartitionSpec("batch"))) for array in arrays))
assert len(found[0].sharding.device_set) == 4
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, expected)
"""


@pytest.mark.processes
def test_batch_norm_of_a_batch_on_four_devices():
    """Sharded under jit with explicit axes: the same as on one device."""
    python(ON_DEVICES, JAX_NUM_CPU_DEVICES="4")


# The rectifier with a learned slope


def test_prelu_starts_as_a_leaky_relu_and_agrees_at_the_kink():
    x = jnp.array([[-2.0, 0.0, 3.0]])
    layer = jitted(fnn.prelu(negative_slope=0.1))
    params, state = layer.init(None, (3,))
    y, _, pullback = layer.vjp(params, state, x, train=True)
    np.testing.assert_allclose(y, fnn.activations.leaky_relu_with(0.1)(x))
    params_bar, x_bar = pullback(jnp.array([[5.0, 7.0, 11.0]]))
    np.testing.assert_allclose(x_bar, [[0.5, 7.0, 11.0]])
    np.testing.assert_allclose(params_bar["negative_slope"], [-10.0, 0.0, 0.0])
    with pytest.raises(fnn.InputError, match="expected 3 channels on the last axis"):
        layer.apply(params, state, jnp.ones((2, 4)), train=True)
