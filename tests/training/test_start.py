"""Training that starts from given parameters or from a train state, and loops of one's own."""

import jax
import numpy as np
import optax
import pytest
from tests.training import small_run
from tests.training.small_run import ADAM, DATA, DEEP, LABELS, X, bits

import functional_nn as fnn

KEY = jax.random.key(0)


def fit(**options):
    return small_run.fit(DEEP, optimizer=ADAM, **{"epochs": 2, **options})


def test_two_runs_of_two_epochs_are_one_run_of_four():
    whole, first = fit(epochs=4), fit()
    rest = fit(start=first.train_state)
    assert bits(rest) == bits(whole)
    assert [metrics.train_loss for metrics in (*first.history, *rest.history)] == [
        metrics.train_loss for metrics in whole.history
    ]
    assert rest.seconds["compile"] == 0


@pytest.mark.parametrize("options", [{"precision": "float16"}, {"non_finite": "skip"}])
def test_skipped_steps_do_not_make_a_continued_run_repeat_an_order(options):
    """In float16, the first scale is too large for these labels. Otherwise one example is not finite."""
    x, y = X[:40].copy(), 1000 * X[:40, :1]
    if "precision" not in options:
        x[5] = np.nan
    data = fnn.data.Split(x, y)

    def run(**more):
        return small_run.fit(fnn.dense(1), fnn.mean_squared_error, small_run.RULE, data, **options, **more)

    whole, first = run(epochs=2), run(epochs=1)
    assert first.history[0].skipped_steps > 0
    rest = run(epochs=1, start=first.train_state)
    assert rest.history[0].train_loss == whole.history[1].train_loss
    assert bits(rest) == bits(whole)


def test_parameters_and_state_begin_a_new_run():
    trained = fit()
    again = fit(start=(trained.params, trained.state), seed=3)
    assert again.train_state.step == 4
    assert again.history[0].train_loss < fit(seed=3).history[0].train_loss
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (trained.params, trained.state))
    assert bits(fit(start=wide, seed=3)) == bits(again)


def test_make_train_refuses_what_it_cannot_use():
    train = fnn.training.make_train(DEEP, ADAM)
    for hyperparameters, data, said in (
        ({}, DATA._replace(test_x=None, test_labels=None), "data: expected validation or test examples"),
        ({"steps": 3.0, "epochs": 7}, DATA, "hyperparameters: expected .*, got epochs, steps"),
    ):
        with pytest.raises(fnn.InputError, match=said):
            train(hyperparameters, KEY, data)


def test_a_sweep_starts_from_parameters():
    trained = fit(epochs=5)
    start = (trained.params, trained.state)
    members = fnn.grid(learning_rate=[1e-3, 1e-2], seed=[0])
    rule = lambda h: optax.sgd(h["learning_rate"])  # noqa: E731
    new = fit().history[0].train_loss
    for given in (start, lambda h: start):
        result = fnn.sweep(DEEP, rule, members, DATA, epochs=1, batch_size=20, start=given)
        assert all(member.curves["train_loss"][0] < new for member in result.members)


def test_what_is_no_train_state_of_the_run_is_named():
    run = fit(epochs=1)
    state = run.train_state
    other_key = state._replace(key=jax.random.key(0, impl="rbg"))
    for start, words in (
        (7, "start: expected a TrainState, or a pair"),
        (run, r"^start: expected a TrainState.*Write run\.train_state"),
        ((7, {}), "params: expected"),
        (({"dense_0": {"weight": np.zeros((2, 2))}}, {}), "start: expected the arrays that the network and the optimi"),
        (state._replace(step=0), "^start: step: expected an array, got 0"),
        (state._replace(optimizer_state=()), r"optimizer_state.*To change the optimizer, give \(params, state\)"),
    ):
        with pytest.raises(fnn.InputError, match=words):
            fit(start=start)
        with pytest.raises(fnn.InputError, match=words):
            fnn.training.create_train_state(DEEP, ADAM, KEY, (5,), start=start)
    with pytest.raises(fnn.InputError, match=r"start: expected a key of type key<fry>, got key<rbg>\. Set jax_default"):
        fit(start=other_key)
    assert fnn.training.create_train_state(DEEP, ADAM, KEY, (5,), start=other_key) is other_key


def test_a_checkpoint_of_a_run_from_another_start_is_refused(tmp_path):
    first = fit()
    fit(start=first.train_state, checkpoints=tmp_path)
    assert fit(start=first.train_state, checkpoints=tmp_path, epochs=3).restored_epochs == 2
    with pytest.raises(fnn.InputError, match="start"):
        fit(start=(first.params, first.state), checkpoints=tmp_path)


def test_a_loop_of_one_s_own_takes_the_step_of_fit():
    step = jax.jit(fnn.training.make_train_step(DEEP, fnn.cross_entropy, ADAM))
    first = fnn.training.create_train_state(DEEP, ADAM, KEY, (5,))

    def loss(params, state, key):
        y, state = DEEP.apply(params, state, X, train=True, key=key)
        return fnn.cross_entropy(y, LABELS), state

    @jax.jit
    def own_step(train_state):
        key = fnn.training.state.derived_key(train_state.key, "noise", 0)
        gradient, state = jax.grad(loss, has_aux=True)(train_state.params, train_state.state, key)
        assert train_state.apply_gradient(gradient, ADAM).state is train_state.state
        return train_state.apply_gradient(gradient, ADAM, state)

    own, expected = own_step(first), step(first, X, LABELS)[0]
    assert own.step == expected.step == 1
    for a, b in zip(jax.tree.leaves(own._replace(key=None)), jax.tree.leaves(expected._replace(key=None)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
