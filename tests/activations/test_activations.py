"""Activations against mpmath-free independent values, in the tails, and by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn

ELEMENTWISE = [f for f in fnn.activations.ACTIVATIONS.values() if isinstance(f, fnn.Activation)]


def by_name(activation):
    return activation.name


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=by_name)
def test_finite_everywhere_and_nan_is_not_hidden(activation):
    """Up to 2^60 and down to the smallest number. A network that has gone wrong must show it."""
    sizes = np.exp2(np.arange(-149, 60.5, 0.5)).astype(np.float32)
    x = np.concatenate([sizes, [0], -sizes, [np.nan]], dtype=np.float32)
    value, slope = jax.jit(lambda x: (activation(x), activation.derivative(x)))(x)
    assert value.dtype == slope.dtype == jnp.float32
    assert np.isfinite(value[:-1]).all()
    assert np.isfinite(slope[:-1]).all()
    assert np.isnan(value[-1])


@pytest.mark.parametrize("activation", [fnn.softmax, fnn.log_softmax], ids=by_name)
def test_nan_among_numbers_is_not_hidden(activation):
    assert np.isnan(activation(jnp.array([jnp.nan, 1.0]))[0])


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
    x = np.zeros(70_000, np.float16)

    @jax.jit
    def both(x, y_bar):
        y, automatic = jax.vjp(activation, x)
        return y, activation.pullback(x, y_bar), automatic(y_bar)[0]

    y, *found = both(x, x + 1)
    np.testing.assert_allclose(np.float32(y), jax.jit(activation)(np.float32(x)), rtol=1e-2)
    for x_bar in found:
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
    found = jax.jit(jax.grad(jax.grad(fnn.mish.derivative)))(0.0)
    np.testing.assert_allclose(found, jax.jit(jax.grad(jax.grad(jax.grad(jax.nn.mish))))(0.0), rtol=1e-12)


def test_the_slope_of_leaky_relu_for_integers():
    np.testing.assert_array_equal(fnn.leaky_relu.derivative(jnp.array([-1, 2])), np.float32([0.01, 1]))
