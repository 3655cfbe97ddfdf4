"""The checker is broken on purpose, in every part that could accept what is wrong: each time its canary notices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functional_nn.gradients import check
from functional_nn.gradients.compare import comparison, jacobians, report
from functional_nn.gradients.mutation import planting

X = np.random.default_rng(0).normal(size=3).astype(np.float32)


def sine_vjp(x, y_bar):
    return jnp.cos(x) * y_bar


def off_by_a_millionth(x, y_bar):
    return (jnp.cos(x) * y_bar).at[1].multiply(1 + 1e-6)


def wrong_in_float32(x, y_bar):
    return jnp.cos(x) * y_bar * (1.001 if x.dtype == jnp.float32 else 1)


def wrong_at_second_order(x, y_bar):
    return jax.lax.stop_gradient(jnp.cos(x)) * y_bar


def not_a_number(x, y_bar):
    return jnp.cos(x) * y_bar * jnp.nan


@jax.custom_jvp
def sine_with_a_slip(x):
    return jnp.sin(x)


@sine_with_a_slip.defjvp
def sine_with_a_slip_jvp(primals, tangents):
    return jnp.sin(primals[0]), 1.001 * jnp.cos(primals[0]) * tangents[0]


def verdict_on(formula, function=jnp.sin, x=X, **options):
    quick = {"second_order": False, "mutants": False} | options
    return check.check_vjp(function, formula, x, **quick)


def canary_of_the_right():
    assert verdict_on(sine_vjp).passed


def canary_of_a_millionth():
    assert not verdict_on(off_by_a_millionth).passed


def canary_of_the_tail():
    """All terms of 1 - tanh² are about 1, and the derivative at 17 is 7e-15. The sign is wrong there only."""
    in_tail = np.array([17.0])
    assert not verdict_on(lambda x, y_bar: jnp.sign(16 - x) * y_bar / jnp.cosh(x) ** 2, jnp.tanh, in_tail).passed
    assert verdict_on(lambda x, y_bar: y_bar / jnp.cosh(x) ** 2, jnp.tanh, in_tail).passed


def canary_of_types():
    assert not verdict_on(wrong_in_float32).passed


def canary_of_second_order():
    assert not verdict_on(wrong_at_second_order, second_order=True).passed


def canary_of_nan():
    assert verdict_on(not_a_number).verdicts[0].outcome == "fail"


def canary_of_the_arbiter():
    """Formula and automatic differentiation agree, and both are wrong."""
    assert not verdict_on(lambda x, y_bar: 1.001 * sine_vjp(x, y_bar), sine_with_a_slip).passed


def canary_of_kinks():
    relu_vjp = lambda x, y_bar: jnp.where(x > 0, y_bar, jnp.zeros_like(x))  # noqa: E731
    found = verdict_on(relu_vjp, jax.nn.relu, np.array([0.0, 1.0, -2.0]))
    assert found.verdicts[0].outcome == "inconclusive"


def canary_of_planting():
    found = verdict_on(sine_vjp, mutants=True)
    assert found.mutants > 12
    assert found.passed


def canary_of_planting_in_vain():
    """What no one can find has to be reported as not found."""
    found = verdict_on(lambda x, y_bar: sine_vjp(x, y_bar) + 0 * jnp.exp(x), mutants=True)
    assert found.survivors
    assert not found.passed


CANARIES = [value for name, value in list(globals().items()) if name.startswith("canary_of")]


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.__name__)
def test_canaries_live(canary):
    canary()


def none_of(mutants):
    return np.zeros(len(mutants), bool), np.zeros(len(mutants), bool)


def all_of(mutants):
    return np.ones(len(mutants), bool), np.ones(len(mutants), bool)


def without_an_error(reference):
    return reference._replace(error=[np.zeros_like(error) for error in reference.error])


BREAKS = [
    # place, name, what takes its place (made of the original), the canary that dies of it
    (comparison, "judge", lambda judge: lambda *_: "pass", canary_of_a_millionth),
    (comparison, "judge", lambda judge: lambda *_: "pass", canary_of_nan),
    (comparison, "judge", lambda judge: lambda error, its, most: judge(error, 0.0, most), canary_of_kinks),
    (comparison, "judge", lambda judge: lambda error, its, most: judge(error, its, 0.0), canary_of_the_right),
    (comparison, "relative_error", lambda share: lambda *a: 0 * share(*a), canary_of_a_millionth),
    (comparison, "relative_error", lambda share: lambda *a: share(*a) + 1e-6, canary_of_the_right),
    (
        comparison,
        "relative_error",
        lambda share: lambda *a: np.nan_to_num(share(*a), nan=0.0),
        canary_of_nan,
    ),
    (jacobians, "absolute_terms", lambda terms: lambda *a: scaled(terms(*a), 1e9), canary_of_planting),
    (jacobians, "rounding", lambda size: lambda *a: scaled(size(*a), 1e12), canary_of_planting),
    (comparison, "TOLERANCES", lambda known: known | {"float64": 1e-5}, canary_of_a_millionth),
    (comparison, "TOLERANCES", lambda known: known | {"float32": 1.0}, canary_of_types),
    (comparison, "ALLOWED", lambda _: 10.0, canary_of_the_tail),
    (comparison, "sensitivity", lambda size: lambda *a: size(*a) + 1, canary_of_the_tail),
    (comparison, "SECOND_ORDER_TOLERANCE", lambda _: 10.0, canary_of_second_order),
    (
        comparison,
        "reference_jacobian",
        lambda reference_jacobian: unasked(reference_jacobian),
        canary_of_the_arbiter,
    ),
    (
        comparison,
        "reference_jacobian",
        lambda ask: lambda *a, **k: without_an_error(ask(*a, **k)),
        canary_of_kinks,
    ),
    (comparison.JacobianComparison, "in_type", lambda _: lambda *_, **__: [], canary_of_types),
    (comparison.JacobianComparison, "second_order", lambda _: lambda *_: [], canary_of_second_order),
    (comparison.JacobianComparison, "first_order", lambda _: lambda *_, **__: [], canary_of_the_arbiter),
    (
        comparison.JacobianComparison,
        "killed",
        lambda _: lambda self, all, *_: none_of(all),
        canary_of_planting,
    ),
    (
        comparison.JacobianComparison,
        "killed",
        lambda _: lambda self, all, *_: all_of(all),
        canary_of_planting_in_vain,
    ),
    (planting, "mutate", lambda mutate: lambda *a, **_: mutate(*a, limit=0), canary_of_planting),
    (report.Report, "failures", lambda _: (), canary_of_a_millionth),
    (report.Report, "unexplained", lambda _: (), canary_of_planting_in_vain),
]


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def unasked(reference_jacobian):
    """An arbiter that gives no element an answer, so that automatic differentiation is taken for the truth."""

    def reference_to_nothing(function, leaves, doubts, **options):
        reference = reference_jacobian(function, leaves, doubts, **options)
        nothing = [np.zeros((value.shape[0], 0)) for value in reference.values]
        no_kink = [value.astype(bool) for value in nothing]
        columns = [np.zeros(0, int)] * len(leaves)
        return reference._replace(columns=columns, values=nothing, error=nothing, kink=no_kink)

    return reference_to_nothing


@pytest.mark.parametrize(("place", "name", "broken", "canary"), BREAKS)
def test_a_broken_checker_is_noticed(monkeypatch, place, name, broken, canary):
    monkeypatch.setattr(place, name, broken(getattr(place, name)))
    with pytest.raises(AssertionError):
        canary()
