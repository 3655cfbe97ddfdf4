"""Activations in units in the last place: every exponent of float32, and errors planted in the checker."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.activations.activation_types import Activation
from functional_nn.gradients.compare.activations import FORMULAS, check_activation
from functional_nn.gradients.exact_numbers import ExactNumbers, ulp_errors

ACTIVATIONS = [value for value in fnn.activations.ACTIVATIONS.values() if isinstance(value, Activation)]
PARAMETRIC = [fnn.activations.leaky_relu_with(0.2), fnn.activations.elu_with(1.7)]
SMALLEST = float(np.finfo(np.float32).smallest_normal)


def by_name(activation):
    return activation.name


def test_every_regime_and_kind_is_compared():
    verdicts = check_activation(fnn.hard_tanh).verdicts
    assert {verdict.kind for verdict in verdicts} == {"value", "vjp"}
    assert {"normal", "tails", "±0", "subnormal", "huge", "kinks", "beside kinks"} == {v.regime for v in verdicts}


@pytest.mark.parametrize("name", ["sigmoid", "mish"])
def test_float64_from_the_tails_to_the_zeros(name):
    assert check_activation(fnn.activations.ACTIVATIONS[name], "float64").passed


# All numbers of float32, against float64, which is checked in many digits


def compiled(function, fused=True):
    """As processors with fused multiply-adds run it, or with each operation rounded by itself."""
    level = {"xla_backend_optimization_level": 3 if fused else 0, "xla_llvm_disable_expensive_passes": False}
    return jax.jit(function, compiler_options=level)


def is_normal(x):
    return jnp.isfinite(x) & (jnp.abs(x) >= SMALLEST)


@jax.jit
def numbers_of(bits):
    """The numbers of float32 with these bits, and how many of them are normal."""
    x = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return x, is_normal(x).sum()


@jax.jit
def largest_error(x, exact, found):
    """In ULP, and where it is. The rules are those of ``gradients.compare.activations``."""
    found = found.astype(jnp.float64)
    size = jax.lax.bitcast_convert_type(jnp.maximum(jnp.abs(exact), SMALLEST), jnp.int64) >> 52
    per_unit = jax.lax.bitcast_convert_type((2 * 1023 + 23 - size) << 52, jnp.float64)
    error = jnp.where(jnp.maximum(jnp.abs(exact), jnp.abs(found)) < SMALLEST, 0, jnp.abs(found - exact) * per_unit)
    error = jnp.where(is_normal(x), jnp.where(jnp.isnan(error), jnp.inf, error), 0)
    return error.max(), x[error.argmax()]


def worst_in_float32(activation, derivatives, patterns):
    """The largest error of each derivative in ULP over float32 numbers given by their bits, and where it is."""
    exactly = compiled(lambda x: activation.derivative(x.astype(jnp.float64)))
    worst, count = [(0.0, 0.0)] * len(derivatives), 0
    with jax.numpy_dtype_promotion("standard"):
        for bits in patterns:
            x, normal = numbers_of(bits)
            exact = exactly(x)
            count += int(normal)
            for number, derivative in enumerate(derivatives):
                found = tuple(map(float, largest_error(x, exact, derivative(x))))
                worst[number] = max(worst[number], found)
    return worst, count


@pytest.mark.parametrize("activation", [*ACTIVATIONS, *PARAMETRIC], ids=by_name)
def test_every_exponent_of_float32(activation, float64):
    exponents = np.arange(1, 255, dtype=np.uint32)[:, None] << 23
    mantissas = np.random.default_rng(0).integers(0, 1 << 23, (254, 100), dtype=np.uint32)
    positive = (exponents | mantissas).reshape(-1)
    patterns = [np.concatenate([positive, positive | np.uint32(1 << 31)])]
    derivatives = [compiled(activation.derivative, fused) for fused in (True, False)]
    found, count = worst_in_float32(activation, derivatives, patterns)
    assert count == 2 * 254 * 100
    for worst, where in found:
        assert worst <= 4, where


@pytest.mark.slow
@pytest.mark.parametrize("activation", [*ACTIVATIONS, *PARAMETRIC], ids=by_name)
def test_all_of_float32(activation, float64):
    """Run it once more with XLA_FLAGS=--xla_cpu_max_isa=AVX, the last instruction set without fused multiply-adds."""

    size = 1 << 20
    patterns = (np.arange(start, start + size, dtype=np.uint32) for start in range(0, 1 << 32, size))
    derivatives = compiled(activation.derivative), compiled(jax.vmap(jax.grad(activation)))
    [(worst, where), (automatic, automatic_where)], count = worst_in_float32(activation, derivatives, patterns)
    print(f"{activation.name}: at most {worst:.3f} ULP, at {where!r};", end=" ")
    print(f"jax.grad {automatic:.3g} ULP, at {automatic_where!r}")
    assert count == 2 * 254 << 23
    assert worst <= 4, where


# The rules of the errors


@pytest.mark.parametrize(
    ("computed", "exact", "error"),
    [
        (1.0 - 2.0**-24, 1.0, 0.5),
        (0.0, 2.0**-126, 2.0**23),
        (2.0**-126, 0.0, 2.0**23),
        (np.inf, 1e39, 0.0),
        (np.inf, 1.0, np.inf),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.nan),
    ],
)
def test_ulp_errors(computed, exact, error):
    numbers = ExactNumbers(np.float64([exact]), np.zeros(1))
    np.testing.assert_equal(ulp_errors(np.float32([computed]), numbers, np.dtype("float32")), [error])


def test_a_subnormal_number_may_be_taken_for_zero():
    kinked = Activation("relu", fnn.relu.function, fnn.relu.derivative)
    for derivative in (0.0, 1.0):
        planted = Activation("relu", fnn.relu.function, lambda x, d=derivative: jnp.full_like(x, d))
        assert check_activation(planted, points={"subnormal": [SMALLEST / 2]}).passed
    assert not check_activation(Activation("relu", kinked.function, lambda x: x + 0.5), points=[SMALLEST / 2]).passed


# Planted errors


@pytest.mark.parametrize(
    ("name", "planted", "regime"),
    [
        ("sigmoid", lambda x: jax.nn.sigmoid(x) * (1 - jax.nn.sigmoid(x)), "tails"),
        ("tanh", lambda x: fnn.tanh.derivative(x) * (1 + 1e-6), "normal"),
        ("hard_tanh", lambda x: ((x > -1) & (x < 1)).astype(x.dtype), "kinks"),
        ("hard_sigmoid", lambda x: fnn.activations.ACTIVATIONS["relu6"].derivative(x + 3) / 6, "beside kinks"),
        ("softsign", lambda x: 1 / (1 + jnp.abs(x)) ** 2 + 1e-30, "huge"),
        ("gelu", lambda x: jnp.where(x == 0, 0.0, fnn.gelu.derivative(x)), "±0"),
    ],
)
def test_planted_errors_are_found_where_they_are(name, planted, regime):
    report = check_activation(Activation(name, fnn.activations.ACTIVATIONS[name].function, planted))
    assert regime in {verdict.regime for verdict in report.failures}
    assert all(verdict.kind != "value" for verdict in report.failures)


def test_a_wrong_function_is_found():
    """The function of a known activation is that of its formula, and is compared with it."""
    formula = FORMULAS["sigmoid"]
    wrong = formula._replace(function=lambda x: formula.function(x) * 1.00001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMULAS, "sigmoid", wrong)
        failures = check_activation(fnn.sigmoid).failures
    assert {verdict.kind for verdict in failures} == {"value", "vjp"}


def test_automatic_differentiation_is_wrong_in_the_tails():
    (verdict,) = [v for v in check_activation(fnn.sigmoid).wrong_automatic if (v.kind, v.regime) == ("vjp", "tails")]
    assert verdict.outcome == "pass"
    assert verdict.automatic_error > 1e6
    assert abs(verdict.hand - verdict.arbiter) < 1e-6 * verdict.arbiter
    assert "x = " in verdict.note


# A user's own activation


def test_an_own_activation_is_compared_with_its_function_in_50_digits():
    right = Activation("own", lambda x: x * jnp.exp(-x * x), lambda x: (1 - 2 * x * x) * jnp.exp(-x * x))
    wrong = Activation("own", right.function, lambda x: (1 - x * x) * jnp.exp(-x * x))
    points = {"normal": [-1.5, 0.3, 2.0]}
    assert check_activation(right, "float64", points).passed
    assert check_activation(right, points=points).passed
    report = check_activation(wrong, points=points)
    assert report.failures
    assert "own" in report.sentence


def test_an_own_kink_is_inconclusive():
    own = Activation("own", lambda x: jnp.maximum(2 * x, x), lambda x: jnp.where(x > 0, 2.0, 1.0).astype(x.dtype))
    report = check_activation(own, points={"kinks": [0.0], "normal": [-1.0, 3.0]})
    assert {v.regime: v.outcome for v in report.verdicts} == {"kinks": "inconclusive", "normal": "pass"}
