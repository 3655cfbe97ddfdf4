"""Activations against mpmath-free independent values, in the tails, and by name."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_nn as fnn

ELEMENTWISE = [f for f in fnn.activations.ACTIVATIONS.values() if isinstance(f, fnn.Activation)]
SMOOTH = [
    *(fnn.sigmoid, fnn.tanh, fnn.softplus, fnn.activations.activation("log_sigmoid")),
    *(fnn.gelu, fnn.gelu_tanh, fnn.silu, fnn.mish),
]


def by_name(activation):
    return activation.name


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=by_name)
def test_derivative_is_the_slope(activation, float64):
    """Central differences, which know nothing of either formula or JAX's rules."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=200) * 3)
    x = x[jnp.abs(x[:, None] - jnp.array([[-3.0, -1.0, 0.0, 1.0, 3.0, 6.0]])).min(axis=1) > 1e-3]
    h = 1e-6
    slope = (activation(x + h) - activation(x - h)) / (2 * h)
    np.testing.assert_allclose(activation.derivative(x), slope, atol=1e-8)


@pytest.mark.parametrize("activation", [fnn.softmax, fnn.log_softmax], ids=by_name)
def test_jacobian_rows_are_the_slopes(activation, float64):
    x, h = jnp.array([0.3, -1.2, 2.0]), 1e-6
    jacobian = jax.vmap(activation.pullback, in_axes=(None, 0))(x, jnp.eye(3))
    for j in range(3):
        step = h * jnp.eye(3)[j]
        np.testing.assert_allclose(jacobian[:, j], (activation(x + step) - activation(x - step)) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=by_name)
@settings(max_examples=50, deadline=None)
@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60))
def test_finite_everywhere(activation, x):
    value, slope = activation(jnp.float32(x)), activation.derivative(jnp.float32(x))
    assert value.dtype == slope.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(slope)


@pytest.mark.parametrize("activation", fnn.activations.ACTIVATIONS.values(), ids=by_name)
def test_nan_is_not_hidden(activation):
    """A network that has gone wrong must show it."""
    assert np.isnan(activation(jnp.array([jnp.nan, 1.0]))[0])


@pytest.mark.parametrize(
    ("derivative", "x", "exact"),
    [
        (fnn.sigmoid.derivative, 16.7, math.exp(-16.7) / (1 + math.exp(-16.7)) ** 2),
        (fnn.sigmoid.derivative, -80.0, math.exp(-80.0)),
        (fnn.tanh.derivative, 9.0, 1 / math.cosh(9.0) ** 2),
        (fnn.elu.derivative, -17.5, math.exp(-17.5)),
        (fnn.softplus.derivative, -60.0, math.exp(-60.0)),
    ],
)
def test_derivatives_keep_their_digits_in_the_tails(derivative, x, exact):
    np.testing.assert_allclose(derivative(jnp.float32(x)), exact, rtol=2e-6 if x != 16.7 else 4e-6)


@pytest.mark.parametrize("activation", SMOOTH, ids=by_name)
def test_derivatives_at_zero(activation, float64):
    expected = {"sigmoid": 0.25, "tanh": 1, "mish": math.tanh(math.log(2))}.get(activation.name, 0.5)
    assert np.isclose(activation.derivative(jnp.zeros(())), expected, rtol=1e-15)


def test_softmax_rows_sum_to_one_also_for_large_inputs():
    y = fnn.softmax(jnp.array([[1e4, 0.0, -1e4], [1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-6)


def test_by_name_and_by_mistake():
    assert fnn.activations.activation("gelu") is fnn.gelu
    with pytest.raises(fnn.InputError, match="Did you mean sigmoid"):
        fnn.activations.activation("sigmoyd")


@pytest.mark.parametrize("maker", [fnn.activations.leaky_relu_with, fnn.activations.elu_with])
def test_a_traced_parameter_leaves_its_program_with_the_pullback(maker):
    """One program serves all parameters, and a vmapped sweep gets each member's pullback out of it."""
    x, y_bar, numbers = jnp.array([[-2.0, 3.0]]), jnp.array([[5.0, 7.0]]), jnp.array([0.1, 0.5])

    @jax.jit
    @jax.vmap
    def forward(number):
        y, _, pullback = fnn.chain(maker(number)).vjp({}, {}, x, train=True)
        return y, pullback

    y, pullback = forward(numbers)
    _, x_bar = jax.jit(jax.vmap(lambda pullback: pullback(y_bar)))(pullback)
    for i, number in enumerate((0.1, 0.5)):
        np.testing.assert_allclose(y[i], maker(number)(x), rtol=1e-6)
        np.testing.assert_allclose(x_bar[i], maker(number).pullback(x, y_bar), rtol=1e-6)
    assert x_bar[0, 0, 0] != x_bar[1, 0, 0]


@pytest.mark.parametrize("activation", [fnn.softmax, fnn.log_softmax], ids=by_name)
def test_more_classes_than_float16_counts(activation):
    """70000 is infinity in float16."""
    x = jnp.zeros(70_000, jnp.float16)
    y, automatic = jax.vjp(activation, x)
    np.testing.assert_allclose(y.astype(jnp.float32), activation(jnp.zeros(70_000)), rtol=1e-2)
    for x_bar in (activation.pullback(x, x + 1), automatic(x + 1)[0]):
        assert x_bar.dtype == x.dtype
        np.testing.assert_allclose(x_bar, 0, atol=1e-6)  # all outputs sum to a constant


@pytest.mark.parametrize("maker", [fnn.activations.leaky_relu_with, fnn.activations.elu_with])
def test_a_traced_parameter_keeps_the_type_of_x(maker):
    x = jnp.array([-2.0, 3.0], jnp.bfloat16)
    y, slope = jax.jit(lambda number: (maker(number)(x), maker(number).derivative(x)))(0.1)
    assert y.dtype == slope.dtype == jnp.bfloat16


def test_layers_that_would_hold_a_traced_parameter_refuse_it():
    with pytest.raises(
        fnn.InputError, match=r"activation: expected an activation without traced .*chain\(…, leaky_relu_with"
    ):
        jax.jit(lambda slope: fnn.neuron(fnn.activations.leaky_relu_with(slope)).init(jax.random.key(0), (3,)))(0.1)
    assert fnn.neuron(fnn.activations.leaky_relu_with(0.1))


def test_the_third_derivative_of_mish_at_0(float64):
    found = jax.grad(jax.grad(fnn.mish.derivative))(0.0)
    np.testing.assert_allclose(found, jax.grad(jax.grad(jax.grad(jax.nn.mish)))(0.0), rtol=1e-12)


def test_the_slope_of_leaky_relu_for_integers():
    np.testing.assert_array_equal(fnn.leaky_relu.derivative(jnp.array([-1, 2])), np.float32([0.01, 1]))
