"""Attacks on the judge: wrong formulas that it must reject, right ones that it must accept, and what must not crash."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn import check_gradients, check_vjp
from functional_nn.core.errors import InputError
from functional_nn.gradients import arbiter
from functional_nn.gradients.compare import comparison
from functional_nn.gradients.compare.comparison import JacobianComparison
from functional_nn.gradients.compare.points import branch_constants
from functional_nn.gradients.compare.problem import cast, function_problem

F64 = np.float64
QUICK = {"second_order": False, "mutants": False}
sigmoid, softmax = jax.nn.sigmoid, jax.nn.softmax


def shifted_softmax_vjp(x, y_bar):
    terms = jnp.exp(x - jnp.max(x))
    y = terms / jnp.sum(terms)
    return y * (y_bar - jnp.sum(y * y_bar))


def accurate_tanh_derivative(x):
    return 4 * jnp.exp(-2 * jnp.abs(x)) / (1 + jnp.exp(-2 * jnp.abs(x))) ** 2


def nested_sine(x):
    """It is smooth at 0, but ``jax.grad`` gives 0 there: the branches are constant and not used."""
    return jnp.where(x == 0, 0, 0.9 * jnp.sin(0.3 * jnp.sin(0.7 * jnp.where(x == 0, 1, x))))


def loop_in_float32(x):
    def step(values):
        return values[0] + 1, jnp.sin(values[1])

    return jax.lax.while_loop(lambda values: values[0] < 2, step, (0, x.astype(jnp.float32)))[1]


def loop_in_float32_vjp(x, y_bar):
    return y_bar.astype(x.dtype) * jnp.cos(jnp.sin(x)) * jnp.cos(x)


def overwritten(x):
    """The first value of the carry is never read."""
    return jax.lax.fori_loop(0, 3, lambda i, u: (jnp.sin(u[1]), 0.5 * jnp.sin(u[1])), (x, x))[0]


def is_largest_in_float32(x):
    return x.astype(jnp.float32) >= jnp.max(x.astype(jnp.float32))


TARGETS = F64([1, 0, 1])
PLANCK = 6.6e-34
WRONG = {
    "a cotangent in float16": (
        lambda x: 3 * jnp.sin(x),
        lambda x, g: 3 * jnp.cos(x) * g.astype(jnp.float16).astype(x.dtype),
        (F64([0.3, 1.2]),),
    ),
    "a derivative of 1e-60 left out beside a constant of float32": (
        lambda x, y: x * np.float64(np.float32(0.1)) + 1e-60 * y,
        lambda x, y, g: (g * np.float64(np.float32(0.1)), 0 * g),
        (F64([1, 2]), F64([3, 4])),
    ),
    "a mask of minus infinity": (
        lambda x: softmax(x + np.array([0, -np.inf, 0.1])),
        lambda x, g: 2 * g,
        (F64([0.3, 1, 2]),),
    ),
    "small cotangents left out": (
        lambda x: x**2,
        lambda x, g: 2 * x * jnp.where(jnp.abs(g) < 1e-3, 0, g),
        (F64([0.3, 1.2]),),
    ),
    "a cotangent clipped to a norm of 10,000": (
        lambda x: jnp.sin(x) * x,
        lambda x, g: g * jnp.minimum(1.0, 1e4 / (jnp.linalg.norm(g) + 1e-12)) * (jnp.sin(x) + x * jnp.cos(x)),
        (F64([0.3, 1.2, -0.5, 2]),),
    ),
    "s(x) - t in the tail, with the targets as an array": (
        lambda x: jax.nn.softplus(x) - TARGETS.astype(x.dtype) * x,
        lambda x, g: g * (sigmoid(x) - TARGETS.astype(x.dtype)),
        (F64([40, -2, 0.3]),),
    ),
    "tanh with the wrong sign beyond 16": (
        jnp.tanh,
        lambda x, g: g * jnp.where(jnp.abs(x) > 16, -1, 1) * accurate_tanh_derivative(x),
        (F64([17, 0.5]),),
    ),
    "a tiny cotangent for an argument that is not used": (
        lambda a, b: PLANCK * a,
        lambda a, b, g: (PLANCK * g, PLANCK * g),
        (F64(1.5), F64(2)),
    ),
    "terms that overflow": (lambda x: 1.5e308 * x - 1.5e308 * x + x, lambda x, g: 5 * g, (F64(1),)),
    "a large constant with a fraction": (lambda x: x * 300000.5, lambda x, g: 300001.0 * g, (F64([0.3, 1.1]),)),
    "a factor beside a constant of float32 that is off by a millionth": (
        lambda x: x * np.float32(0.1),
        lambda x, g: 0.1000001 * g,
        (F64([1, 2]),),
    ),
    "a tail beside a constant of float32": (
        lambda x: np.float32(0.3) * jnp.tanh(x),
        lambda x, g: g * np.float32(0.3) * (1 - jnp.tanh(x) ** 2),
        (F64([18]),),
    ),
    "an error in float64 beside a part in float32": (
        lambda x: (jnp.sin(x.astype(jnp.float32)).astype(x.dtype), jnp.sin(x)),
        lambda x, g: jnp.cos(x) * (g[0] + (1 + 1e-7) * g[1]),
        (F64([0.3, 2]),),
    ),
    "twice as large where numbers of float32 are compared": (
        lambda x: jnp.sum(jnp.where(is_largest_in_float32(x), x**2, 0)),
        lambda x, g: g * jnp.where(is_largest_in_float32(x), 4 * x, 0),
        (F64([1, 1.03, 0.5]),),
    ),
    "complex outputs left out": (
        lambda x: (jnp.sum(x**2), jnp.fft.fft(x)),
        lambda x, g: 2 * x * g[0],
        (F64([1, 2, 3]),),
    ),
}
RIGHT = {
    "0 of automatic differentiation": (
        nested_sine,
        lambda x, g: g * 0.9 * jnp.cos(0.3 * jnp.sin(0.7 * x)) * 0.3 * jnp.cos(0.7 * x) * 0.7,
        (F64([0]),),
    ),
    "float16 inside, near its largest number": (
        lambda x: (x.astype(jnp.float16) * 256).astype(x.dtype),
        lambda x, g: (g.astype(jnp.float16) * 256).astype(x.dtype),
        (F64([0.5, 1.25]),),
    ),
    "a tiny second derivative": (lambda x: 1e-60 * x**2, lambda x, g: 2e-60 * x * g, (F64([0, 0.5]),)),
    "beside a kink": (
        lambda x: jnp.where(x < 0.3, x**2, 0.6 * x - 0.09),
        lambda x, g: g * jnp.where(x < 0.3, 2 * x, 0.6),
        (F64([0.1 + 0.2, 1]),),
    ),
    "two zeros in a product": (
        jnp.prod,
        lambda x, g: g * jnp.stack([jnp.prod(jnp.delete(x, place)) for place in range(4)]),
        (F64([2, 3, 0, 0]),),
    ),
    "numbers that underflow": (lambda x, y: x * y, lambda x, y, g: (g * y, g * x), (F64([1e-310]), F64([2]))),
    "a slope that underflows in float64": (sigmoid, lambda x, g: g * sigmoid(x) * sigmoid(-x), (F64([-720, -700, 1]),)),
    "an argument that is not used": (lambda a, b: PLANCK * a, lambda a, b, g: (PLANCK * g, 0 * g), (F64(1.5), F64(2))),
    "terms that overflow": (lambda x: 1.5e308 * x - 1.5e308 * x + x, lambda x, g: g, (F64(1),)),
    "complex outputs": (
        lambda x: (jnp.sum(x**2), jnp.fft.fft(x)),
        lambda x, g: 2 * x * g[0] + jnp.real(jnp.fft.fft(g[1])),
        (F64([1, 2, 3]),),
    ),
    "a complex argument": (
        lambda z: jnp.abs(z) ** 2,
        lambda z, g: 2 * g * jnp.conj(z),
        (np.array([1 + 2j, 0.5 - 1j]),),
    ),
    "absolute values of complex numbers": (
        lambda z: z / jnp.abs(z),
        lambda z, g: (g - jnp.conj(g) * (jnp.conj(z) / jnp.abs(z)) ** 2) / (2 * jnp.abs(z)),
        (np.array([1 + 2j, 0.5 - 1j]),),
    ),
    "NaN at 0 in both": (
        lambda x, y: jnp.sqrt(jnp.sum(x**2)) * jnp.sqrt(jnp.sum(y**2)),
        lambda x, y, g: (g * x * jnp.sqrt(y @ y) / jnp.sqrt(x @ x), g * y * jnp.sqrt(x @ x) / jnp.sqrt(y @ y)),
        (F64([0.5, -1]), F64([2, 1])),
    ),
    "NaN of automatic differentiation": (
        lambda x: jnp.where(x > 0.1, jnp.sqrt(x), x),
        lambda x, g: g * jnp.where(x > 0.1, 0.5 / jnp.sqrt(jnp.where(x > 0.1, x, 1)), 1),
        (F64([0, 0.5]),),
    ),
    "a carry that is overwritten": (overwritten, lambda x, g: jax.vjp(overwritten, x)[1](g)[0], (F64([0.3]),)),
    "overflow inside": (lambda x: jnp.log(1 + jnp.exp(x)), lambda x, g: g * sigmoid(x), (F64([800, 0.5]),)),
    "a constant of float32": (lambda x: x * jnp.float32(0.1), lambda x, g: 0.1 * g, (F64([1, 2]),)),
    "a loop in float32": (loop_in_float32, loop_in_float32_vjp, (F64(0.3),)),
    "a cast to float32 inside": (
        lambda x: jnp.sin(x.astype(jnp.float32)).astype(x.dtype),
        lambda x, g: jnp.cos(x) * g,
        (F64([0.3, 2]),),
    ),
}


def comparison_of(function, formula, arguments):
    """A part of ``check_vjp``, which takes several times as long with all of its parts."""
    return JacobianComparison("f", lambda dtype: function_problem(function, formula, cast(tuple(arguments), dtype)))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_formulas_are_rejected(name):
    assert "fail" in {verdict.outcome for verdict in comparison_of(*WRONG[name]).first_order()}


IN_SECOND_ORDER = {"a tiny second derivative", "0 of automatic differentiation", "two zeros in a product"}
IN_SECOND_ORDER |= {"numbers that underflow", "complex outputs", "absolute values of complex numbers"}


@pytest.mark.parametrize("name", RIGHT)
def test_right_formulas_are_accepted(name):
    compared = comparison_of(*RIGHT[name])
    verdicts = [*compared.first_order(), *compared.at_further_points()]
    if name in IN_SECOND_ORDER:
        verdicts += compared.second_order()
    assert {verdict.outcome for verdict in verdicts} == {"pass"}


def two_exponentials(x, y_bar):
    return y_bar * sigmoid(x) * sigmoid(-x)


def one_minus_sigmoid(x, y_bar):
    return y_bar * sigmoid(x) * (1 - sigmoid(x))


@pytest.mark.parametrize(("dtype", "x"), [("float32", [17, -30, 0]), ("bfloat16", [12, 0])])
def test_digits_that_are_lost_in_a_narrow_type_alone(dtype, x):
    """In float64, both formulas have enough digits there. ``jax.grad`` loses them, too."""
    at = jnp.asarray(x, dtype)
    check_vjp(sigmoid, two_exponentials, at, mutants=False).raise_if_failed()
    report = check_vjp(sigmoid, one_minus_sigmoid, at[:1], mutants=False)
    assert {(verdict.dtype, verdict.unit) for verdict in report.failures} == {(dtype, "relative")}
    assert report.failures[0].automatic_outcome == "fail"


def test_of_many_elements_the_doubtful_ones_are_compared_with_the_arbiter(monkeypatch):
    """Five elements are in the tail, where ``jax.grad`` is as wrong as the formula."""
    monkeypatch.setattr(arbiter, "MOST_EXACT_NUMBERS", 10_000)
    function, x = lambda x: jnp.sum(jnp.tanh(x)), np.linspace(-2, 2, 100)
    report = check_vjp(function, lambda x, g: g * accurate_tanh_derivative(x), x, **QUICK)
    assert re.search(r"x: \d+ of 100 elements were compared with the arbiter, all others with", report.sentence)
    x[[7, 20, 21, 50, 99]] = 19.5, -20, 22, 25, -30
    assert not check_vjp(function, lambda x, g: g * (1 - jnp.tanh(x) ** 2), x, **QUICK).passed


def test_a_report_says_which_derivatives_have_the_digits_of_float32():
    half = lambda x: (jnp.sin(x.astype(jnp.float32)).astype(x.dtype), jnp.sin(x))  # noqa: E731
    report = check_vjp(half, lambda x, g: jnp.cos(x) * (g[0] + g[1]), F64([0.3]), **QUICK)
    report.raise_if_failed()
    assert re.search(r"So errors up to \de-0[56] of the terms are allowed in 1 of 2 derivatives\.", report.sentence)


def singular_values(matrix):
    return jnp.linalg.svd(matrix, compute_uv=False)


def singular_values_vjp(matrix, y_bar):
    u, _, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return jnp.conj(u @ jnp.diag(y_bar.astype(matrix.dtype)) @ vh)


def test_a_formula_that_agrees_with_an_uncertain_arbiter_is_right_to_some_digits():
    """The arbiter has no rule for complex matrices, so it takes differences in float64."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(2, 2)) + 1j * random.normal(size=(2, 2))
    report = check_vjp(singular_values, singular_values_vjp, matrix, **QUICK)
    assert report.passed, report
    assert re.search(r"right to 1\d digits", report.sentence)
    wrong = lambda matrix, y_bar: (1 + 1e-8) * singular_values_vjp(matrix, y_bar)  # noqa: E731
    report = check_vjp(singular_values, wrong, matrix, **QUICK)
    assert report.failures[0].outcome == "fail"


