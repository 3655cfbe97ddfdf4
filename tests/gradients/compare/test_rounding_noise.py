"""What rounding does to a program: known cancellations, sums, loops; and nothing where nothing is rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from functional_nn.gradients.compare.error_scale import with_rounding
from functional_nn.jaxprs.xla_options import quick_jit

pytestmark = pytest.mark.usefixtures("float64")


def rounding(function, *arguments):
    return np.asarray(quick_jit(lambda *given: with_rounding(function, *given).size)(*arguments))


KNOWN = [
    # function, x, the least and the largest size
    (lambda x: (x + 1e6) - 1e6, 1.0, 1e6, 2.1e6),
    (lambda x: x * 3, 7.0, 21, 21.1),
    (lambda x: x * 3 * 5, 1.0, 15, 30.1),
    (lambda x: -x, 7.0, 0, 0),
    (lambda x: jnp.maximum(x, 2 * 1.5), 7.0, 0, 0),
    (lambda x: x * 0, 7.0, 0, 0),
    (lambda x: jnp.exp(x * 2), 50.0, 99 * np.exp(100), 102 * np.exp(100)),
    (lambda x: jnp.sin(x * 1.0), 1e4, 1, 2e4),
    (lambda x: jnp.sum(jnp.stack([x, -x, x, -x])), 2.0, 7.9, 8.1),
    (lambda x: jnp.dot(jnp.stack([x, -x]), jnp.ones(2)), 2.0, 3.9, 4.1),
]


def test_known_sizes():
    program = quick_jit(lambda xs: [with_rounding(known[0], x).size for known, x in zip(KNOWN, xs, strict=True)])
    sizes = program(jnp.array([known[1] for known in KNOWN]))
    for size, (_, _, least, most) in zip(sizes, KNOWN, strict=True):
        assert 0.74 * least <= size <= most  # errors are drawn between ¾ and 1


def variance(x):
    return jnp.mean(x**2) - jnp.mean(x) ** 2


def test_cancellation_is_seen_where_the_result_is_small():
    x = jnp.asarray(np.random.default_rng(0).normal(size=7))
    centered = lambda x: jnp.mean((x - jnp.mean(x)) ** 2)  # noqa: E731
    far = x + 1e3
    assert rounding(variance, far) > 1e5 * rounding(variance, x)
    assert rounding(variance, far) > 100 * rounding(centered, far)
    single = jnp.float32(far)
    slope = quick_jit(jax.grad(variance))
    error = np.abs(np.float64(slope(single)) - slope(single.astype(float)))
    assert np.all(error <= 2.0**-22 * rounding(jax.grad(variance), single.astype(float)))


def test_what_rounding_did_is_within_what_it_can_do():
    """Over many programs the error in float32 is within a small multiple of its unit roundoff times the size."""
    random = np.random.default_rng(0)
    points = np.float32(random.normal(size=(5, 3, 4)))
    for function in (jax.nn.softmax, jax.nn.logsumexp, jnp.linalg.norm, loop, lambda x: x @ x.T - x @ x.T / 3):
        size = quick_jit(lambda x, function=function: with_rounding(function, x).size)
        program = quick_jit(function)
        for x in points:
            error = np.abs(np.float64(program(x)) - program(np.float64(x)))
            assert np.all(error <= 8 * 2.0**-24 * (size(np.float64(x)) + 1e-30)), function


def loop(x):
    return lax.scan(lambda carry, row: (jnp.tanh(carry - 2 * row), carry * row), jnp.ones(4, x.dtype), x)[1]


def test_loops_branches_and_calls_are_entered():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    assert np.all(rounding(loop, x) > 0)
    branch = lambda x: lax.cond(x > 0, lambda x: x * 3, lambda x: x, x)  # noqa: E731
    assert rounding(branch, jnp.array(1.0)) > 2.2
    assert rounding(branch, jnp.array(-1.0)) == 0
    assert rounding(jax.jit(lambda x: jax.jit(lambda x: x * 3)(x)), jnp.array(1.0)) > 2.2


def test_a_choice_stays_the_same():
    """A maximum of what is a little wrong is a little wrong; it is not another element's."""
    x = jnp.array([1.0, 1.0, 0.0])
    assert 1.1 < rounding(lambda x: jnp.max(x * 1.5), x) < 1.6
    assert 1.1 < rounding(lambda x: (x * 1.5)[jnp.argmax(x)], x) < 1.6


def test_the_same_each_time_under_vmap_and_of_the_arguments_shapes():
    x, weight = jnp.ones((2, 3)), jnp.full((3, 5), 0.1)
    of = lambda x: with_rounding(jnp.matmul, x, weight).size  # noqa: E731
    size, again, of_examples = jax.jit(lambda x: (of(x), of(x), jax.vmap(of)(x[None])))(x)
    assert size.shape == (2, 5)
    np.testing.assert_array_equal(size, again)
    np.testing.assert_allclose(of_examples[0], size)
    assert rounding(lambda x: x[:0] * 2, x).shape == (0, 3)


def test_complex_numbers_and_linear_systems_round_too():
    """A solver's error is small beside the largest element of the matrix, also where an element is 0."""
    z = jnp.array([3 + 4j])
    assert 3.7 < rounding(lambda z: z * 2.0, z)[0] / 2 < 7.1
    assert np.all(rounding(jnp.linalg.inv, jnp.diag(jnp.array([1e3, 1.0]))) > 0)
    assert np.all(rounding(jnp.fft.fft, jnp.array([1.0, 0.0, 0.0])) > 0)


def test_narrow_types_count_where_they_round():
    """A conversion to a wider type is exact, and a part in float64 keeps its digits."""
    x = jnp.float64(0.7)
    narrow = lambda function: float(quick_jit(lambda x: with_rounding(function, x).narrow)(x))  # noqa: E731
    assert narrow(jnp.sin) == narrow(lambda x: x * float(np.float32(0.5))) == 0
    assert narrow(lambda x: x * jnp.float32([0.1]).astype(x.dtype)[0]) == 0
    assert 0.5e-5 < narrow(lambda x: x.astype(jnp.float32) * 1.0) / 0.7 < 4e-5
    assert 0.5e-8 < narrow(lambda x: 1e-3 * x.astype(jnp.float32).astype(x.dtype) + x) / 0.7 < 4e-8
    assert 0.1 < narrow(lambda x: jax.lax.reduce_precision(x, 8, 7)) / 0.7 < 0.4
    assert 0.5 * 2.0**-23 < narrow(lambda x: x * float(np.float32(0.1))) / 0.07 < 2.0**-22
