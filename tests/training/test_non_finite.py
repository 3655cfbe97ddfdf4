"""Policies for what is not finite, clipping, and what counts both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.training import small_run

import functional_nn as fnn
from functional_nn.training.epoch import shuffled
from functional_nn.training.precision import FIRST_SCALE
from functional_nn.training.state import derived_key


def make_data(bad=(), value=np.inf):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 5)).astype(np.float32)
    labels = np.argmax(x[:, :3], axis=1).astype(np.int32)
    for row in bad:
        x[row] = value
    return fnn.data.Split(x, labels)


def fit(data, optimizer=small_run.RULE, **options):
    return small_run.fit(optimizer=optimizer, data=data, **{"batch_size": 4, **options})


# Policies


@pytest.mark.usefixtures("no_search")
def test_bad_steps_end_the_run_or_are_left_out_and_counted():
    """What comes back is what all good steps lead to, found by a loop of our own."""
    net, optimizer = small_run.NET, small_run.RULE
    data = make_data(bad=(17, 23), value=np.nan)
    stopped, run = fit(data), fit(data, non_finite="skip")
    assert (stopped.status, len(stopped.history)) == ("non-finite", 1)
    assert (run.status, run.message, len(run.history)) == ("finished", "", 3)
    step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, optimizer))
    state = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (5,))
    for epoch in range(3):
        order = np.asarray(shuffled(derived_key(jax.random.key(0), "shuffle", epoch), 40)).reshape(10, 4)
        bad = [{17, 23} & set(rows.tolist()) != set() for rows in order]
        for rows, is_bad in zip(order, bad, strict=True):
            if not is_bad:
                state, _ = step(state, data.train_x[rows], data.train_labels[rows])
        assert run.history[epoch].skipped_steps == sum(bad)
        if epoch == 0:
            assert f"at step {bad.index(True)} of epoch 1" in stopped.message
            np.testing.assert_allclose(stopped.params["weight"], state.params["weight"], rtol=1e-4)
            assert stopped.train_state.step == state.step
    np.testing.assert_allclose(run.params["weight"], state.params["weight"], rtol=1e-4)
    assert run.train_state.step == state.step == 30 - sum(metrics.skipped_steps for metrics in run.history)


@pytest.mark.usefixtures("no_search")
def test_skip_ends_where_every_step_is_bad():
    run = fit(make_data(bad=range(40)), non_finite="skip")
    assert (run.status, len(run.history), run.history[0].skipped_steps) == ("non-finite", 1, 10)
    assert "at step 0 of epoch 1" in run.message
    assert run.train_state.step == 0


# Clipping


def clipped(gradient, limit=1.0, dtype=jnp.float32):
    gradient = {"a": jnp.asarray(gradient[:1], dtype), "b": jnp.asarray(gradient[1:], dtype)}
    rule = fnn.training.with_clipping(optax.sgd(1.0, momentum=0.5), limit)
    state = rule.init(gradient)
    updates, state = jax.jit(rule.update)(gradient, state, gradient)
    return np.concatenate([updates["a"], updates["b"]]), state


@pytest.mark.parametrize(("norm", "limit"), [(5.0, 0.5), (5.0, 5.0), (0.0, 1.0), (3e38, 1e38), (1e-36, 5e-37)])
def test_gradients_are_cut_to_the_limit(norm, limit):
    updates, state = clipped([norm * 0.6, 0.0, norm * -0.8], limit)
    np.testing.assert_allclose(updates, np.array([-0.6, 0, 0.8]) * min(norm, limit), rtol=1e-5)
    assert (state.clipped_steps, state.skipped_steps) == (int(limit < norm), 0)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_clipping_a_gradient_that_is_not_finite_skips_and_counts(bad):
    rule = fnn.training.with_clipping(optax.adam(0.1), 1.0)
    params = {"w": jnp.ones(3)}
    state = rule.init(params)
    _, before = rule.update({"w": jnp.array([1.0, 2.0, 3.0])}, state, params)
    updates, after = rule.update({"w": jnp.array([1.0, bad, 3.0])}, before, params)
    assert updates["w"].tolist() == [0, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, after.optimizer_state, before.optimizer_state)
    assert (after.clipped_steps, after.skipped_steps) == (1, 1)


def test_clipping_in_float64_and_bfloat16(float64):
    updates, _ = clipped([3e200, 0.0, -4e200], 1.0, jnp.float64)
    np.testing.assert_allclose(updates, [-0.6, 0, 0.8], rtol=1e-15)
    updates, _ = clipped([3.0, 0.0, -4.0], 1.0, jnp.bfloat16)
    np.testing.assert_allclose(updates.astype(np.float32), [-0.6, 0, 0.8], rtol=1e-2)


def test_clipped_steps_are_reported_epoch_by_epoch():
    data = make_data()
    every, none = (fit(data, fnn.training.with_clipping(optax.sgd(0.1), limit)) for limit in (1e-3, 1e3))
    assert [metrics.clipped_steps for metrics in every.history] == [10] * 3
    assert [metrics.clipped_steps for metrics in none.history] == [0] * 3
    bare = fit(data)  # another program, in which other multiplications and additions are fused
    np.testing.assert_allclose(none.params["weight"], bare.params["weight"], rtol=1e-5)


# Loss scaling


def test_a_bad_step_is_counted_once_when_the_scale_is_exhausted():
    """The gradient of one example is always infinite. Each epoch, its step halves the scale, until 1 is reached."""

    @jax.custom_vjp
    def loss(y, labels):
        return jnp.mean(y**2)

    def backward(residuals, bar):
        y, labels = residuals
        return jnp.where(jnp.any(labels == 1), jnp.inf, bar * y), None

    loss.defvjp(lambda y, labels: (loss(y, labels), (y, labels)), backward)
    data = fnn.data.Split(np.ones((4, 2), np.float32), np.array([0, 0, 1, 0], np.int32))
    options = {"epochs": 18, "batch_size": 1, "precision": "float16", "non_finite": "skip"}
    run = fnn.fit(fnn.dense(2), loss, optax.sgd(0.01), data, **options)
    assert [metrics.skipped_steps for metrics in run.history] == [1] * 18
    assert run.train_state.loss_scale.scale == 1


def test_loss_scaling_recovers_from_an_overflow_and_reports_it():
    """Too steep at first: the scale falls, the skipped steps are counted, and the run learns on."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    y = np.float32(1000) * x[:, :1]
    data = fnn.data.Split(x, y)
    options = {"epochs": 4, "batch_size": 8, "precision": "float16"}
    run = small_run.fit(fnn.dense(1), fnn.mean_squared_error, optax.adam(0.1), data, **options)
    skipped = [metrics.skipped_steps for metrics in run.history]
    assert run.status == "finished"
    assert skipped[0] > 0
    assert skipped[-1] == 0
    assert sum(skipped) == run.train_state.loss_scale.skipped_steps
    assert run.train_state.loss_scale.scale == FIRST_SCALE / 2.0 ** sum(skipped)
    assert run.train_state.step + sum(skipped) == 4 * 8
    assert run.history[-1].train_loss < run.history[0].train_loss