def test_a_kink_of_the_slope_is_inconclusive_in_second_order():
    function, formula = lambda x: jax.nn.relu(x) ** 2, lambda x, g: 2 * jax.nn.relu(x) * g
    report = check_vjp(function, formula, F64([0, 0.5]), mutants=False)
    assert {(verdict.kind, verdict.outcome) for verdict in report.failures} == {("second order", "inconclusive")}
    check_vjp(function, formula, F64([0, 0.5]), mutants=False, kinks_as_automatic=True).raise_if_failed()


def test_the_second_derivative_is_compared_in_other_branches():
    function = lambda x: jnp.where(x > 3, x**3 / 3, jnp.exp(x))  # noqa: E731
    formula = lambda x, g: g * jnp.where(x > 3, jax.lax.stop_gradient(x) ** 2, jnp.exp(x))  # noqa: E731
    report = check_vjp(function, formula, F64([0.5, -1]), mutants=False)
    assert "(second order, float64, jit, at a further point, x = [" in report.sentence


def test_digits_that_rules_of_jax_lose_in_the_second_derivative_are_no_mistake():
    """JAX's derivative of tanh, 1 - tanh², is 0 at 20."""
    log_cosh = lambda x: jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x)))  # noqa: E731
    check_vjp(log_cosh, lambda x, g: jnp.tanh(x) * g, np.float32([0.4, -1, 20]), mutants=False).raise_if_failed()


