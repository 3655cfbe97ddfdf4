"""The sum of absolute terms: exact where it is known by hand, never below the derivative, through all control flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
        (lambda t: (t - t) * -7, 14),
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
@pytest.mark.parametrize("t", [1.0, -3.0])
def test_sums_known_by_hand(linear, expected, t):
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
@pytest.mark.parametrize("sign", [1, -1])
def test_terms_are_never_below_the_derivative(function, sign):
    x = sign * draw(3, 5)
    y, pullback = jax.vjp(function, x)
    for seed in range(2):
        y_bar = draw(*y.shape, seed=seed)
        bound, bar = terms(function, x, y_bar), pullback(y_bar)[0]
        assert bound.shape == bar.shape
        assert jnp.all(jnp.isfinite(bound))
        assert jnp.all(bound >= jnp.abs(bar) * (1 - 1e-12))
        np.testing.assert_allclose(terms(function, x, -y_bar), bound)


def test_terms_are_those_of_the_loop_written_out():
    x = draw(3, 5)

    def written_out(x):
        carry, rows = jnp.zeros(5), []
        for row in x:
            carry = jnp.tanh(carry * -1.5 + row)
            rows.append(jnp.sin(carry) - carry)
        return jnp.stack(rows)

    np.testing.assert_allclose(terms(loop, x), terms(written_out, x), rtol=1e-12)


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


def test_push_forwards_and_trees_and_transforms():
    x = draw(3, 5)
    push = lambda u: jax.jvp(lambda x: {"a": x - 2 * x, "b": -jnp.sum(x)}, (x,), (u,))[1]  # noqa: E731
    bound = jax.jit(lambda u: absolute_terms(push, u))(-x)
    np.testing.assert_allclose(bound["a"], 3 * jnp.abs(x))
    np.testing.assert_allclose(bound["b"], jnp.sum(jnp.abs(x)))
    many = jax.vmap(lambda bar: terms(loop, x, bar))(jnp.stack([x, -x]))
    np.testing.assert_allclose(many, jnp.stack([terms(loop, x, x)] * 2))


@given(st.lists(st.sampled_from("+-*~"), min_size=1, max_size=8), st.floats(-3, 3).map(lambda x: round(x, 3)))
@settings(deadline=None, max_examples=30)
def test_a_random_chain_of_linear_steps(steps, factor):
    """A pair of coefficient and sum of absolute coefficients, kept beside, says the same.

    Factors have three decimals, so that no product is subnormal: XLA takes such numbers for 0.
    """

    def linear(t):
        a = b = t
        for step in steps:
            a, b = {"+": (a + b, b), "-": (a - b, b), "*": (factor * a, b), "~": (-b, a)}[step]
        return a - b

    a = b = 1.0
    for step in steps:
        a, b = {"+": (a + b, b), "-": (a + b, b), "*": (abs(factor) * a, b), "~": (b, a)}[step]
    np.testing.assert_allclose(absolute_terms(linear, jnp.array(-2.0)), 2 * (a + b), rtol=1e-12)
