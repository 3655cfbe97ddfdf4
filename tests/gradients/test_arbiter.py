"""The references: right where the answer is known, aware of their errors, and of what they cannot know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn

from functional_nn.gradients import arbiter
from functional_nn.gradients.arbiter import difference_jacobian, exact_jacobian, reference_second_order
from functional_nn.gradients.compare.problem import Problem

pytestmark = pytest.mark.usefixtures("float64")
REFERENCES = [exact_jacobian, difference_jacobian]
every_reference = pytest.mark.parametrize("reference", REFERENCES)


@every_reference
def test_jacobians_of_several_outputs_by_several_leaves(reference):
    def function(leaves):
        x, weight = leaves
        return [x @ weight, jnp.sum(x**3)]

    x, weight = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(3, 5))
    found = reference(function, [x, weight])
    by_x = np.concatenate([np.kron(np.eye(2), weight.T), 3 * x.reshape(1, -1) ** 2])
    by_weight = np.concatenate([np.kron(x, np.eye(5)), np.zeros((1, 15))])
    for of_leaf, expected in zip(found, (by_x, by_weight), strict=True):
        assert np.all(np.abs(of_leaf.values - expected) <= of_leaf.error + 1e-15)
        assert np.max(of_leaf.error) < 1e-9
    some, none = reference(function, [x, weight], lambda count: [np.array([4, 1]), np.array([], int)])
    np.testing.assert_allclose(some.values, by_x[:, [4, 1]], atol=1e-9)
    assert none.values.shape == (11, 0)


@every_reference
@pytest.mark.parametrize(
    "kinked",
    [
        *(jnp.abs, jnp.floor, jnp.sign, lambda x: x * jnp.sign(x), lambda x: jnp.maximum(x, 2 * x)),
        *(lambda x: jnp.max(jnp.stack([x, 3 * x])), lambda x: jnp.sort(jnp.stack([x, 3 * x]).ravel())[0]),
    ],
)
def test_kinks_are_seen(reference, kinked):
    (found,) = reference(lambda leaves: [kinked(leaves[0])], [np.array([0.0])])
    assert np.all(found.kink)
    assert np.all(found.error > 0.1)
    (beside,) = reference(lambda leaves: [kinked(leaves[0])], [np.array([0.7])])
    assert np.all(np.isfinite(beside.error))


@every_reference
@pytest.mark.parametrize("smooth", [lambda x: x**2, lambda x: x * 0, lambda x: 5 + x - x])
def test_a_derivative_of_zero_is_no_kink(reference, smooth):
    (found,) = reference(lambda leaves: [smooth(leaves[0])], [np.array([0.0])])
    assert np.all(found.error < 1e-9)
    assert np.all(np.abs(found.values) <= found.error)


def test_the_exact_reference_is_right_to_the_last_place_where_float64_is_not():
    x = np.array([-40.0, -3e-9, 1e-300, 0.0, 30.0, 700.0, 1e200])
    (found,) = exact_jacobian(lambda leaves: [nn.sigmoid(leaves[0])], [x])
    with np.errstate(over="ignore"):
        expected = np.exp(-np.abs(x)) / np.square(1 + np.exp(-np.abs(x)))
    np.testing.assert_allclose(np.diag(found.values), expected, rtol=1e-15)
    assert np.all(np.diag(found.error) <= 2**-52 * expected + 5e-324)


def test_the_exact_reference_survives_cancellation():
    (found,) = exact_jacobian(lambda leaves: [jnp.var(leaves[0] + 1e12)], [np.array([0.1, 0.3, 0.7])])
    x = np.array([0.1, 0.3, 0.7])
    np.testing.assert_allclose(found.values[0], 2 * (x - x.mean()) / 3, rtol=1e-14)


def test_the_inverse_of_a_hilbert_matrix():
    """The derivatives are far larger than differences with large steps say. The matrix is nearly singular."""
    matrix = 1 / (np.arange(3)[:, None] + np.arange(3) + 1)
    function = lambda leaves: [jnp.linalg.inv(leaves[0])]  # noqa: E731
    inverse = np.linalg.inv(matrix)
    (exact,), (rough,) = exact_jacobian(function, [matrix]), difference_jacobian(function, [matrix])
    np.testing.assert_allclose(exact.values, -np.kron(inverse, inverse.T), rtol=1e-6)
    assert np.all(exact.error <= 1e-15 * np.abs(exact.values))
    # The error is estimated. How the inverse is rounded depends on the processor: on one, it was twice the estimate.
    assert np.all(np.abs(rough.values - exact.values) <= 10 * rough.error)


def test_differences_of_a_callback():
    def function(x):
        return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    x = np.array([0.3, -1.2])
    (found,) = difference_jacobian(lambda leaves: [function(leaves[0])], [x])
    assert np.all(np.abs(found.values - np.diag(np.cos(x))) <= found.error)


@every_reference
def test_domains_end_where_they_do(reference):
    (found,) = reference(lambda leaves: [jnp.sqrt(leaves[0]) + jnp.log(-leaves[0])], [np.array([0.5, -0.5])])
    assert np.all(np.isinf(np.diag(found.error)))


@every_reference
def test_custom_derivatives_are_not_believed(reference):
    @jax.custom_vjp
    def wrong(x):
        return x**3

    wrong.defvjp(lambda x: (x**3, x), lambda x, y_bar: (7 * x * y_bar,))
    assert float(jax.grad(wrong)(2.0)) == 14
    np.testing.assert_allclose(reference(lambda leaves: [wrong(leaves[0])], [np.array(2.0)])[0].values, 12)


def test_a_float32_function_is_taken_with_its_constants():
    (found,) = exact_jacobian(lambda leaves: [leaves[0] * 0.1], [np.ones(1, np.float32)])
    assert found.values == np.float64(np.float32(0.1))


def exact(function, *leaves):
    """The values and the errors of the exact reference, one pair for each leaf."""
    found = exact_jacobian(lambda leaves: [function(*leaves)], [np.asarray(leaf, np.float64) for leaf in leaves])
    return [(of_leaf.values, of_leaf.error) for of_leaf in found]


def test_a_derivative_far_below_the_function_is_resolved():
    (_, (value, error)) = exact(lambda x, y: x + 1e-60 * y, 1.0, 2.0)
    np.testing.assert_allclose(value, 1e-60, rtol=1e-15)
    assert 0 < error < 1e-75
    for x in (60.0, 130.0, 200.0, 700.0):
        ((value, error),) = exact(lambda x: 1 / (1 + jnp.exp(-x)), x)
        np.testing.assert_allclose(value, np.exp(-x), rtol=1e-15)
        assert 0 < error < 1e-15 * np.exp(-x)
    ((value, error),) = exact(nn.softmax, [0.0, -700.0, -3.0])
    np.testing.assert_allclose(value[0, 1], -np.exp(-700) / (1 + np.exp(-3)) ** 2, rtol=1e-15)
    assert np.all(error < 1e-15 * np.abs(value))


def test_an_output_that_is_not_computed_from_an_element_has_a_derivative_of_zero():
    def function(a, h):
        return 6.6e-34 * a + jnp.where(a > 0, 0.0, h) + 0 * h

    (by_a, by_h) = exact(function, [1.0, 2.0], 3.0)
    np.testing.assert_allclose(by_a[0], 6.6e-34 * np.eye(2), rtol=1e-15)
    assert np.all(by_a[1] <= 1e-15 * by_a[0] + 5e-324)
    assert np.all(by_h[0] == 0)
    assert np.all(by_h[1] <= 5e-324)


def test_what_is_lost_inside_the_function_is_found():
    """The first term vanishes in 50 and in 80 digits."""
    ((value, error),) = exact(lambda x: ((1 + 1e-70 * x) - 1) * 1e80 + x, 1 / 3)
    np.testing.assert_allclose(value, 1e80 * 1e-70 + 1, rtol=1e-15)
    assert error < 1e-5


def test_a_matrix_without_a_cholesky_is_not_a_number_and_no_crash():
    def function(a):
        return jnp.where(a[0, 0] > 0, jnp.log(a[0, 0]), jnp.linalg.cholesky(a)[0, 0])

    ((value, error),) = exact(function, [[1, 2], [2, 1]])
    np.testing.assert_allclose(value, [[1, 0, 0, 0]], atol=1e-15)
    assert np.all(error < 1e-9)


def test_a_kink_far_below_the_function_is_seen():
    assert exact(lambda x, y: x + 1e-60 * jnp.abs(y), 1.0, 0.0)[1][1] == pytest.approx(1e-60, abs=0)


@pytest.mark.parametrize(
    ("function", "value", "error"),
    [(jnp.abs, 0, 1), (nn.relu, 0.5, 0.5), (jnp.floor, None, np.inf), (lambda x: jnp.sqrt(jnp.abs(x)), None, np.inf)],
)
def test_at_a_kink_the_error_reaches_to_the_one_sided_derivatives(function, value, error):
    found, found_error = (array.item() for array in exact(function, 0.0)[0])
    assert found_error == pytest.approx(error, rel=1e-12)
    assert value is None or found == pytest.approx(value, abs=1e-12)


def second_order_of(function, x):
    problem = Problem(["x"], [np.asarray(x)], lambda leaves: [function(*leaves)], lambda leaves, y_bars: y_bars)
    (found,) = reference_second_order(problem, [np.ones(())], [np.ones(())])
    return found.values.item(), found.error.item()


@pytest.mark.parametrize("x", [0.3, 300.0])
def test_second_derivatives_are_right_in_the_tails(x):
    value, error = second_order_of(nn.softplus, x)
    np.testing.assert_allclose(value, np.exp(-x) / (1 + np.exp(-x)) ** 2, rtol=1e-14)
    assert 0 < error < 1e-15 * value


def test_second_derivatives_of_products_with_zeros_are_known():
    """With an inner step of 2^-1000 in place of 2^-600, kinks are seen here."""
    x, u = np.array([0.0, 2.0, 0.0, 3.0]), np.array([1.0, 0.5, -1.5, 2.0])
    problem = Problem(["x"], [x], lambda leaves: [jnp.sum(jnp.cumprod(leaves[0]))], lambda leaves, y_bars: y_bars)
    (found,) = reference_second_order(problem, [np.ones(())], [u])
    np.testing.assert_allclose(found.values, [[-11.5, 1, 8, 0]], rtol=1e-14)
    assert np.max(found.error) < 1e-13


def test_second_derivatives_at_kinks_have_an_infinite_error():
    for kinked in (nn.relu, lambda x: nn.relu(x) ** 2, lambda x: x * jnp.abs(x)):
        assert second_order_of(kinked, 0.0)[1] == np.inf
    value, error = second_order_of(nn.relu, 1.0)
    assert abs(value) + error < 1e-290


def test_of_a_long_program_at_least_the_most_doubtful_elements_are_computed(monkeypatch):
    monkeypatch.setattr(arbiter, "MOST_EXACT_NUMBERS", 1)
    doubt = np.array([[0.0, 3, 0, 1, 0], [0, 1, 0, 0, 2]])
    columns = lambda count: [arbiter.doubtful(doubt, count)]  # noqa: E731
    (found,) = exact_jacobian(lambda leaves: [jnp.sin(leaves[0])], [np.arange(5.0)], columns)
    np.testing.assert_array_equal(found.columns, [1, 4])