@pytest.mark.parametrize("reads_type", [True, False])
def test_a_function_that_reads_its_type_is_judged_in_this_type_alone(reads_type):
    def smallest(x):
        return float(jnp.finfo(x.dtype).eps) ** 0.5

    def formula(x, g):
        return g * smallest(x if reads_type else F64(0)) / (x**2 + smallest(x if reads_type else F64(0))) ** 1.5

    at = np.float32([0.3, -0.02])
    report = check_vjp(lambda x: x / jnp.sqrt(x**2 + smallest(x)), formula, at, **QUICK)
    assert report.passed == reads_type
    assert {verdict.dtype for verdict in report.failures} == (set() if reads_type else {"float32"})
    assert not report.wrong_automatic
    assert "The function reads the type of its arguments" in report.sentence


def test_a_tiny_second_derivative_that_is_left_out():
    @jax.custom_jvp
    def constant(x):  # its derivative is declared to be 0
        return x

    constant.defjvp(lambda given, moved: (given[0], jnp.zeros_like(moved[0])))
    formula = lambda x, g: 2e-60 * constant(x) * g  # noqa: E731
    report = check_vjp(lambda x: 1e-60 * x**2, formula, F64([0.3, 0.5]), mutants=False)
    assert {(verdict.kind, verdict.outcome) for verdict in report.failures} == {("second order", "fail")}


