"""What a hand-derived backward pass has to return, in training and in the comparison."""

import jax
import jax.numpy as jnp
import pytest

import functional_nn as fnn
from functional_nn.gradients.check import check_layer


def right_backward(residuals, y_bar):
    x, weight = residuals
    return {"weight": x.T @ y_bar}, y_bar @ weight.T


def product(backward=right_backward, init=None, forward=None):
    """A layer that multiplies by a weight, with wrong parts."""

    def right_init(key, in_shape):
        return {"weight": jnp.ones((in_shape[-1], 5))}, {}

    def right_forward(params, state, x, *, train, key=None):
        return x @ params["weight"], state, (x, params["weight"])

    return fnn.Layer("product", init or right_init, forward or right_forward, backward)


def trained(layer):
    def total(params):
        return jnp.sum(fnn.with_hand_vjp(layer).apply(params, {}, jnp.ones((7, 3)), train=True)[0])

    return jax.grad(total)({"weight": jnp.ones((3, 5))})


def compared(layer):
    return check_layer(layer, (3,), second_order=False, mutants=False)


WRONG = {
    "transposed": (
        lambda residuals, y_bar: ({"weight": y_bar.T @ residuals[0]}, y_bar @ residuals[1].T),
        r"product: backward: params_bar/weight: expected .* \(3, 5\), got \(5, 3\)\. Transpose it\.",
    ),
    "not summed": (
        lambda residuals, y_bar: ({"weight": residuals[0][:, :, None] * y_bar[:, None, :]}, y_bar @ residuals[1].T),
        r"product: backward: params_bar/weight: .*, 3, 5\)\. Sum over the axes",
    ),
    "swapped": (
        lambda residuals, y_bar: right_backward(residuals, y_bar)[::-1],
        r"product: backward: expected \(params_bar, x_bar\) to come back, got \(x_bar, params_bar\)",
    ),
    "one value": (
        lambda residuals, y_bar: y_bar,
        r"product: backward: expected \(params_bar, x_bar\) to come back, got",
    ),
    "left out": (
        lambda residuals, y_bar: ({}, right_backward(residuals, y_bar)[1]),
        "product: backward: expected .* got none for params_bar/weight",
    ),
    "unknown": (
        lambda residuals, y_bar: ({"weight": residuals[1], "bias": y_bar}, right_backward(residuals, y_bar)[1]),
        "product: backward: expected .* got also params_bar/bias",
    ),
}


@pytest.mark.parametrize("differentiate", [trained, compared])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_cotangents(name, differentiate):
    backward, words = WRONG[name]
    with pytest.raises(fnn.InputError, match=words):
        differentiate(product(backward))


def test_no_gradient_is_none():
    def backward(residuals, y_bar):
        return {"weight": None}, right_backward(residuals, y_bar)[1]

    assert jnp.all(trained(product(backward))["weight"] == 0)


@pytest.mark.parametrize(("of_params", "of_x"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_cotangents_have_the_types_of_what_they_belong_to(of_params, of_x):
    params, x = {"weight": jnp.ones((3, 5), of_params)}, jnp.ones((7, 3), of_x)

    def by_pullback(params, x):
        y, _, pullback = product().vjp(params, {}, x, train=True)
        return pullback(jnp.ones_like(y))

    def by_grad(params, x):
        # x is used twice, so JAX adds two cotangents, which must have one type.
        def total(params, x):
            y, _ = fnn.with_hand_vjp(product()).apply(params, {}, x, train=True)
            return y.astype("float32").sum() + (x * x).sum().astype("float32")

        return jax.grad(total, (0, 1))(params, x)

    for differentiated in (by_pullback, by_grad):
        with jax.numpy_dtype_promotion("standard"):
            params_bar, x_bar = jax.eval_shape(differentiated, params, x)
        assert (params_bar["weight"].dtype, x_bar.dtype) == (of_params, of_x)


def test_cotangents_of_the_right_type_are_not_converted():
    _, _, pullback = product().vjp({"weight": jnp.ones((3, 5))}, {}, jnp.ones((7, 3)), train=True)
    assert "convert_element_type" not in str(jax.make_jaxpr(pullback)(jnp.ones((7, 5))))


@pytest.mark.parametrize("differentiate", [trained, compared])
def test_a_forward_pass_without_residuals(differentiate):
    def forward(params, state, x, *, train, key=None):
        return x @ params["weight"], state

    with pytest.raises(fnn.InputError, match=r"forward: expected \(y, state, residuals\) to come back, got 2 values"):
        differentiate(product(forward=forward))


def test_initial_values_without_a_state():
    def init(key, in_shape):
        return {"weight": jnp.ones((in_shape[-1], 5))}

    with pytest.raises(fnn.InputError, match=r"init: expected \(params, state\) to come back, got one dict"):
        compared(product(init=init))


def test_a_forgotten_transposition_has_no_legal_shape():
    def backward(residuals, y_bar):
        x, _ = residuals
        return {"weight": x @ y_bar}, right_backward(residuals, y_bar)[1]

    with pytest.raises(TypeError, match="the same shape"):
        compared(product(backward))
