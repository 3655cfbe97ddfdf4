"""The sum of absolute terms: exact where it is known by hand, never below the derivative, through all control flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from functional_nn.gradients.compare.error_scale import absolute_terms

pytestmark = pytest.mark.usefixtures("float64")


def terms(function, x, y_bar=None):
    """Of the pullback of a function at a point."""
    y, pullback = jax.vjp(function, x)
    return absolute_terms(lambda bar: pullback(bar)[0], jnp.ones_like(y) if y_bar is None else y_bar)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        (lambda t: 3 * t - 2 * t, 5),
        (lambda t: jnp.sum(jnp.array([1.0, -2.0, 3.0]) * t), 6),
        (lambda t: jnp.array([1.0, -2.0]) @ jnp.stack([t, -t]), 3),
        (lambda t: jnp.where(jnp.array(True), t, -5 * t), 1),
        (lambda t: jnp.where(jnp.array(False), t, -5 * t), 5),
        (lambda t: jax.jit(lambda s: s - 2 * s)(t), 3),
        (lambda t: jnp.cumsum(jnp.stack([t, -t, t]))[-1], 3),
        (lambda t: lax.fori_loop(0, 3, lambda _, c: c * -2, t), 8),
        (lambda t: jnp.concatenate([jnp.stack([t, -t])[::-1], jnp.zeros(2)]).sum(), 2),
    ],
)
def test_sums_known_by_hand(linear, expected):
    t = -3.0
    np.testing.assert_allclose(absolute_terms(linear, jnp.asarray(t)), expected * abs(t), rtol=1e-15)


def test_a_product_of_matrices_is_that_of_the_absolute_matrices():
    a, b, y_bar = draw(3, 5), draw(5, 7, seed=1), draw(3, 7, seed=2)
    np.testing.assert_allclose(terms(lambda x: x @ b, a, y_bar), jnp.abs(y_bar) @ jnp.abs(b).T, rtol=1e-14)
    np.testing.assert_allclose(
        terms(lambda x: jnp.einsum("ij,jk->ki", a, x), b, y_bar.T), jnp.abs(a).T @ jnp.abs(y_bar)
    )


def loop(x):
    def step(carry, row):
        carry = jnp.tanh(carry * -1.5 + row)
        return carry, jnp.sin(carry) - carry

    return lax.scan(step, jnp.zeros(x.shape[1]), x)[1]


def late_loop(x):
    """The carry depends on x from the second step on."""
    return lax.scan(lambda carry, row: ((carry[1] - carry[0], row), carry[0]), (x[0] * 0, x[0]), x, reverse=True)[1]


def branches(x):
    return lax.cond(x[0, 0] > 0, lambda x: x**2 - x, lambda x: -jnp.exp(x), x)


def masked_softmax(x):
    seen = jnp.arange(x.shape[1]) < 2
    return jax.nn.softmax(jnp.where(seen, x, -1e30), axis=-1)


def normalized(x):
    centered = x - x.mean(-1, keepdims=True)
    return centered / jnp.sqrt(jnp.mean(centered**2, -1, keepdims=True) + 1e-5)


def convolved(x):
    kernel = draw(3, 1, 2, seed=3)
    return lax.conv_general_dilated(x[..., None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


FUNCTIONS = [
    loop,
    late_loop,
    branches,
    masked_softmax,
    normalized,
    convolved,
    lambda x: jnp.sort(x, 0)[1] * jnp.cumprod(x, 1)[2],
    lambda x: x[jnp.array([0, 2, 2])] - x.at[1].set(0.0),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_terms_are_never_below_the_derivative(function):
    @jax.jit
    def both(x):
        y, pullback = jax.vjp(function, x)
        y_bar = draw(*y.shape, seed=1)
        return terms(function, x, y_bar), terms(function, x, -y_bar), pullback(y_bar)[0]

    bound, of_minus, bar = both(draw(3, 5))
    assert bound.shape == bar.shape
    assert jnp.all(jnp.isfinite(bound))
    assert jnp.all(bound >= jnp.abs(bar) * (1 - 1e-12))
    np.testing.assert_allclose(of_minus, bound)


def test_a_mask_of_very_negative_numbers_does_not_enlarge_the_terms():
    assert jnp.max(terms(masked_softmax, draw(3, 5))) < 10
    assert not jnp.any(terms(masked_softmax, draw(3, 5))[:, 2:])


def test_only_the_branch_that_is_taken_counts():
    x = jnp.array([[2.0, -3.0]])
    np.testing.assert_allclose(terms(branches, x), jnp.abs(2 * x) + 1)
    np.testing.assert_allclose(terms(branches, -x), jnp.exp(-x))


@pytest.mark.parametrize("nested", [False, True])
def test_a_while_loop_takes_its_own_steps(nested):
    """The derivative is a product of positive numbers. So it is the sum of its absolute terms itself."""

    def function(x):
        steps, y = lax.while_loop(lambda c: (c[1] > -10) & (c[0] < 9), lambda c: (c[0] + 1, 2 * c[1]), (0, x))
        return y * steps

    def repeated(x):
        return lax.scan(lambda y, _: (function(y) / 40, None), x, length=2)[0]

    x, y_dot = jnp.array(-1.0), lambda t: jax.jvp(repeated if nested else function, (jnp.array(-1.0),), (t,))[1]
    np.testing.assert_allclose(absolute_terms(y_dot, jnp.ones_like(x)), y_dot(1.0), rtol=1e-14)