def test_second_derivatives_of_a_very_wide_range():
    """They were 0 with certainty: numbers of 1e250 and 1e-300 in one sum need more digits than were taken."""
    x, w = F64([[1e100, 1.0, 1e-100]]), F64([[1e150], [1e-50], [1e-200]])
    report = check_vjp(jnp.matmul, lambda x, w, g: (g @ w.T, x.T @ g), x, w, mutants=False)
    found = [verdict for verdict in report.verdicts if verdict.kind == "second order" and verdict.transform == "jit"]
    assert {verdict.outcome for verdict in found} == {"pass"}
    assert all(verdict.arbiter for verdict in found)


def permuted(x):
    return x[np.array([2, 0, 1])]


def equivalents(x, y_bar):
    """A shift that cancels, a sum that starts from 0, a vector of ones, a guard inside a function of JAX."""
    ones = jnp.ones(3, x.dtype)
    y = jnp.exp(x - jax.nn.logsumexp(x))
    y_bar = jnp.zeros(3, x.dtype).at[np.array([2, 0, 1])].set(y_bar)
    return jnp.zeros_like(x) + y * (y_bar - jnp.outer(ones, ones) @ (y * y_bar))


def test_errors_that_change_nothing_are_told_and_reject_no_formula():
    report = check_vjp(lambda x: permuted(softmax(x)), equivalents, F64([0.3, -1, 2]), second_order=False)
    report.raise_if_failed()
    assert report.survivors
    assert not report.missed
    assert f"{len(report.survivors)} could not be told apart from the formula" in report.sentence
    _, told = str(report).split("Could not be told apart:")
    assert f"test_judge.py:{equivalents.__code__.co_firstlineno + 5} (equivalents)" in told
    assert "jnp.zeros_like(x) + y * (y_bar - jnp.outer(ones, ones) @ (y * y_bar))" in told


def test_a_blind_comparison_is_seen(monkeypatch):
    """The planted errors test the comparison itself: one that accepts too much does not pass."""
    monkeypatch.setitem(comparison.TOLERANCES, "float64", 1e-3)
    report = check_vjp(jnp.sin, lambda x, y_bar: jnp.cos(x) * y_bar, F64([0.3, -1.2]), second_order=False)
    assert "the cotangent of x: largest component × (1 + 1e-6)" in {survivor.description for survivor in report.missed}
    assert "a planted error was not found" in report.sentence
    assert "cannot be trusted" in report.sentence
    assert not report.passed


@pytest.mark.parametrize(
    ("function", "slope"),
    [(jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x)), (jax.nn.relu, lambda x: jnp.where(x >= 0, 1.0, 0.0))],
    ids=["points without a value", "points at a kink"],
)
def test_points_where_the_formula_itself_cannot_be_judged_find_no_errors(function, slope):
    """There, the formula differs from automatic differentiation too, and so does everything that is planted."""
    formula = lambda x, y_bar: y_bar * slope(x) * jnp.where(x / 7e6 > 1e6, 3.0, 1.0)  # noqa: E731
    report = check_vjp(function, formula, F64([0.3, 1.2]), second_order=False)
    assert any("select_n" in survivor.description for survivor in report.survivors)


def test_a_formula_that_always_takes_its_first_point_is_rejected():
    at = F64([0.3, -1.2])
    report = check_vjp(jnp.sin, lambda x, y_bar: jnp.cos(at) * y_bar, at, **QUICK)
    assert {verdict.transform for verdict in report.verdicts if verdict.outcome == "fail"} == {"drawn", "vmap", "scan"}


def test_a_batching_rule_that_mixes_examples_is_rejected():
    @jax.custom_batching.custom_vmap
    def formula(x, y_bar):
        return 3 * x**2 * y_bar

    formula.def_vmap(lambda size, batched, x, y_bar: (3 * x * (x[:1] if all(batched) else x) * y_bar, True))
    report = check_vjp(lambda x: x**3, formula, F64([0.3, -1.2]), mutants=False)
    assert {verdict.transform for verdict in report.verdicts if verdict.outcome == "fail"} == {"vmap"}


def test_a_second_point_without_a_derivative_is_left_out():
    """The second point is 0.97 times the first one, where ``arccosh`` is NaN."""
    assert check_vjp(jnp.arccosh, lambda x, y_bar: y_bar / jnp.sqrt(x**2 - 1), F64([1.02]), mutants=False).passed


@pytest.mark.parametrize("formula", ["cache", "counter"])
def test_a_formula_that_depends_on_more_than_its_arguments_is_refused(formula):
    kept = {"slope": None, "calls": 0}

    def function(x):
        kept["slope"] = jnp.cos(x)
        return jnp.sin(x)

    def from_cache(x, y_bar):
        return y_bar * kept["slope"]

    def by_number(x, y_bar):
        kept["calls"] += 1
        return y_bar * jnp.cos(x) * kept["calls"]

    with pytest.raises(InputError, match=r"expected a function of its arguments alone.* Does it read a cache"):
        check_vjp(function, from_cache if formula == "cache" else by_number, F64([0.3]), mutants=False)


def test_a_wrong_batching_rule_is_named_as_a_cause():
    reverse = jax.custom_batching.custom_vmap(lambda x: x[::-1])
    reverse.def_vmap(lambda size, batched, x: (x[::-1], True))  # of the batch
    with pytest.raises(InputError, match="A wrong rule of custom_vmap"):
        check_vjp(lambda x: x[::-1], lambda x, g: reverse(g), F64([0.3, -1.2, 2]), mutants=False)


