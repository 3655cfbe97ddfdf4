"""The search finds planted errors, accuses nothing that is right, and says where each error is."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.gradients import worst
from functional_nn.gradients.exact_numbers import GRADIENT, VALUE, ExactFunction

TYPES = ("float64", "float32")


def rows_of(found):
    return {(row.quantity, row.dtype): row for row in found.rows}


def relative_error(row):
    return abs(row.computed - row.exact) / abs(row.exact)


def test_cancellation_in_a_tail_is_found_in_both_types_and_again():
    def cancels(x):
        return 1 - jnp.tanh(x) ** 2

    found = worst(cancels, evaluations=300)
    rows = rows_of(found)
    for dtype, tail in zip(TYPES, ((17, 30), (7, 30)), strict=True):
        row = rows["value", dtype]
        assert relative_error(row) > 0.9
        assert tail[0] < abs(row.point) < tail[1]
        assert row.computed == pytest.approx(float(1 - np.tanh(np.dtype(dtype).type(row.point)) ** 2), abs=1e-6)
    assert found == worst(cancels, evaluations=300)
    assert found.evaluations == 600
    assert "\n" not in repr(found)


def test_overflow_is_found():
    row = rows_of(worst(lambda x: jnp.exp(x) / (1 + jnp.exp(x)), evaluations=200, dtypes=["float32"]))[
        "value", "float32"
    ]
    assert math.isnan(row.computed)
    assert row.exact == 1
    assert row.error == math.inf


def test_an_error_at_one_exponent_alone_is_found():
    exponent = -37

    def hand_vjp(x, y_bar):
        wrong = (jnp.abs(x) >= 2.0**exponent) & (jnp.abs(x) < 2.0 ** (exponent + 1))
        return 2 * x * y_bar * jnp.where(wrong, 1.001, 1.0)

    rows = rows_of(worst(lambda x: x * x, hand_vjp=hand_vjp, dtypes=["float32"], evaluations=1000))
    row = rows["formula", "float32"]
    assert np.frexp(row.point)[1] == exponent + 1
    assert relative_error(row) == pytest.approx(1e-3, rel=1e-3)
    assert rows["gradient", "float32"].error <= 1


def test_hill_climbing_finds_a_worse_point_than_the_sweep():
    """The error grows towards a point that no sweep has: 1/(x - c)² is large there."""
    center = 0.7391286

    def hand_vjp(x, y_bar):
        return y_bar * (1 + 1e-12 / ((x - center) ** 2 + 1e-12))

    row = rows_of(worst(lambda x: x, hand_vjp=hand_vjp, dtypes=["float64"], evaluations=2500))["formula", "float64"]
    assert relative_error(row) > 0.1
    assert row.point == pytest.approx(center, abs=1e-5)


def fast_wave(x):
    return jnp.sin(1000 * x)


RIGHT = {
    jnp.sin: "float32",
    jnp.abs: "float32",
    jax.nn.hard_sigmoid: "float32",
    jnp.log: "float32",
    fast_wave: "float64",
}


@pytest.mark.parametrize("function", RIGHT, ids=lambda function: function.__name__)
def test_what_is_right_is_not_accused(function):
    """Neither at kinks and beside them, nor at overflow, nor where x has too few digits, as near multiples of π."""
    for row in worst(function, evaluations=500, dtypes=[RIGHT[function]]).rows:
        assert row.excess < 16, row


def test_a_vector_function_is_searched_at_margins_and_ties():
    rows = rows_of(worst(jax.nn.softmax, size=2, evaluations=150, dtypes=["float32"]))
    row = rows["gradient", "float32"]
    assert relative_error(row) == 1
    assert abs(row.point[0] - row.point[1]) > 15
    assert row.index in {(i, j) for i in range(2) for j in range(2)}
    assert rows["value", "float32"].error < 8


def test_an_activation_is_compared_by_its_formula():
    rows = rows_of(worst(fnn.sigmoid, evaluations=300, dtypes=["float32"]))
    assert rows["formula", "float32"].error < 4 < 1e6 < rows["gradient", "float32"].error


REFERENCES = {
    "sigmoid": (jax.nn.sigmoid, lambda x: 1 / (1 + mp.exp(-x)), [-740.0, -40.0, 0.0, 1e-300, 0.3, 40.0, 700.0]),
    "sin": (jnp.sin, mp.sin, [math.pi, 1e10, 1e-30, 1e300]),
    "1 + x": (lambda x: 1 + jnp.exp(x), lambda x: 1 + mp.exp(x), [1e-200, -300.0]),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_exact_numbers_are_those_of_mpmath(name):
    """By another method: Taylor coefficients of mpmath with 1500 digits, which shares nothing with the differences."""
    function, reference, points = REFERENCES[name]
    with jax.enable_x64(True):
        found = ExactFunction(function, None, np.dtype("float64")).at(np.asarray(points)[:, None])
    for place, x in enumerate(points):
        with mp.workdps(1500):
            coefficients = mp.taylor(reference, mp.mpf(x), 1, method="step", h=mp.mpf(10) ** -700)
            for quantity, exact in zip((VALUE, GRADIENT), coefficients, strict=True):
                numbers = found[quantity]
                high, low = numbers.high[place].item(), numbers.low[place].item()
                assert abs(mp.mpf(high) + mp.mpf(low) - exact) <= 1e-18 * abs(exact) + mp.mpf(2) ** -1060, (x, high)
