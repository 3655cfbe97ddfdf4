"""Optax's rules and schedules by name, clipping, and transformations by path."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn


@pytest.mark.parametrize("name", fnn.training.OPTIMIZERS)
def test_the_learning_rate_may_be_traced(name):
    """One program serves all rates: what a sweep needs."""

    @jax.jit
    def update(rate):
        rule = fnn.training.optimizer(name, rate)
        return rule.update(jnp.ones(2), rule.init(jnp.zeros(2)), jnp.zeros(2))[0]

    np.testing.assert_allclose(update(0.2), 2 * update(0.1), rtol=1e-5)


def test_momentum_is_the_textbook_rule():
    """v ← 0.9 v + g, w ← w - η v; Nesterov's looks one step ahead."""
    for name, second in (("momentum", 1.9), ("nesterov", 0.9 * 1.9 + 1)):
        rule = fnn.training.optimizer(name, 0.1)
        _, state = rule.update(jnp.array(1.0), rule.init(jnp.array(0.0)))
        updates, _ = rule.update(jnp.array(1.0), state)
        np.testing.assert_allclose(updates, -0.1 * second, rtol=1e-6)


@pytest.mark.parametrize("name", fnn.training.SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_schedules_stay_finite_and_below_their_largest_rate(name, steps):
    rates = np.array([fnn.training.schedule(name, 0.1, steps)(number) for number in range(min(steps, 50))])
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert rates.max() <= 0.1 * (1 + 1e-6)


def test_schedules_end_where_they_say():
    ends = {name: float(fnn.training.schedule(name, 0.1, 100)(99)) for name in fnn.training.SCHEDULES}
    assert np.isclose(ends["constant"], 0.1)
    assert np.isclose(ends["step"], 1e-3)
    assert ends["cosine"] < 1e-4
    assert ends["one-cycle"] < 1e-3
    one_cycle = [float(fnn.training.schedule("one-cycle", 0.1, 100)(number)) for number in (0, 30)]
    np.testing.assert_allclose(one_cycle, [0.1 / 25, 0.1], rtol=1e-3)


def test_wrong_names_and_counts_are_answered():
    with pytest.raises(fnn.InputError, match="Did you mean adam"):
        fnn.training.optimizer("adm", 0.1)
    with pytest.raises(fnn.InputError, match="Did you mean cosine"):
        fnn.training.schedule("cosin", 0.1, 10)
    with pytest.raises(fnn.InputError, match="steps: expected a positive integer"):
        fnn.training.schedule("cosine", 0.1, 0)


PARAMS = {
    "dense_0": {"weight": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "bias": jnp.array([30.0, 40.0])},
    "neuron_0": {"weight": jnp.array([3.0, 4.0]), "bias": jnp.array(9.0)},
}


def test_a_mask_of_patterns_and_of_functions():
    weights = {"weight": True, "bias": False}
    assert fnn.training.path_mask()(PARAMS) == {"dense_0": weights, "neuron_0": weights}
    chosen = {"dense_0": {"weight": False, "bias": True}, "neuron_0": {"weight": True, "bias": True}}
    assert fnn.training.path_mask(["*bias", "neuron_0/*"])(PARAMS) == chosen
    assert fnn.training.path_mask(lambda path: path != "dense_0/weight")(PARAMS) == chosen