def test_straight_through_estimators_are_declared():
    rounded = lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)  # noqa: E731
    at = np.float32([0.3, 1.8])
    assert not check_vjp(rounded, lambda x, g: g, at, mutants=False).passed
    report = check_vjp(rounded, lambda x, g: g, at, mutants=False, stop_gradient_as_constant=True)
    report.raise_if_failed()
    assert report.skipped[0][0] == "lambda, second order"
    assert not check_vjp(rounded, lambda x, g: 2 * g, at, mutants=False, stop_gradient_as_constant=True).passed

    def in_a_loop(x):
        return jax.lax.scan(lambda carry, _: (rounded(carry), None), x, None, 2)[0]

    with pytest.raises(InputError, match="stop_gradient outside of loops, got one in a loop"):
        check_vjp(in_a_loop, lambda x, g: g, at, stop_gradient_as_constant=True)


def test_a_formula_that_stops_the_gradient_of_its_cotangent_is_rejected():
    formula = lambda x, g: jax.lax.stop_gradient(g) * jnp.cos(x)  # noqa: E731
    report = check_vjp(jnp.sin, formula, F64([0.3]), mutants=False)
    assert {(verdict.kind, verdict.transform) for verdict in report.failures} == {("second order", "by y_bar")}
    assert "derivative of the formula by y_bar" in report.sentence


def with_rule(function, rule):
    declared = jax.custom_vjp(function)
    declared.defvjp(lambda x: (function(x), x), lambda x, y_bar: (rule(x, y_bar),))
    return declared


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, "pass"), (1.1, "fail")])
def test_a_formula_without_forward_mode_is_compared_in_second_order(factor, outcome):
    cosine = with_rule(jnp.cos, lambda x, y_bar: -factor * jnp.sin(x) * y_bar)
    report = check_vjp(jnp.sin, lambda x, g: g * cosine(x), F64([0.3, 2]), mutants=False)
    assert {verdict.outcome for verdict in report.verdicts if verdict.kind == "second order"} >= {outcome}
    assert report.passed is (outcome == "pass")


def test_a_second_order_that_cannot_be_compared_does_not_pass():
    double = with_rule(lambda x: 2 * x, lambda x, y_bar: 2 * y_bar)  # no forward mode

    def formula(x, g):  # no reverse mode
        return g * double(jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (c[0] * x, c[1] + 1), (x, 1))[0])

    function, at = lambda x: 2 * x**3 / 3, F64([0.3, 2])
    report = check_vjp(function, formula, at, mutants=False)
    assert not report.passed
    assert report.sentence.startswith("lambda: second order: not compared, because JAX cannot differentiate")
    check_vjp(function, formula, at, **QUICK).raise_if_failed()


ELSEWHERE = {
    "another branch": (
        lambda x: jnp.where(x > 0, jnp.sin(x), jnp.cos(x)),
        lambda x, g: g * jnp.where(x > 0, jnp.cos(x), jnp.sin(x)),
        F64([1.0, 0.5]),
    ),
    "a branch far away": (lambda x: jnp.where(x < -300, 2 * x + 300, x), lambda x, g: g, F64([1.0, 0.5])),
    "another order": (lambda x: jnp.sort(x), lambda x, g: g, F64([-0.4, 0.1, 0.5])),
    "a derivative of 0": (lambda x: jax.nn.relu(x), lambda x, g: g, F64([1.0])),
    "beyond the slopes at a kink": (jnp.abs, lambda x, g: g * jnp.where(x == 0, 7, jnp.sign(x)), F64([1.0, 0.5])),
    "one number is 0": (
        lambda x: jnp.prod(x),
        lambda x, g: jnp.where(x == 0, 0, g * jnp.prod(x) / jnp.where(x == 0, 1, x)),
        F64([1.0, 0.5, -2.0, 0.3]),
    ),
    "beside an index that is computed": (
        lambda x: jnp.quantile(x, 0.4, method="lower"),
        lambda x, g: g * jnp.float64(x == jnp.quantile(x, 0.4, method="lower")) * jnp.where(jnp.max(x) < 0, 2, 1),
        F64([0.3, 0.1, 2.0]),
    ),
    "the only number is 0": (jnp.sin, lambda x, g: g * jnp.where(x == 0, 2, jnp.cos(x)), F64([0.5])),
    "equal numbers": (
        lambda x: jnp.sum(x) ** 2,
        lambda x, g: g * jnp.where(jnp.var(x) < 1e-9, 0, 2 * jnp.sum(x)) + 0 * x,
        F64([1.0, 0.5, 2.0]),
    ),
    "both of two equal numbers": (
        lambda x: jnp.max(x.reshape(-1, 2), -1),
        lambda x, g: (g[:, None] * (x.reshape(-1, 2) == jnp.max(x.reshape(-1, 2), -1, keepdims=True))).reshape(-1),
        F64([1.0, 0.5, -2.0, 0.3]),
    ),
    "as wrong as automatic differentiation": (
        lambda x: jnp.where(x > 5, x * jax.lax.stop_gradient(x), jnp.sin(x)),
        lambda x, g: g * jnp.where(x > 5, x, jnp.cos(x)),
        F64([0.5]),
    ),
    "between two constants": (
        lambda x: x**2,
        lambda x, g: g * jnp.where((x > 2) & (x < 2.0001), 0, 2 * x),
        F64([0.5]),
    ),
    "below a tiny constant": (
        lambda x: x / jnp.maximum(jnp.abs(x), 1e-12),
        lambda x, g: 0 * g,
        F64([0.5]),
    ),
    "below the root of a tiny constant": (
        lambda x: jnp.sqrt(x**2 + 1e-24),
        lambda x, g: jnp.sign(x) * g,
        F64([0.5]),
    ),
    "at a constant": (
        lambda x: jnp.where(x > 1 / 3, x**2, x**2),
        lambda x, g: g * jnp.where(x == 1 / 3, 0, 2 * x),
        F64([0.5]),
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_formula_that_is_wrong_at_another_point_is_rejected(name):
    function, formula, at = ELSEWHERE[name]
    first = next(comparison_of(function, formula, [at]).at_further_points())
    assert first.outcome == "fail"
    assert "at a further point, x = [" in first.sentence


SLOPES = np.random.default_rng(0).normal(size=(3, 3))
RIGHT_WHERE_IT_MATTERS = {
    "a domain": (lambda x: jnp.log(x) + jnp.arccosh(1 + x), lambda x, g: g / x + g / jnp.sqrt(x * (x + 2)), 5),
    "kinks of its own choice": (
        lambda x: jnp.max(x) - jnp.min(x),
        lambda x, g: g * jnp.zeros_like(x).at[jnp.argmax(x)].add(1).at[jnp.argmin(x)].add(-1),
        3,
    ),
    "several kinks at once": (
        lambda x: SLOPES[0] @ jnp.maximum(SLOPES @ x, 0),
        lambda x, g: g * (SLOPES[0] * (SLOPES @ x >= 0)) @ SLOPES,
        3,
    ),
    "equal numbers in another order": (
        lambda x: F64([1, 100, 0]) @ jnp.sort(x),
        lambda x, g: g * jnp.zeros_like(x).at[jnp.argsort(x)].set(F64([1, 100, 0])),
        3,
    ),
    "NaN at a kink": (lambda x: jnp.sqrt(jnp.sum(x**2)), lambda x, g: g * x / jnp.sqrt(jnp.sum(x**2)), 1),
    "digits that the formula loses in the tails": (
        lambda x: x * jax.scipy.special.ndtr(x),
        lambda x, g: g * (0.5 * (1 + jax.lax.erf(x / np.sqrt(2.0))) + x * jnp.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)),
        4,
    ),
    "float32 inside, which loses all digits in the tails in the rule of JAX": (
        lambda x: (2 * jnp.tanh(x.astype(jnp.float32))).astype(x.dtype),
        lambda x, g: (2 * g.astype(jnp.float32) / jnp.cosh(x.astype(jnp.float32)) ** 2).astype(x.dtype),
        4,
    ),
    "automatic differentiation that gives NaN elsewhere": (
        lambda x: jnp.where(x > 0, jnp.sqrt(x), x),
        lambda x, g: g * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1)), 1),
        2,
    ),
}


def log_quotient(x):
    is_one = x == 1
    safe = jnp.where(is_one, 2.0, x)
    return jnp.where(is_one, 1, jnp.log(safe) / (safe - 1))


def log_quotient_vjp(x, g):
    safe = jnp.where(x == 1, 2.0, x)
    return g * jnp.where(x == 1, 0, ((safe - 1) / safe - jnp.log(safe)) / (safe - 1) ** 2)  # -1/2 at 1


def test_a_constant_beside_the_given_numbers_tells():
    """A point with 0 or a negative number does not count: the logarithm is not finite there."""
    report = check_vjp(log_quotient, log_quotient_vjp, F64([0.5, 1.7, 3.1]), **QUICK)
    assert "x = [1. , 1.7, 3.1]" in report.sentence


def test_a_kink_by_one_argument_does_not_hide_a_wrong_derivative_by_another():
    function = lambda x, y: (jnp.sin(x), jnp.maximum(y, 0))  # noqa: E731
    wrong = lambda x, y, g: (g[0] * jnp.where(x < -2, 0.9, 1) * jnp.cos(x), jnp.where(y > 0, g[1], 0))  # noqa: E731
    found = comparison_of(function, wrong, [F64([1.0, 0.5]), F64([1.0, 0.5, 0.3])]).at_further_points()
    assert "x" in {verdict.leaf for verdict in found if verdict.outcome == "fail"}


@pytest.mark.parametrize("name", RIGHT_WHERE_IT_MATTERS)
def test_further_points_reject_no_right_formula(name):
    function, formula, size = RIGHT_WHERE_IT_MATTERS[name]
    verdicts = comparison_of(function, formula, [np.linspace(0.7, 1.9, size)]).at_further_points()
    assert {verdict.outcome for verdict in verdicts} == {"pass"}


def test_a_formula_for_some_numbers_has_a_domain():
    root = lambda x, scale: scale * jnp.sqrt(x**2)  # noqa: E731
    formula = lambda x, scale, g: (scale * g, x * g)  # noqa: E731
    at = F64([0.3, 1.5]), F64([0.7, -2.0])
    assert "give check_vjp a domain" in check_vjp(root, formula, *at, **QUICK).sentence
    check_vjp(root, formula, *at, domain=lambda x, scale: (jnp.abs(x), scale), **QUICK).raise_if_failed()
    with pytest.raises(InputError, match=r"domain: expected a tuple of 2 arguments \(x, scale\)"):
        check_vjp(root, formula, *at, domain=lambda x, scale: jnp.abs(x), **QUICK)


@pytest.mark.parametrize("at_zero", [7.0, -1.001])
def test_a_value_outside_of_both_one_sided_derivatives_is_wrong(at_zero):
    formula = lambda x, g: g * jnp.where(x == 0, at_zero, jnp.sign(x))  # noqa: E731
    report = check_vjp(jnp.abs, formula, F64([0.0, 0.4]), **QUICK)
    assert report.failures[0].outcome == "fail"
    assert "The right value lies between -1 and 1." in report.sentence
    assert report.verdicts[0].automatic_outcome != "fail"


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


def test_functions_with_a_backward_rule_only():
    check_vjp(sine, lambda x, g: g * jnp.cos(x), F64([0.3, 2]), mutants=False).raise_if_failed()
    report = check_vjp(lambda x: 2 * sine(x), lambda x, g: g * jnp.cos(x), F64([0.3, 2]), mutants=False)
    assert not report.passed
    net = fnn.with_hand_vjp(fnn.dense(1))
    params, state = net.init(jax.random.key(0), (2,))
    x = np.array([[0.5, -1.0]])
    check_gradients(net, fnn.mean_squared_error, params, state, x, np.ones((1, 1)), mutants=False).raise_if_failed()


def test_a_planted_number_names_the_called_function():
    mutants = fnn.gradients.mutate(lambda x, y_bar: y_bar * jnp.clip(x, 0, 8.0), np.ones(2), np.ones(2))
    assert "clip: 8 became 9" in [mutant.description for mutant in mutants]


def test_the_unit_of_a_solver_is_not_that_of_its_largest_numbers():
    """L, whose numbers are at most 1, and U are in one matrix."""
    a, b = 1e12 * np.array([[2.0, -1.0], [0.5, 1.5]]), np.array([1.0, -2.0])

    def solve_vjp(a, b, y_bar):
        bar = jnp.linalg.solve(jax.lax.stop_gradient(a).T, y_bar)
        return -jnp.outer(bar, jnp.linalg.solve(a, b)), bar

    assert check_vjp(jnp.linalg.solve, solve_vjp, a, b, mutants=False).failures[0].kind == "second order"


def masked_sum(x, labels):
    return jnp.sum(jnp.where(labels != -1, x, 0))


WHOLE_NUMBERS = {
    # function, right formula, wrong formula, the whole number that tells
    "an ignored label": (masked_sum, lambda x, n, g: (g * (n != -1), None), lambda x, n, g: (g + 0 * x, None), -1),
    "a negative token": (
        lambda x, n: x[jnp.clip(n - 1, 0)],
        lambda x, n, g: (jnp.zeros_like(x).at[jnp.clip(n - 1, 0)].add(g), None),
        lambda x, n, g: (jnp.zeros_like(x).at[n - 1].add(g), None),
        0,
    ),
    "in a loop": (
        lambda x, n: jax.lax.scan(lambda c, given: (c + jnp.where(given[1] == 7, 0, given[0]), None), 0 * x[0], (x, n))[
            0
        ],
        lambda x, n, g: (jnp.where(n == 7, 0, g), None),
        lambda x, n, g: (g + 0 * x, None),
        7,
    ),
}


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers_that_the_function_compares_with(name):
    function, right, wrong, number = WHOLE_NUMBERS[name]
    given = F64([0.3, -1.2, 0.7]), np.array([2, 1, 2])
    check_vjp(function, right, *given, **QUICK).raise_if_failed()
    assert f"a whole number is {number}" in check_vjp(function, wrong, *given, **QUICK).sentence


def test_all_whole_numbers_may_be_the_constant():
    """The mean over the labels that count is 0 if none does, and its derivative is not 0 / 0."""

    def report(least):
        return check_vjp(
            lambda x, n: masked_sum(x, n) / jnp.maximum(jnp.sum(n != -1), 1),
            lambda x, n, g: (g * (n != -1) / jnp.maximum(jnp.sum(n != -1), least), None),
            *(F64([0.3, -1.2, 0.7]), np.array([2, -1, 2])),
            **QUICK,
        )

    report(1).raise_if_failed()
    assert "all whole numbers are -1" in report(0).sentence


def test_a_flag_that_is_the_constant_gets_another_value():
    formulas = lambda n: jnp.where(n == 1, 2.0, 1.0), lambda n: 2.0
    reports = [
        check_vjp(
            lambda x, n: jnp.where(n == 1, 2 * x, x),
            lambda x, n, g, factor=factor: (g * factor(n), None),
            *(F64([0.3, -1.2]), np.array(1)),
            **QUICK,
        )
        for factor in formulas
    ]
    assert [report.passed for report in reports] == [True, False]


def test_indices_of_several_rows_are_no_permutation():
    report = check_vjp(
        lambda x, n: jnp.take_along_axis(x, n, 1),
        lambda x, n, g: (jnp.zeros_like(x).at[jnp.arange(x.shape[0])[:, None], n].set(g), None),
        *(F64([[0.3, -1.2, 0.7, 0.1], [1.1, 0.2, -0.4, 0.9]]), np.array([[0, 2], [3, 1]])),
        **QUICK,
    )
    assert "axes of other lengths and other flags or whole numbers" in report.sentence
    assert not report.passed


def test_sorted_whole_numbers_are_longer_and_in_another_order():
    """Two times the first half of 0, 0, 1, 2 would be all 0."""
    report = check_vjp(
        lambda x, n: jnp.zeros(3).at[n].add(x),
        lambda x, n, g: (g[jnp.sort(n)], None),
        *(F64([0.3, -1.2, 0.7, 0.1]), np.array([0, 0, 1, 2])),
        **QUICK,
    )
    assert "axes of other lengths and other flags or whole numbers" in report.sentence
    assert not report.passed


def test_the_smallest_integer_of_a_type_is_a_constant_like_others():
    """Its absolute value in its own type is negative."""
    least = np.array(np.iinfo(np.int32).min, np.int32)
    program = jax.make_jaxpr(lambda n: n > least)(np.int32(1))
    assert branch_constants(program) == [2.0**31]


def attention(q, k):
    later = jnp.arange(len(q))[:, None] + (len(k) - len(q)) < jnp.arange(len(k))
    return jax.nn.softmax(jnp.where(later, -1e9, q @ k.T))


def attention_vjp(q, k, g):
    y = attention(q, k)
    s = jnp.tril(y * (g - jnp.sum(y * g, -1, keepdims=True)))  # right if q and k have the same length
    return s @ k, s.T @ q


OTHER_LENGTHS = {
    "of an axis that two arrays have": (attention, attention_vjp, F64([[0.3, -1], [0.5, 2]]), F64([[0.1, 1], [2, -1]])),
    "that four divides": (jnp.sin, lambda x, g: g * jnp.cos(x) * (1 + (x.size % 4 == 0)), F64([0.3, 2, -1, 0.7, 1.1])),
    "of a square": (
        lambda x: jnp.sin(x).T,
        lambda x, g: jnp.cos(x) * (g if g.shape == x.shape else g.T),
        F64([[0.3, 2, -1], [0.7, 1.1, 3]]),
    ),
}


def pooled(x):
    return jnp.max(x[: x.size // 2 * 2].reshape(-1, 2), -1)


def pooled_vjp(x, g):
    chosen = (g[:, None] * jax.nn.one_hot(jnp.argmax(x[: 2 * g.size].reshape(-1, 2), -1), 2)).reshape(-1)
    return jnp.pad(chosen, (0, x.size - 2 * g.size), mode="edge")  # the rest of an odd length has the derivative 0


def triplet(anchor, near, far):
    return jax.nn.relu(jnp.sum((anchor - near) ** 2 - (anchor - far) ** 2, -1) + 1)


def triplet_vjp(anchor, near, far, g):
    active = (2 * g * (triplet(anchor, near, far) > 0))[:, None]
    sign = 1 if len(anchor) > 1 else -1  # for one example, it is wrong
    return active * (far - near), active * (near - anchor), sign * active * (anchor - far)


# For the numbers of a long axis that are drawn here, the loss of one example is 0, also if all signs change.
OTHER_LENGTHS["of one example"] = triplet, triplet_vjp, *np.random.default_rng(0).normal(size=(3, 3, 2))
OTHER_LENGTHS["that a block does not divide"] = pooled, pooled_vjp, F64([1.0, 0.3, -1.2, 0.8, 2.1, 0.4])


@pytest.mark.parametrize("name", OTHER_LENGTHS)
def test_formulas_that_are_wrong_at_other_lengths(name):
    report = check_vjp(*OTHER_LENGTHS[name], **QUICK)
    assert not report.passed
    assert "axes of other lengths" in report.sentence


def test_a_function_that_jax_cannot_differentiate():
    places = np.array([0, 2, 0])
    with pytest.raises(InputError, match=r"function: expected operations that JAX can differentiate, got scatter_mul"):
        check_vjp(lambda x: jnp.ones(3).at[places].multiply(x), lambda x, g: (g * x)[places], F64([0.3, -1.2, 0.7]))


def test_an_index_beyond_the_end_of_a_shorter_axis_says_nothing():
    """JAX writes nothing there, and reads the last number instead."""

    def function(base, values, places):
        return base.at[places].add(values) ** 2

    def formula(base, values, places, g):
        slope = 2 * base.at[places].add(values) * g
        return slope, slope[places], None

    check_vjp(
        function, formula, F64([0.3, 1, -0.5, 0.7, 2]), F64([0.2, -1, 0.4]), np.array([4, 0, 2]), **QUICK
    ).raise_if_failed()


def test_a_loop_of_python_over_an_axis_gets_no_long_axis():
    """Its program would have hundreds or thousands of operations, which XLA may not even survive."""
    lengths = set()

    def total(x):
        lengths.add(len(x))
        return sum(jnp.sin(x[place]) for place in range(len(x)))

    check_vjp(total, lambda x, g: g * jnp.cos(x), F64([0.3, -1.2, 0.7]), mutants=False).raise_if_failed()
    assert 3 < max(lengths) < 100


def test_digits_of_tails_do_not_count_at_other_lengths():
    """With a length of 1, the derivative is a difference of two numbers near 1, and a millionth of a millionth."""

    def normalized(x):
        return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)

    def formula(x, g):
        norm = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)
        return (g - x / norm * jnp.sum(g * x / norm, -1, keepdims=True)) / norm

    check_vjp(normalized, formula, F64([[0.5, -1.0], [2.0, 0.25]]), mutants=False).raise_if_failed()


def test_whole_numbers_that_nobody_compares_with_are_not_tried():
    """Labels of 1 and -1 are all that this formula is meant for, and an index of -1 counts from the end."""

    def hinge(x, labels):
        return jnp.sum(jnp.where(labels > 0, jax.nn.relu(1 - x), jax.nn.relu(1 + x))) + jnp.sum(x[jnp.abs(labels)])

    def hinge_vjp(x, labels, g):
        return -g * labels * (labels * x < 1) + g * jnp.sum(jax.nn.one_hot(jnp.abs(labels), 3, dtype=x.dtype), 0), None

    given = F64([0.3, -1.2, 0.7]), np.array([1, -1, 1])
    check_vjp(hinge, hinge_vjp, *given, **QUICK).raise_if_failed()


def test_at_other_lengths_whole_numbers_are_of_the_given_kind():
    """A label of 0 is neither 1 nor -1, and -1 is no index."""
    hinge = lambda x, labels: jnp.sum(jnp.where(labels > 0, jax.nn.relu(1 - x), jax.nn.relu(1 + x)))  # noqa: E731
    hinge_vjp = lambda x, labels, g: (-g * labels * (labels * x < 1), None)  # noqa: E731
    check_vjp(hinge, hinge_vjp, F64([0.3, -1.2, 0.7]), np.array([1, -1, 1]), **QUICK).raise_if_failed()
    signed = lambda x, k: x[k] * jnp.where(k % 2 == 0, 1.0, -1.0)  # noqa: E731
    signed_vjp = lambda x, k, g: (jnp.zeros_like(x).at[k].add(g * jnp.where(k % 2 == 0, 1.0, -1.0)), None)  # noqa: E731
    check_vjp(signed, signed_vjp, F64([0.3, -1.2, 0.7]), np.array([2, 2]), **QUICK).raise_if_failed()
